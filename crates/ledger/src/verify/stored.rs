//! What a verification is given: rows of the audit database, and records of the ledger topic.

use std::ops::Range;

use super::compare::Link;
use crate::entry;
use crate::log::entry::{self as log_entry, Entry};

/// The head of a lane as the database has it.
#[derive(Clone, Debug)]
pub struct Head {
    /// The lane's name.
    pub lane: String,
    /// The number of its entries.
    pub size: u64,
    /// The hashes of [`crate::merkle::MerkleRoot::frontier`], side by side.
    pub frontier: Vec<u8>,
}

/// An entry as the database has it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its number in the lane.
    pub seq: u64,
    /// The bytes that its leaf hashes.
    pub bytes: Vec<u8>,
    /// `None` where the bytes are no entry that this version writes.
    pub entry: Option<Entry>,
    /// How it is chained; alerts are not.
    pub link: Option<Link>,
}

impl Row {
    /// Reads the entry in `bytes`.
    #[must_use]
    pub fn new(seq: u64, bytes: Vec<u8>) -> Self {
        let entry = Entry::read(&bytes);
        let link = match &entry {
            Some(Entry::Ledger(entry)) => Some((entry.seq, entry.prev.clone())),
            Some(Entry::Action(action)) => Some((action.seq, action.prev.clone())),
            Some(Entry::Alert(_)) | None => None,
        };
        let link = link.map(|(seq, prev)| Link {
            seq,
            prev,
            hash: log_entry::digest(&bytes),
        });
        Self {
            seq,
            bytes,
            entry,
            link,
        }
    }
}

/// A checkpoint as the database has it.
#[derive(Clone, Debug)]
pub struct StoredCheckpoint {
    /// The size that the row gives; the note gives it too.
    pub size: u64,
    /// When it was signed, as the row gives it, in seconds since the Unix epoch; the note gives it too.
    pub signed_at_s: i64,
    /// The signed note.
    pub note: String,
}

/// A valid record of the ledger topic.
#[derive(Clone, Debug)]
pub struct LedgerRecord {
    /// Its offset in the ledger topic.
    pub offset: i64,
    /// Its number in the lane.
    pub seq: u64,
    /// The raw offsets that it covers.
    pub covers: Range<i64>,
    /// How many of its records were accepted.
    pub clean: u64,
    /// Its bytes.
    pub value: Vec<u8>,
}

impl LedgerRecord {
    /// Reads the value of the record at `offset`; `None` where it is no ledger record.
    #[must_use]
    pub fn read(offset: i64, value: &[u8]) -> Option<Self> {
        let entry = entry::Entry::parse(value).ok()?;
        Some(Self {
            offset,
            seq: entry.seq,
            covers: entry.first..entry.next,
            clean: entry.outcomes.get("clean").copied().unwrap_or(0),
            value: value.to_vec(),
        })
    }
}
