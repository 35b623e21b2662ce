//! Protected fields become ciphertext, tokens or years; only what this stage returns can be produced.
//!
//! A [`SealedBatch`] has no other way in than the functions of this module, and the producer takes nothing else, so a
//! value that was not sealed cannot leave the gate.

use std::io::Write as _;
use std::ops::Range;

use thiserror::Error;

use crate::crypto::envelope::{Exhausted, FieldKey, Nonce, TooLong, write_context};
use crate::gate::outcome::Reason;
use crate::gate::record::Received;

/// Bytes of one IV.
const NONCE_BYTES: usize = 12;

/// Random bytes from the operating system, handed in by the shell and taken twelve at a time, each once.
///
/// The shell fills it at the start of a batch, so that a forked or restored virtual machine can repeat IVs for at most
/// the records of the batch that was open, which the fork then reads and seals alike.
#[derive(Default)]
pub struct Nonces {
    bytes: Vec<u8>,
    taken: usize,
}

impl Nonces {
    /// None at all: the first [`Nonces::refill`] gives it its bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces what is left by `count` fresh ones. `fill` writes random bytes over its whole argument.
    ///
    /// # Errors
    /// Whatever `fill` returns; there is then no nonce left.
    pub fn refill<E>(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.bytes.resize(count * NONCE_BYTES, 0);
        self.taken = self.bytes.len();
        fill(&mut self.bytes)?;
        self.taken = 0;
        Ok(())
    }

    /// How many are left.
    #[must_use]
    pub fn left(&self) -> usize {
        (self.bytes.len() - self.taken) / NONCE_BYTES
    }

    fn take(&mut self) -> Result<Nonce, SealError> {
        let bytes = self.bytes[self.taken..].first_chunk().ok_or(SealError::Nonces)?;
        self.taken += NONCE_BYTES;
        Ok(Nonce::from_random(*bytes))
    }
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nonces({} left)", self.left())
    }
}

/// Why a record could not be sealed. The batch is then as it was before the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// Fewer nonces are left than the record needs: refill and seal it again.
    #[error("the nonces of this batch are used up")]
    Nonces,
    /// The key may not seal any more.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// A path or a value for a token is longer than an encryption context can hold.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

impl SealError {
    /// The rejection that this is, where it is the message's fault; `None` where it is a fault of ours.
    #[must_use]
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::TooLong(_) => Some(Reason::SchemaViolation),
            Self::Nonces | Self::Exhausted(_) => None,
        }
    }
}

/// Everything that one transaction produces: the records' bytes in one arena, and where each record's begin and end.
#[derive(Default)]
pub struct SealedBatch {
    bytes: Vec<u8>,
    clean: Vec<Entry>,
    ledger: Vec<Entry>,
    letters: Vec<Letter>,
}

/// A record of the clean or ledger topic.
struct Entry {
    partition: i32,
    key: Range<usize>,
    value: Range<usize>,
}

struct Letter {
    entry: Entry,
    reason: Reason,
    origin: Range<usize>,
    received: Range<usize>,
}

/// A record of the deadletter topic.
#[derive(Clone, Copy)]
pub struct Deadletter<'b> {
    /// The partition: the raw one.
    pub partition: i32,
    /// The device id as received, or empty where it cannot be trusted.
    pub key: &'b [u8],
    /// The received bytes, sealed to the quarantine key.
    pub value: &'b [u8],
    reason: Reason,
    origin: &'b [u8],
    received: &'b [u8],
}

impl<'b> Deadletter<'b> {
    /// The headers, in the order in which they are written. Nothing of the payload and no identity is in them.
    #[must_use]
    pub const fn headers(&self) -> [(&'static str, &'b [u8]); 4] {
        [
            ("pg-reason", self.reason.as_str().as_bytes()),
            ("pg-stage", self.reason.stage().as_str().as_bytes()),
            ("pg-origin", self.origin),
            ("pg-received", self.received),
        ]
    }
}

impl SealedBatch {
    /// Forgets all records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.clean.clear();
        self.ledger.clear();
        self.letters.clear();
    }

    /// How many records there are in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clean.len() + self.ledger.len() + self.letters.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all keys and values, for the batch's limit.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The records of the clean topic: partition, key, value.
    pub fn clean(&self) -> impl Iterator<Item = (i32, &[u8], &[u8])> {
        self.clean.iter().map(|entry| self.parts(entry))
    }

    /// The records of the ledger topic: partition, key, value.
    pub fn ledger(&self) -> impl Iterator<Item = (i32, &[u8], &[u8])> {
        self.ledger.iter().map(|entry| self.parts(entry))
    }

    /// The records of the deadletter topic.
    pub fn deadletters(&self) -> impl Iterator<Item = Deadletter<'_>> {
        self.letters.iter().map(|letter| {
            let (partition, key, value) = self.parts(&letter.entry);
            Deadletter {
                partition,
                key,
                value,
                reason: letter.reason,
                origin: &self.bytes[letter.origin.clone()],
                received: &self.bytes[letter.received.clone()],
            }
        })
    }

    /// Adds a ledger record, which holds positions, counts and hashes and nothing of any payload.
    pub(in crate::gate) fn add_ledger(&mut self, partition: i32, lane: &str, entry: &[u8]) {
        let key = self.append(lane.as_bytes());
        let value = self.append(entry);
        self.ledger.push(Entry {
            partition,
            key,
            value,
        });
    }

    fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn parts(&self, entry: &Entry) -> (i32, &[u8], &[u8]) {
        (
            entry.partition,
            &self.bytes[entry.key.clone()],
            &self.bytes[entry.value.clone()],
        )
    }
}

impl std::fmt::Debug for SealedBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            bytes,
            clean,
            ledger,
            letters,
        } = self;
        let (clean, ledger, letters) = (clean.len(), ledger.len(), letters.len());
        write!(
            f,
            "SealedBatch({clean} clean, {letters} deadletter, {ledger} ledger, {} bytes)",
            bytes.len()
        )
    }
}

/// One worker's sealing: what is the same for all its records, and buffers that are used again.
pub struct Sealer {
    environment: Box<str>,
    raw: Box<str>,
    deadletter: Box<str>,
    /// The AAD of a deadletter payload.
    aad: Vec<u8>,
}

/// The topics that sealing speaks of: they are bound into every ciphertext.
#[derive(Clone, Copy, Debug)]
pub struct Topics<'t> {
    /// Where records come from.
    pub raw: &'t str,
    /// Where clean records go.
    pub clean: &'t str,
    /// Where rejected records go.
    pub deadletter: &'t str,
}

impl Sealer {
    /// For one environment and its topics.
    ///
    /// # Errors
    /// [`TooLong`] where a name does not fit into an encryption context.
    pub fn new(environment: &str, topics: Topics<'_>) -> Result<Self, TooLong> {
        Ok(Self {
            environment: environment.into(),
            raw: topics.raw.into(),
            deadletter: topics.deadletter.into(),
            aad: Vec::new(),
        })
    }

    /// Adds the deadletter of a rejected record: the received bytes, sealed to the quarantine key and bound to where
    /// they came from.
    ///
    /// `device` is the device whose signature was found to be right, if it came to that. The record key is kept only
    /// where it is that device's id: any other key is the sender's word alone, and may be anything.
    ///
    /// # Errors
    /// [`SealError`]; the batch is then as it was.
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
            Ok(quarantine.seal_into(nonces.take()?, &self.aad, record.value, &mut batch.bytes)?)
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

/// Appends the AAD of a deadletter payload: `{env, origin, topic}`, with the deadletter topic's name.
///
/// # Errors
/// [`TooLong`] where a name does not fit.
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
    use super::*;
    use crate::crypto::keys::Key32;
    use crate::gate::record::SignatureHeaders;

    fn nonces(count: usize) -> Nonces {
        let mut nonces = Nonces::new();
        let mut next = 0;
        let counting = |bytes: &mut [u8]| {
            bytes.chunks_mut(NONCE_BYTES).for_each(|chunk| {
                next += 1;
                chunk.fill(next);
            });
            Ok::<_, ()>(())
        };
        nonces.refill(count, counting).expect("infallible");
        nonces
    }

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
        FieldKey::new(9, &Key32::random([9; 32]))
    }

    #[test]
    fn nonces_come_once_each_and_run_out() {
        let mut nonces = nonces(2);
        assert_eq!(nonces.left(), 2);
        assert!(nonces.take().is_ok() && nonces.take().is_ok());
        assert_eq!(nonces.take().err(), Some(SealError::Nonces));
        assert_eq!(nonces.refill(4, |_| Err("no entropy")), Err("no entropy"));
        assert_eq!(nonces.left(), 0);
    }

    #[test]
    fn a_deadletter_opens_where_it_came_from_only() {
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
            quarantine().open(&aad, letter.value).map(|plain| plain.to_vec())
        };
        assert_eq!(open(b"raw/3/42"), Ok(value.to_vec()));
        assert!(open(b"raw/3/43").is_err());
        assert!(!batch.bytes.windows(8).any(|window| window == b"Jane Roe"));
    }

    #[test]
    fn a_key_that_nothing_vouches_for_is_left_out() {
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
    fn a_record_that_fails_leaves_the_batch_as_it_was() {
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
