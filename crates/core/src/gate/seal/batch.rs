//! Records that one transaction produces. Only the sealing stage can add to them.

use std::ops::Range;

use pulsegate_ledger::outcome::Reason;

/// All records that one transaction produces: their bytes in one arena, and the range of each record.
#[derive(Default)]
pub struct SealedBatch {
    pub(super) bytes: Vec<u8>,
    pub(super) clean: Vec<Entry>,
    ledger: Vec<Entry>,
    pub(super) letters: Vec<Letter>,
}

/// A record of the clean or ledger topic.
pub(super) struct Entry {
    pub partition: i32,
    pub key: Range<usize>,
    pub value: Range<usize>,
}

/// A record of the deadletter topic, with the values of its headers.
pub(super) struct Letter {
    pub entry: Entry,
    pub reason: Reason,
    pub origin: Range<usize>,
    pub received: Range<usize>,
}

/// A record of the deadletter topic.
#[derive(Clone, Copy)]
pub struct Deadletter<'b> {
    /// Partition, the same as that of the raw record.
    pub partition: i32,
    /// Device id if it was verified, otherwise empty.
    pub key: &'b [u8],
    /// Received value, sealed to the quarantine key.
    pub value: &'b [u8],
    reason: Reason,
    origin: &'b [u8],
    received: &'b [u8],
}

impl<'b> Deadletter<'b> {
    /// Headers in the order of writing. They contain neither payload nor identities.
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
    /// Removes all records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.clean.clear();
        self.ledger.clear();
        self.letters.clear();
    }

    /// Number of records, of all topics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clean.len() + self.ledger.len() + self.letters.len()
    }

    /// Whether the batch has no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all keys, values and header values.
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

    /// Adds a ledger record, which holds positions, counts and hashes but no payload.
    pub(in crate::gate) fn add_ledger(&mut self, partition: i32, lane: &str, entry: &[u8]) {
        let key = self.append(lane.as_bytes());
        let value = self.append(entry);
        self.ledger.push(Entry {
            partition,
            key,
            value,
        });
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Range<usize> {
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
