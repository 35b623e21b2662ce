//! One ledger record per lane and transaction; together they account for every raw offset (contract §7).
//!
//! The value is canonical JSON: UTF-8, the members of [`Entry`] in the order of their declaration, no whitespace,
//! outcomes sorted by name and only those that occurred. `tests/vectors/ledger.json` has test vectors. Each entry
//! carries the SHA-256 of the lane's previous entry, and the ranges `first..next` of a lane tile, so no entry before
//! the last can be removed, added, changed or moved unnoticed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::merkle::{self, MerkleRoot};
use crate::outcome::Outcome;
use crate::record::Received;

/// Version of the format that this code writes and reads.
pub const VERSION: u32 = 1;

/// Largest entry that is read, in bytes; the gate writes a few hundred.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024;

/// The ledger record of one lane and transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Version of the format: [`VERSION`].
    pub v: u32,
    /// `<raw topic>/<partition>`.
    pub lane: String,
    /// The number of this entry in its lane, from 0.
    pub seq: u64,
    /// SHA-256 of the lane's previous entry in hex; zeros for the first.
    pub prev: String,
    /// The first raw offset covered.
    pub first: i64,
    /// The first raw offset not covered.
    pub next: i64,
    /// Number of records in `first..next`; offsets may be missing (transaction markers, compaction).
    pub records: u64,
    /// Number of records by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// RFC 6962 Merkle root, in hex, over the leaves `offset u64 BE ‖ outcome name ‖ SHA-256(value)`.
    pub root: String,
    /// The transactional id of the writer.
    pub worker: String,
    /// Number of times that a worker has opened the lane.
    pub epoch: u64,
    /// Revision of the schemas that decided.
    pub schema_rev: String,
    /// Revision of the device keys that decided.
    pub key_rev: u64,
    /// The lowest `LogAppendTime` covered, in ms; 0 without records.
    pub t_first: i64,
    /// The highest `LogAppendTime` covered, in ms; 0 without records.
    pub t_last: i64,
    /// Present if retention deleted the range before the gate read it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<Lost>,
    /// Present if an operator reset the group's offsets and started with `--rewind`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rewind: Option<Rewind>,
}

/// Raw offsets that can no longer be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// The first lost offset.
    pub first: i64,
    /// The first offset that still exists.
    pub next: i64,
}

/// A move of the lane that an operator asked for with `--rewind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewind {
    /// The offset that the ledger stood at.
    pub from: i64,
    /// The offset that the lane continues at.
    pub to: i64,
}

/// Position of a lane's ledger: everything that the next entry needs from the ones before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of the next entry.
    pub seq: u64,
    /// SHA-256 of the last entry; zeros before the first.
    pub hash: [u8; 32],
    /// The first raw offset that no entry covers.
    pub next: i64,
    /// The epoch of the last entry.
    pub epoch: u64,
}

/// Why a ledger record cannot be read.
#[derive(Debug, Error)]
pub enum EntryError {
    /// The value is larger than any entry that a gate writes.
    #[error("the ledger record is larger than {ENTRY_BYTES_MAX} bytes")]
    TooLarge,
    /// The value is not an entry of this version.
    #[error("the ledger record is not a version {VERSION} entry (line {line}, column {column})")]
    Malformed {
        /// Line of the offending byte.
        line: usize,
        /// Column of the offending byte.
        column: usize,
    },
}

/// The writer of an entry, and the revisions that it decided with.
#[derive(Clone, Debug)]
pub struct Stamp<'a> {
    /// Transactional id of the writer.
    pub worker: &'a str,
    /// Revision of the schemas.
    pub schema_rev: &'a str,
    /// Revision of the device keys.
    pub key_rev: u64,
}

/// The records of one lane since its last entry.
#[derive(Default)]
pub struct Tally {
    counts: [u64; Outcome::COUNT],
    records: u64,
    root: MerkleRoot,
    appended_ms: Option<(i64, i64)>,
}

impl Tally {
    /// Accounts for one record.
    pub fn add(&mut self, record: &Received, outcome: Outcome) {
        self.counts[outcome.index()] += 1;
        self.records += 1;
        let digest = Sha256::digest(record.value).into();
        self.root.push(merkle::record_leaf(
            record.offset.cast_unsigned(),
            outcome.as_str(),
            &digest,
        ));
        let (first, last) = self
            .appended_ms
            .unwrap_or((record.appended_ms, record.appended_ms));
        self.appended_ms = Some((first.min(record.appended_ms), last.max(record.appended_ms)));
    }

    /// Number of records by outcome, indexed by [`Outcome::index`].
    #[must_use]
    pub fn counts(&self) -> &[u64; Outcome::COUNT] {
        &self.counts
    }

    /// Whether no record was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }
}

impl Head {
    /// The head before a lane's first entry, which will cover the offsets from `next` on.
    #[must_use]
    pub fn genesis(next: i64) -> Self {
        Self {
            seq: 0,
            hash: [0; 32],
            next,
            epoch: 0,
        }
    }

    /// The head after the entry with this value.
    ///
    /// # Errors
    ///
    /// If the value is not an entry.
    pub fn after(value: &[u8]) -> Result<Self, EntryError> {
        let entry = Entry::parse(value)?;
        Ok(Self {
            seq: entry.seq + 1,
            hash: Sha256::digest(value).into(),
            next: entry.next,
            epoch: entry.epoch,
        })
    }

    /// Serializes the entry for `tally`, which covers the offsets up to `next`, and advances the head.
    pub fn append(&mut self, lane: &str, tally: &Tally, next: i64, stamp: &Stamp) -> Vec<u8> {
        let named =
            Outcome::all().map(|outcome| (outcome.as_str().to_owned(), tally.counts[outcome.index()]));
        let (t_first, t_last) = tally.appended_ms.unwrap_or_default();
        let entry = Entry {
            records: tally.records,
            outcomes: named.filter(|(_, count)| *count > 0).collect(),
            root: hex::encode(tally.root.root()),
            t_first,
            t_last,
            ..self.blank(lane, self.next, next, stamp)
        };
        self.push(&entry)
    }

    /// Serializes the entry for a range that retention deleted before the gate read it.
    pub fn append_lost(&mut self, lane: &str, next: i64, stamp: &Stamp) -> Vec<u8> {
        let lost = Lost {
            first: self.next,
            next,
        };
        let entry = Entry {
            lost: Some(lost),
            ..self.blank(lane, lost.first, lost.next, stamp)
        };
        self.push(&entry)
    }

    /// Serializes the entry for a move to `to` that an operator asked for.
    pub fn append_rewind(&mut self, lane: &str, to: i64, stamp: &Stamp) -> Vec<u8> {
        let rewind = Rewind { from: self.next, to };
        let entry = Entry {
            rewind: Some(rewind),
            ..self.blank(lane, to, to, stamp)
        };
        self.push(&entry)
    }

    fn blank(&self, lane: &str, first: i64, next: i64, stamp: &Stamp) -> Entry {
        Entry {
            v: VERSION,
            lane: lane.to_owned(),
            seq: self.seq,
            prev: hex::encode(self.hash),
            first,
            next,
            records: 0,
            outcomes: BTreeMap::new(),
            root: hex::encode(MerkleRoot::default().root()),
            worker: stamp.worker.to_owned(),
            epoch: self.epoch,
            schema_rev: stamp.schema_rev.to_owned(),
            key_rev: stamp.key_rev,
            t_first: 0,
            t_last: 0,
            lost: None,
            rewind: None,
        }
    }

    fn push(&mut self, entry: &Entry) -> Vec<u8> {
        let value =
            serde_json::to_vec(entry).expect("an entry has only strings, numbers and maps with string keys");
        *self = Self {
            seq: entry.seq + 1,
            hash: Sha256::digest(&value).into(),
            next: entry.next,
            epoch: entry.epoch,
        };
        value
    }
}

impl Entry {
    /// Reads the value of a ledger record.
    ///
    /// # Errors
    ///
    /// If it is too large, not JSON of this shape, or of another version.
    pub fn parse(value: &[u8]) -> Result<Self, EntryError> {
        if value.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLarge);
        }
        let entry: Self = serde_json::from_slice(value).map_err(|error| EntryError::Malformed {
            line: error.line(),
            column: error.column(),
        })?;
        if entry.v == VERSION {
            Ok(entry)
        } else {
            Err(EntryError::Malformed { line: 1, column: 1 })
        }
    }
}

/// Positions of the group, the ledger and the raw log when a lane is opened.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The head after the lane's last entry, if it has one.
    pub head: Option<Head>,
    /// The group's committed offset, if it has one.
    pub committed: Option<i64>,
    /// The first raw offset that retention has kept.
    pub low: i64,
    /// The first raw offset that is not written yet.
    pub high: i64,
}

/// An event that the ledger must state before it accounts for the next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Retention deleted the records before this offset.
    Lost {
        /// The first offset that still exists.
        next: i64,
    },
    /// An operator moved the lane to this offset.
    Rewind {
        /// The offset that the lane continues at.
        to: i64,
    },
}

/// Starting point of a lane that is being opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outset {
    /// Head of the lane's ledger.
    pub head: Head,
    /// Notices that the ledger must state first.
    pub notices: Vec<Notice>,
}

impl Outset {
    /// The first raw offset to account for.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.notices
            .last()
            .map_or(self.head.next, |notice| match *notice {
                Notice::Lost { next } => next,
                Notice::Rewind { to } => to,
            })
    }
}

/// Why a lane is not opened: an offset or an entry was changed outside the gate's transactions.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The group's offsets were reset, to before or after the end of the ledger.
    #[error(
        "the ledger ends at offset {ledger}, but the group's committed offset is {committed}: the group's offsets \
         were reset. Set the offset back to {ledger}, or start with --rewind to continue at {committed} and record \
         the move in the ledger"
    )]
    Moved {
        /// The offset that the ledger ends at.
        ledger: i64,
        /// The group's committed offset.
        committed: i64,
    },
    /// The ledger has entries for the lane, but the group has no committed offset.
    #[error(
        "the ledger ends at offset {ledger}, but the group has no committed offset: the group is new, or its offsets \
         have expired. Set the offset to {ledger}, or start with --rewind to begin again at {low}"
    )]
    NotCommitted {
        /// The offset that the ledger ends at.
        ledger: i64,
        /// The first offset of the raw log.
        low: i64,
    },
    /// The group has a committed offset, but the ledger has no entry for the lane.
    #[error(
        "the group's committed offset is {committed}, but the ledger has no entry for the lane: the entries were \
         deleted, or this is another ledger. Start with --rewind to continue at {committed} with a new chain"
    )]
    NoLedger {
        /// The group's committed offset.
        committed: i64,
    },
    /// The raw log ends before the committed offset.
    #[error(
        "the raw log ends at offset {high}, before the committed offset {committed}: the topic was deleted and \
         recreated. Start with --rewind to begin at {low}"
    )]
    Truncated {
        /// The group's committed offset.
        committed: i64,
        /// The end of the raw log.
        high: i64,
        /// The first offset of the raw log.
        low: i64,
    },
}

impl Refusal {
    /// Whether a retry may succeed: the newest records of the ledger or the log may not be visible everywhere yet.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Moved { ledger, committed } => *ledger < *committed,
            Self::NoLedger { .. } | Self::Truncated { .. } => true,
            Self::NotCommitted { .. } => false,
        }
    }
}

impl Standing {
    /// Decides where the lane continues and which notices its ledger must state first.
    ///
    /// # Errors
    ///
    /// If the three positions do not agree and `rewind` is false.
    pub fn reconcile(&self, rewind: bool) -> Result<Outset, Refusal> {
        let (low, high) = (self.low, self.high);
        let agreed = match (&self.head, self.committed) {
            (None, None) => {
                return Ok(Outset {
                    head: Head::genesis(low),
                    notices: Vec::new(),
                });
            }
            (_, Some(committed)) if committed > high => {
                Err((Refusal::Truncated { committed, high, low }, low))
            }
            (Some(head), Some(committed)) if committed == head.next => Ok(committed),
            (Some(head), Some(committed)) => Err((
                Refusal::Moved {
                    ledger: head.next,
                    committed,
                },
                committed,
            )),
            (Some(head), None) => Err((
                Refusal::NotCommitted {
                    ledger: head.next,
                    low,
                },
                low,
            )),
            (None, Some(committed)) => Err((Refusal::NoLedger { committed }, committed)),
        };
        let (from, mut notices) = match agreed {
            Ok(from) => (from, Vec::new()),
            Err((_, to)) if rewind => (to, vec![Notice::Rewind { to }]),
            Err((refusal, _)) => return Err(refusal),
        };
        if low > from {
            notices.push(Notice::Lost { next: low });
        }
        Ok(Outset {
            head: self.head.clone().unwrap_or_else(|| Head::genesis(from)),
            notices,
        })
    }
}

#[cfg(test)]
mod tests;
