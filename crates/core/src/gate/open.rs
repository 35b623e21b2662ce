//! The way back: the protected fields of a clean event in clear, for one who holds the keys.
//!
//! Two steps, because the keys are found by the ids that stand in the fields: [`SealedEvent::read`] says which are
//! needed, [`SealedEvent::open`] opens with them. Tokens, years and dropped fields have no way back.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use thiserror::Error;

use crate::crypto::envelope::{Context, FieldKey, OpenError, TooLong, from_base64, key_id_of};
use crate::crypto::token::Token;
use crate::event::{Format, Plan, Protect, Role, Sealed};

/// Why a clean event is not opened. Names the field, never what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not a clean event of its schema.
    #[error("not a clean event of schema `{schema}`: {problem}")]
    NotClean {
        /// The event type.
        schema: String,
        /// What is wrong.
        problem: String,
    },
    /// A sealed field does not open.
    #[error("`{path}`: {problem}")]
    Field {
        /// Where it is in the event.
        path: String,
        /// Why it does not open.
        problem: FieldProblem,
    },
    /// A name or a value does not fit into an encryption context, so nothing was ever sealed with it.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// Why a sealed field does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FieldProblem {
    /// Not a string, which every sealed field is in JSON.
    #[error("not a sealed field: it is not a string")]
    NotText,
    /// Not sealed bytes, or not with this key in this place.
    #[error(transparent)]
    Sealed(#[from] OpenError),
    /// Nobody has the key.
    #[error("there is no key {0}: its subject was shredded, or it belongs to another vault")]
    NoKey(u32),
    /// Its path does not fit into an encryption context, so nothing was ever sealed there.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// It opens, but to no value of the schema.
    #[error("it opens, but not to a value of its type")]
    NotPlain,
}

/// A clean event, and what is needed to open it.
pub struct SealedEvent<'c> {
    plan: &'c Plan,
    event: Value,
    event_id: String,
    subject: Token,
    key_ids: BTreeSet<u32>,
}

/// An event with its PHI in clear. It is printed for the one who asked, and nowhere else.
pub struct OpenedEvent {
    /// The event, in JSON.
    pub event: Value,
    /// How many fields were opened.
    pub fields: usize,
}

impl<'c> SealedEvent<'c> {
    /// Reads a clean event in the given format, without its framing.
    ///
    /// # Errors
    /// [`Refusal`] where it is no clean event, or one of its fields is not sealed.
    pub fn read(plan: &'c Plan, format: Format, datum: &[u8]) -> Result<Self, Refusal> {
        let mut event = plan
            .clean_json(format, datum)
            .map_err(|error| not_clean(plan, error))?;
        let event_id = plan.role(Role::EventId).and_then(|path| text_at(&event, path));
        let event_id = event_id
            .ok_or_else(|| not_clean(plan, "it has no event id"))?
            .to_owned();
        let (mut subject, mut key_ids) = (None, BTreeSet::new());
        visit(plan, &mut event, |leaf| {
            if leaf.role == Some(Role::Subject) {
                subject = leaf
                    .leaf
                    .as_str()
                    .and_then(|token| token.as_bytes().try_into().ok());
            } else if leaf.protect == Protect::Encrypt {
                key_ids.insert(key_id_of(&sealed_bytes(leaf)?)?);
            }
            Ok(())
        })?;
        let subject = subject.ok_or_else(|| not_clean(plan, "it has no subject token"))?;
        Ok(Self {
            plan,
            event,
            event_id,
            subject,
            key_ids,
        })
    }

    /// The ids of the keys that its fields are sealed under.
    pub fn key_ids(&self) -> impl Iterator<Item = u32> {
        self.key_ids.iter().copied()
    }

    /// Opens every sealed field in its place: this environment, this topic, this event and subject, its own path.
    ///
    /// # Errors
    /// [`Refusal`] for the first field that does not open; nothing is then shown of the others.
    pub fn open(
        mut self,
        environment: &str,
        topic: &str,
        keys: &HashMap<u32, FieldKey>,
    ) -> Result<OpenedEvent, Refusal> {
        let mut context = Context::new(environment, topic)?;
        let mut place = context.begin(self.event_id.as_bytes(), &self.subject)?;
        let mut fields = 0;
        visit(self.plan, &mut self.event, |leaf| {
            if leaf.protect != Protect::Encrypt {
                return Ok(());
            }
            let sealed = sealed_bytes(leaf)?;
            let id = key_id_of(&sealed)?;
            let key = keys.get(&id).ok_or(FieldProblem::NoKey(id))?;
            let plain = key.expand().open(place.at(leaf.path.as_bytes())?, &sealed)?;
            let text = std::str::from_utf8(&plain).map_err(|_| FieldProblem::NotPlain)?;
            *leaf.leaf = if leaf.is_text {
                Value::from(text)
            } else {
                serde_json::from_str(text).map_err(|_| FieldProblem::NotPlain)?
            };
            fields += 1;
            Ok(())
        })?;
        Ok(OpenedEvent {
            event: self.event,
            fields,
        })
    }
}

fn not_clean(plan: &Plan, problem: impl ToString) -> Refusal {
    Refusal::NotClean {
        schema: plan.name().to_owned(),
        problem: problem.to_string(),
    }
}

/// The string at a path without arrays and maps.
fn text_at<'v>(event: &'v Value, path: &str) -> Option<&'v str> {
    path.split('.')
        .try_fold(event, |value, name| value.get(name))
        .and_then(Value::as_str)
}

fn sealed_bytes(leaf: &Sealed<'_>) -> Result<Vec<u8>, FieldProblem> {
    Ok(from_base64(leaf.leaf.as_str().ok_or(FieldProblem::NotText)?)?)
}

/// Visits every protected leaf up to the first problem.
fn visit(
    plan: &Plan,
    event: &mut Value,
    mut each: impl FnMut(&mut Sealed<'_>) -> Result<(), FieldProblem>,
) -> Result<(), Refusal> {
    let mut result = Ok(());
    plan.visit_sealed(event, |mut leaf| {
        if result.is_ok() {
            result = each(&mut leaf).map_err(|problem| Refusal::Field {
                path: leaf.path.to_owned(),
                problem,
            });
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crypto::envelope::Nonce;
    use crate::crypto::keys::Key32;
    use crate::event::{self, Catalog, Source};

    const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";
    const TOKEN: &str = "c3ViamVjdC10b2tlbi0xMg";

    fn catalog() -> Catalog {
        let config = event::Config::default();
        let text = include_str!("../../../../schemas/biometric_event.avsc").to_owned();
        Catalog::compile(
            &[Source {
                name: config.default_event.clone(),
                text,
            }],
            &config,
        )
        .expect("the default event")
    }

    fn key(byte: u8) -> FieldKey {
        FieldKey::new(7, Key32::random([byte; 32]))
    }

    fn sealed(path: &str, plain: &str) -> Value {
        let mut context = Context::new("local", "clean").expect("short");
        let mut place = context
            .begin(ID.as_bytes(), TOKEN.as_bytes().try_into().expect("22"))
            .expect("short");
        let aad = place.at(path.as_bytes()).expect("short");
        let mut bytes = Vec::new();
        key(7)
            .expand()
            .seal_into(Nonce::from_random([1; 12]), aad, plain.as_bytes(), &mut bytes)
            .expect("fresh");
        base64_simd::STANDARD.encode_to_string(bytes).into()
    }

    fn clean() -> Value {
        json!({
            "event_id": ID, "device_id": "ZGV2aWNlLXRva2VuLTAwMQ",
            "subject": {"id": TOKEN, "name": sealed("subject.name", "Jane \"J\" Roe"), "mrn": null, "birth_date": "1984"},
            "recorded_at": "2026-11-22T16:44:01Z", "firmware": "2.1.0", "model": "band-3",
            "location": {"latitude": sealed("location.latitude", "59.33"), "longitude": sealed("location.longitude", "18")},
            "readings": [], "note": sealed("note", "")
        })
    }

    fn open(event: &Value, topic: &str, key: FieldKey) -> Result<Value, Refusal> {
        let catalog = catalog();
        let plan = &catalog.plans()[0];
        let read = SealedEvent::read(plan, Format::Json, event.to_string().as_bytes())?;
        assert_eq!(read.key_ids().collect::<Vec<_>>(), [7]);
        read.open("local", topic, &[(7, key)].into())
            .map(|opened| opened.event)
    }

    fn problem(result: Result<Value, Refusal>) -> (String, FieldProblem) {
        match result {
            Err(Refusal::Field { path, problem }) => (path, problem),
            other => panic!("a field is refused, not {other:?}"),
        }
    }

    #[test]
    fn an_event_opens_to_what_was_sealed() {
        let opened = open(&clean(), "clean", key(7)).expect("in its place");
        assert_eq!(opened["subject"]["name"], "Jane \"J\" Roe");
        assert_eq!(opened["location"], json!({"latitude": 59.33, "longitude": 18}));
        assert_eq!(opened["note"], "");
        assert_eq!(opened["subject"]["id"], TOKEN);
        assert_eq!(opened["subject"]["birth_date"], "1984");
    }

    #[test]
    fn what_was_moved_or_altered_is_refused_by_its_path() {
        let refused = FieldProblem::Sealed(OpenError::Refused);
        let first = ("subject.name".to_owned(), refused);
        assert_eq!(problem(open(&clean(), "elsewhere", key(7))), first);
        assert_eq!(problem(open(&clean(), "clean", key(8))), first);
        for (pointer, other) in [
            ("/event_id", "0192f0c1-2345-7abc-8def-0123456789ac"),
            ("/subject/id", "b3RoZXItc3ViamVjdC0xMg"),
        ] {
            let mut event = clean();
            *event.pointer_mut(pointer).expect("there") = other.into();
            assert_eq!(problem(open(&event, "clean", key(7))), first, "{pointer}");
        }
        let mut event = clean();
        event["note"] = event["subject"]["name"].take();
        assert_eq!(
            problem(open(&event, "clean", key(7))),
            ("note".to_owned(), refused)
        );
        let mut event = clean();
        event["note"] = "in clear".into();
        assert_eq!(
            problem(open(&event, "clean", key(7))),
            ("note".to_owned(), OpenError::Base64.into())
        );
        event["note"] = 7.into();
        assert_eq!(
            problem(open(&event, "clean", key(7))),
            ("note".to_owned(), FieldProblem::NotText)
        );
    }

    #[test]
    fn a_key_that_is_gone_is_named() {
        let catalog = catalog();
        let read = SealedEvent::read(&catalog.plans()[0], Format::Json, clean().to_string().as_bytes())
            .expect("clean");
        let refusal = read
            .open("local", "clean", &HashMap::new())
            .map(|opened| opened.event);
        assert_eq!(
            problem(refusal),
            ("subject.name".to_owned(), FieldProblem::NoKey(7))
        );
    }

    #[test]
    fn what_is_no_clean_event_is_refused() {
        let catalog = catalog();
        for text in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"event_id":7}"#,
            r#"{"event_id":"x","subject":{"id":"short"}}"#,
        ] {
            let result = SealedEvent::read(&catalog.plans()[0], Format::Json, text.as_bytes());
            assert!(matches!(result.err(), Some(Refusal::NotClean { .. })), "{text}");
        }
    }
}
