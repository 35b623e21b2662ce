//! Replaces protected fields by ciphertexts, tokens or years; only the output of this stage can be produced.
//!
//! Only the functions of this module add records to a [`SealedBatch`], and the producer takes nothing else, so an
//! unsealed value cannot leave the gate.

mod batch;
mod error;
mod nonces;

use std::io::Write as _;
use std::ops::Range;

use crate::crypto::envelope::{Context, Expanded, FieldKey, Fields, TooLong, write_context};
use crate::crypto::keys::{SubjectKey, Tenant};
use crate::crypto::token::Token;
use crate::event::{Arena, Plan, Rewriter, Seal, Walk};
use pulsegate_ledger::outcome::Reason;
use pulsegate_ledger::record::Received;

use batch::{Entry, Letter};

pub use batch::{Deadletter, SealedBatch};
pub use error::SealError;
pub use nonces::{NONCES, Nonces};

/// Seals the records of one worker, with buffers that are reused.
pub struct Sealer {
    /// AAD of fields in the clean topic.
    context: Context,
    rewriter: Rewriter,
    environment: Box<str>,
    raw: Box<str>,
    deadletter: Box<str>,
    /// AAD of a deadletter payload.
    aad: Vec<u8>,
}

/// Names of the topics, which are bound into every ciphertext.
#[derive(Clone, Copy, Debug)]
pub struct Topics<'t> {
    /// Topic that records are read from.
    pub raw: &'t str,
    /// Topic of clean records.
    pub clean: &'t str,
    /// Topic of rejected records.
    pub deadletter: &'t str,
}

/// An event after its walk.
#[derive(Clone, Copy)]
pub struct Event<'e> {
    /// Plan of the event's schema.
    pub plan: &'e Plan,
    /// Result of the walk.
    pub walk: &'e Walk,
    /// Arena that the walk points into.
    pub arena: &'e Arena,
}

/// Keys that a clean record is sealed with.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'k> {
    /// Tenant, for the tokens of tagged values.
    pub tenant: &'k Tenant,
    /// Subject of the event.
    pub subject: &'k SubjectKey,
    /// Token of the device that signed: the clean record's key, which also replaces the device id in the event.
    pub device_token: &'k Token,
}

impl Sealer {
    /// Creates a sealer for one environment and its topics.
    ///
    /// # Errors
    /// [`TooLong`] if a name is too long for an encryption context.
    pub fn new(environment: &str, topics: Topics<'_>) -> Result<Self, TooLong> {
        Ok(Self {
            context: Context::new(environment, topics.clean)?,
            rewriter: Rewriter::default(),
            environment: environment.into(),
            raw: topics.raw.into(),
            deadletter: topics.deadletter.into(),
            aad: Vec::new(),
        })
    }

    /// Adds the clean record of an event that was verified, walked and admitted.
    ///
    /// # Errors
    /// [`SealError`]; the batch is then unchanged.
    pub fn seal_clean(
        &mut self,
        record: &Received<'_>,
        event: Event<'_>,
        keys: Keys<'_>,
        nonces: &mut Nonces,
        batch: &mut SealedBatch,
    ) -> Result<(), SealError> {
        let start = batch.bytes.len();
        let sealed = self.write_clean(record, event, keys, nonces, batch);
        if sealed.is_err() {
            batch.bytes.truncate(start);
        }
        sealed
    }

    fn write_clean(
        &mut self,
        record: &Received<'_>,
        event: Event<'_>,
        keys: Keys<'_>,
        nonces: &mut Nonces,
        batch: &mut SealedBatch,
    ) -> Result<(), SealError> {
        let Event { plan, walk, arena } = event;
        let fields = self
            .context
            .begin(walk.event_id.of(record.value, arena), keys.subject.token())?;
        let mut maker = Maker {
            keys,
            fields,
            expanded: None,
            nonces,
        };
        let mut made = Ok(());
        let replace = |seal, plain: &[u8], path: &str, out: &mut Vec<u8>| {
            if made.is_ok() {
                made = maker.make(seal, plain, path, out);
            }
        };
        let key = batch.append(keys.device_token);
        let start = batch.bytes.len();
        let rewritten = self
            .rewriter
            .rewrite(plan, record.value, walk, arena, &mut batch.bytes, replace);
        made?;
        rewritten.map_err(|_| SealError::Untranscodable)?;
        let value = start..batch.bytes.len();
        batch.clean.push(Entry {
            partition: record.partition,
            key,
            value,
        });
        Ok(())
    }

    /// Adds the deadletter of a rejected record: the received bytes, sealed to the quarantine key and bound to their
    /// raw offset.
    ///
    /// `device` is the signer if the signature was verified. The record key is kept only if it is that device's id: any
    /// other key is an unverified claim of the sender and may contain anything.
    ///
    /// # Errors
    /// [`SealError`]; the batch is then unchanged.
    pub fn seal_deadletter(
        &mut self,
        record: &Received<'_>,
        reason: Reason,
        device: Option<&str>,
        quarantine: &FieldKey,
        nonces: &mut Nonces,
        batch: &mut SealedBatch,
    ) -> Result<(), SealError> {
        let start = batch.bytes.len();
        let origin = format_into(
            &mut batch.bytes,
            format_args!("{}/{}/{}", self.raw, record.partition, record.offset),
        );
        let received = format_into(&mut batch.bytes, format_args!("{}", record.appended_ms));
        let trusted = record
            .key
            .filter(|key| device.is_some_and(|device| device.as_bytes() == *key));
        let key = batch.append(trusted.unwrap_or_default());
        self.aad.clear();
        let value_start = batch.bytes.len();
        let sealed = quarantine_context(
            &self.environment,
            &batch.bytes[origin.clone()],
            &self.deadletter,
            &mut self.aad,
        )
        .map_err(SealError::from)
        .and_then(|()| {
            Ok(quarantine
                .expand()
                .seal_into(nonces.take()?, &self.aad, record.value, &mut batch.bytes)?)
        });
        if let Err(error) = sealed {
            batch.bytes.truncate(start);
            return Err(error);
        }
        let entry = Entry {
            partition: record.partition,
            key,
            value: value_start..batch.bytes.len(),
        };
        batch.letters.push(Letter {
            entry,
            reason,
            origin,
            received,
        });
        Ok(())
    }
}

/// Makes the replacement values of one record.
struct Maker<'r, 'k> {
    keys: Keys<'k>,
    fields: Fields<'r>,
    /// The subject's key, expanded when the first field needs it.
    expanded: Option<Expanded<'k>>,
    nonces: &'r mut Nonces,
}

impl Maker<'_, '_> {
    fn make(&mut self, seal: Seal, plain: &[u8], path: &str, out: &mut Vec<u8>) -> Result<(), SealError> {
        let Keys {
            tenant,
            subject,
            device_token,
        } = self.keys;
        match seal {
            Seal::Encrypt => {
                let key = self.expanded.get_or_insert_with(|| subject.field_key().expand());
                key.seal_into(self.nonces.take()?, self.fields.at(path.as_bytes())?, plain, out)?;
            }
            Seal::SubjectToken => out.extend_from_slice(subject.token()),
            Seal::DeviceToken => out.extend_from_slice(device_token),
            Seal::Token => out.extend_from_slice(&tenant.tokens().token(path, subject.salt(), plain)?),
        }
        Ok(())
    }
}

/// Appends the AAD of a deadletter payload: `{env, origin, topic}`, with the deadletter topic's name.
///
/// # Errors
/// [`TooLong`] if a name is too long for an encryption context.
pub fn quarantine_context(
    environment: &str,
    origin: &[u8],
    topic: &str,
    out: &mut Vec<u8>,
) -> Result<(), TooLong> {
    write_context(
        [
            ("env", environment.as_bytes()),
            ("origin", origin),
            ("topic", topic.as_bytes()),
        ],
        out,
    )
}

fn format_into(bytes: &mut Vec<u8>, text: std::fmt::Arguments<'_>) -> Range<usize> {
    let start = bytes.len();
    // Writing to a vector does not fail.
    let _ = bytes.write_fmt(text);
    start..bytes.len()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::nonces::tests::nonces;
    use super::*;
    use crate::crypto::envelope::{Exhausted, Nonce};
    use crate::crypto::kek::Kek;
    use crate::crypto::keys::Key32;
    use crate::event::{self, Catalog, Format, Ids, Located, Source};
    use pulsegate_ledger::record::SignatureHeaders;

    fn sealer() -> Sealer {
        let topics = Topics {
            raw: "raw",
            clean: "clean",
            deadletter: "deadletter",
        };
        Sealer::new("local", topics).expect("short names")
    }

    fn record<'a>(key: Option<&'a [u8]>, value: &'a [u8]) -> Received<'a> {
        let signature = SignatureHeaders::default();
        Received {
            partition: 3,
            offset: 42,
            appended_ms: 1_700_000_000_123,
            key,
            value,
            signature,
        }
    }

    fn quarantine() -> FieldKey {
        FieldKey::new(9, Key32::random([9; 32]))
    }

    const EVENT: &str = r#"{"event_id":"0192f0c1-2345-7abc-8def-0123456789ab","device_id":"d-17","subject":{"id":"s-4",
        "name":"Jane \"J\" Roe","mrn":"MRN-1","birth_date":"1984-05-02"},"recorded_at":"2026-11-22T16:44:01Z",
        "firmware":"2.1.0","model":"band-3","location":{"latitude":59.33,"longitude":18.06},"readings":[],"note":null}"#;

    fn catalog(clean_format: Format) -> Catalog {
        let config = event::Config {
            clean_format,
            ..event::Config::default()
        };
        let text = include_str!("../../../../../schemas/biometric_event.avsc").to_owned();
        Catalog::compile(
            &[Source {
                name: config.default_event.clone(),
                text,
            }],
            &config,
        )
        .expect("the default event compiles")
    }

    fn tenant() -> Tenant {
        let kek = Kek::from_bytes(&[0xA5; 32]).expect("32 bytes");
        let nonce = Nonce::from_random([1; 12]);
        let branch = Tenant::wrap_branch(&kek, "acme", &Key32::random([6; 32]), nonce).expect("short");
        Tenant::open(&kek, "acme", &branch).expect("just wrapped")
    }

    fn subject(seals: u64) -> SubjectKey {
        let field_key = FieldKey::with_seals(7, Key32::random([7; 32]), seals);
        tenant().subject_key(b"s-4", [4; 16], field_key).expect("short")
    }

    /// Seals [`EVENT`] and returns the clean event as JSON.
    fn clean(
        format: Format,
        nonces: &mut Nonces,
        subject: &SubjectKey,
        batch: &mut SealedBatch,
    ) -> Result<Value, SealError> {
        let catalog = catalog(format);
        let Located::Plan {
            plan,
            format,
            datum_start,
        } = catalog.locate(EVENT.as_bytes(), &Ids::default())
        else {
            panic!("the default event is located");
        };
        let mut arena = Arena::default();
        let walk = plan
            .walk(format, EVENT.as_bytes(), datum_start, &mut arena)
            .expect("valid");
        let tenant = tenant();
        let keys = Keys {
            tenant: &tenant,
            subject,
            device_token: b"device-token-22-chars.",
        };
        let event = Event {
            plan,
            walk: &walk,
            arena: &arena,
        };
        sealer().seal_clean(
            &record(Some(b"d-17"), EVENT.as_bytes()),
            event,
            keys,
            nonces,
            batch,
        )?;
        let (partition, key, value) = batch.clean().next().expect("one");
        assert_eq!((partition, key), (3, &b"device-token-22-chars."[..]));
        let Located::Plan {
            format, datum_start, ..
        } = catalog.locate_clean(value, &Ids::default())
        else {
            panic!("the clean event is located");
        };
        Ok(plan
            .clean_json(format, &value[datum_start..])
            .expect("a clean event"))
    }

    #[test]
    fn a_clean_record_has_nothing_in_clear_and_opens_in_its_place() {
        for format in [Format::Json, Format::Avro] {
            let (mut batch, subject) = (SealedBatch::default(), subject(0));
            let clean = clean(format, &mut nonces(4), &subject, &mut batch).expect("sealed");
            for plain in ["Jane", "MRN-1", "d-17", "s-4", "59.33", "05-02"] {
                assert!(
                    !batch
                        .bytes
                        .windows(plain.len())
                        .any(|window| window == plain.as_bytes()),
                    "{plain} leaks"
                );
            }
            let token = std::str::from_utf8(subject.token()).expect("text");
            assert_eq!(clean["subject"]["id"], token);
            assert_eq!(clean["device_id"], "device-token-22-chars.");
            assert_eq!(clean["subject"]["birth_date"], "1984");
            assert_eq!(clean["note"], Value::Null);
            let mut context = Context::new("local", "clean").expect("short");
            let mut fields = context
                .begin(b"0192f0c1-2345-7abc-8def-0123456789ab", subject.token())
                .expect("short");
            let key = subject.field_key().expand();
            for (pointer, path, plain) in [
                ("/subject/name", "subject.name", "Jane \"J\" Roe"),
                ("/subject/mrn", "subject.mrn", "MRN-1"),
                ("/location/latitude", "location.latitude", "59.33"),
                ("/location/longitude", "location.longitude", "18.06"),
            ] {
                let leaf = clean.pointer(pointer).and_then(Value::as_str).expect("a string");
                let sealed = base64_simd::STANDARD.decode_to_vec(leaf).expect("base64");
                let opened = key
                    .open(fields.at(path.as_bytes()).expect("short"), &sealed)
                    .expect("in its place");
                assert_eq!(opened.as_slice(), plain.as_bytes());
                assert!(key.open(fields.at(b"note").expect("short"), &sealed).is_err());
            }
            assert_eq!(subject.field_key().seals(), 4);
        }
    }

    #[test]
    fn a_clean_record_that_fails_halfway_is_not_added() {
        let mut batch = SealedBatch::default();
        assert_eq!(
            clean(Format::Json, &mut nonces(3), &subject(0), &mut batch),
            Err(SealError::Nonces)
        );
        let spent = subject(crate::crypto::envelope::SEALS_MAX - 1);
        let error = clean(Format::Json, &mut nonces(4), &spent, &mut batch).expect_err("spent");
        assert_eq!(
            (error, error.reason()),
            (SealError::Exhausted(Exhausted { key_id: 7 }), None)
        );
        assert!(batch.is_empty() && batch.bytes() == 0);
    }

    #[test]
    fn a_deadletter_opens_only_with_its_origin() {
        let mut batch = SealedBatch::default();
        let value = b"{\"subject\":\"Jane Roe\"}";
        sealer()
            .seal_deadletter(
                &record(Some(b"d1"), value),
                Reason::Stale,
                Some("d1"),
                &quarantine(),
                &mut nonces(1),
                &mut batch,
            )
            .expect("sealed");
        let letter = batch.deadletters().next().expect("one");
        assert_eq!((letter.partition, letter.key), (3, &b"d1"[..]));
        let headers = letter
            .headers()
            .map(|(name, value)| (name, std::str::from_utf8(value).expect("text")));
        let expected = [
            ("pg-reason", "stale"),
            ("pg-stage", "verify"),
            ("pg-origin", "raw/3/42"),
            ("pg-received", "1700000000123"),
        ];
        assert_eq!(headers, expected);
        let open = |origin: &[u8]| {
            let mut aad = Vec::new();
            quarantine_context("local", origin, "deadletter", &mut aad).expect("short");
            quarantine()
                .expand()
                .open(&aad, letter.value)
                .map(|plain| plain.to_vec())
        };
        assert_eq!(open(b"raw/3/42"), Ok(value.to_vec()));
        assert!(open(b"raw/3/43").is_err());
        assert!(!batch.bytes.windows(8).any(|window| window == b"Jane Roe"));
    }

    #[test]
    fn an_unverified_record_key_is_left_out() {
        for (key, device) in [
            (Some(&b"123-45-6789"[..]), Some("d1")),
            (Some(b"d1"), None),
            (None, Some("d1")),
            (None, None),
        ] {
            let mut batch = SealedBatch::default();
            sealer()
                .seal_deadletter(
                    &record(key, b""),
                    Reason::BadSignature,
                    device,
                    &quarantine(),
                    &mut nonces(1),
                    &mut batch,
                )
                .expect("sealed");
            assert_eq!(batch.deadletters().next().expect("one").key, b"");
        }
    }

    #[test]
    fn a_record_that_fails_leaves_the_batch_unchanged() {
        let mut batch = SealedBatch::default();
        batch.add_ledger(0, "raw/0", b"{}");
        let before = batch.bytes();
        let failed = sealer().seal_deadletter(
            &record(None, b"x"),
            Reason::Stale,
            None,
            &quarantine(),
            &mut nonces(0),
            &mut batch,
        );
        assert_eq!(failed, Err(SealError::Nonces));
        assert_eq!(SealError::Nonces.reason(), None);
        assert_eq!((batch.bytes(), batch.len()), (before, 1));
        assert_eq!(batch.ledger().next(), Some((0, &b"raw/0"[..], &b"{}"[..])));
        batch.clear();
        assert!(batch.is_empty() && batch.bytes() == 0);
    }
}
