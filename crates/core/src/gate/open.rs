//! Opens clean events: decrypts their protected fields for a caller who holds the keys.
//!
//! Opening takes two steps because the sealed fields carry the ids of their keys: [`SealedEvent::read`] collects the
//! ids, [`SealedEvent::open`] decrypts. Tokens, years and dropped fields cannot be reversed.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use thiserror::Error;

use crate::crypto::envelope::{Context, FieldKey, OpenError, TooLong, from_base64, key_id_of};
use crate::crypto::token::Token;
use crate::event::{Format, Plan, Protect, Role, Sealed};

/// Why a clean event could not be opened. The text names the field, never its content.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The event does not match the clean schema.
    #[error("not a clean event of schema `{schema}`: {problem}")]
    NotClean {
        /// Event type.
        schema: String,
        /// What does not match.
        problem: String,
    },
    /// A sealed field could not be opened.
    #[error("failed to open `{path}`: {problem}")]
    Field {
        /// Path of the field in the event.
        path: String,
        /// Reason that the field could not be opened.
        problem: FieldProblem,
    },
    /// A name or a value is too long for an encryption context, so no gate can have sealed with it.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// Why a sealed field could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FieldProblem {
    /// The value is not a string, as every sealed field is in JSON.
    #[error("not a sealed field: it is not a string")]
    NotText,
    /// The bytes are not sealed, or not with this key for this place.
    #[error(transparent)]
    Sealed(#[from] OpenError),
    /// The vault has no key with this id.
    #[error("unknown key {0}: its subject was shredded, or the event was sealed with another vault")]
    NoKey(u32),
    /// The path is too long for an encryption context, so no gate can have sealed there.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The plaintext is not a value of the schema's type.
    #[error("the field was decrypted, but its plaintext is not a value of its type")]
    NotPlain,
}

/// A clean event whose protected fields are still sealed.
pub struct SealedEvent<'c> {
    plan: &'c Plan,
    event: Value,
    event_id: String,
    subject: Token,
    key_ids: BTreeSet<u32>,
}

/// An event with its PHI in clear. It is printed for the caller who asked for it, and nowhere else.
pub struct OpenedEvent {
    /// The event, in JSON.
    pub event: Value,
    /// Number of fields that were opened.
    pub fields: usize,
}

impl<'c> SealedEvent<'c> {
    /// Reads a clean event in the given format, without its framing.
    ///
    /// # Errors
    /// [`Refusal`] if the datum is not a clean event, or one of its fields is not sealed.
    pub fn read(plan: &'c Plan, format: Format, datum: &[u8]) -> Result<Self, Refusal> {
        let mut event = plan
            .clean_json(format, datum)
            .map_err(|error| not_clean(plan, error))?;
        let event_id = plan.role(Role::EventId).and_then(|path| text_at(&event, path));
        let event_id = event_id
            .ok_or_else(|| not_clean(plan, "the event id is missing"))?
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
        let subject = subject.ok_or_else(|| not_clean(plan, "the subject token is missing"))?;
        Ok(Self {
            plan,
            event,
            event_id,
            subject,
            key_ids,
        })
    }

    /// Ids of the keys that the fields are sealed under.
    pub fn key_ids(&self) -> impl Iterator<Item = u32> {
        self.key_ids.iter().copied()
    }

    /// Opens every sealed field, each bound to this environment, topic, event and subject and to its own path.
    ///
    /// # Errors
    /// [`Refusal`] for the first field that does not open; no other field is then returned.
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

/// Visits the protected leaves, up to the first problem.
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
        .expect("the default event compiles")
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
            other => panic!("expected a refused field, not {other:?}"),
        }
    }

    #[test]
    fn an_event_opens_to_its_plaintext() {
        let opened = open(&clean(), "clean", key(7)).expect("opens in its place");
        assert_eq!(opened["subject"]["name"], "Jane \"J\" Roe");
        assert_eq!(opened["location"], json!({"latitude": 59.33, "longitude": 18}));
        assert_eq!(opened["note"], "");
        assert_eq!(opened["subject"]["id"], TOKEN);
        assert_eq!(opened["subject"]["birth_date"], "1984");
    }

    #[test]
    fn a_moved_or_altered_field_is_refused_by_its_path() {
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
    fn a_missing_key_is_named() {
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
    fn an_invalid_clean_event_is_refused() {
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
