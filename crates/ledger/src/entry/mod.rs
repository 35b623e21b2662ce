//! One record a lane and transaction that accounts for every raw offset (contract §7).
//!
//! The value is canonical JSON: UTF-8, the members of [`Entry`] in the order in which they stand there, no white space,
//! outcomes sorted by name and only those that occurred. `tests/vectors/ledger.json` has test vectors. Each entry carries
//! the SHA-256 of the lane's previous entry, and the ranges `first..next` of a lane tile: between the entries nothing can
//! be removed, added, changed or moved.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::merkle::{self, MerkleRoot};
use crate::outcome::Outcome;
use crate::record::Received;

/// The version that this code writes and reads.
pub const VERSION: u32 = 1;

/// The largest entry that is read: a few hundred bytes are written.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024;

/// The ledger record of one lane and transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The version of this format.
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
    /// How many records were found in `first..next`: offsets may be missing (transaction markers, compaction).
    pub records: u64,
    /// How many of them had which outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// RFC 6962 Merkle root, in hex, over the leaves `offset u64 BE ‖ outcome name ‖ SHA-256(value)`.
    pub root: String,
    /// The transactional id of the writer.
    pub worker: String,
    /// How many times the lane has been opened by a worker.
    pub epoch: u64,
    /// Which schemas decided.
    pub schema_rev: String,
    /// Which device keys decided.
    pub key_rev: u64,
    /// The lowest `LogAppendTime` covered, in ms; 0 without records.
    pub t_first: i64,
    /// The highest `LogAppendTime` covered, in ms; 0 without records.
    pub t_last: i64,
    /// The range is gone: retention deleted it before anybody read it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<Lost>,
    /// Somebody reset the group's offsets and said `--rewind`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rewind: Option<Rewind>,
}

/// Raw offsets that can no longer be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// The first lost offset.
    pub first: i64,
    /// The first offset that is still there.
    pub next: i64,
}

/// A move of the lane that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewind {
    /// Where the ledger stood.
    pub from: i64,
    /// Where it goes on.
    pub to: i64,
}

/// Where a lane's ledger stands: all that the next entry needs of the ones before it.
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

/// A ledger record that cannot be read.
#[derive(Debug, Error)]
pub enum EntryError {
    /// Larger than any that was ever written.
    #[error("the ledger record is larger than {ENTRY_BYTES_MAX} bytes")]
    TooLarge,
    /// Not an entry of this version.
    #[error("the ledger record is not a version {VERSION} entry (line {line}, column {column})")]
    Malformed {
        /// Line of the offending byte.
        line: usize,
        /// Column of the offending byte.
        column: usize,
    },
}

/// What an entry says of who wrote it and with which knowledge.
#[derive(Clone, Debug)]
pub struct Stamp<'a> {
    /// The transactional id.
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

    /// How many records had which outcome, by [`Outcome::index`].
    #[must_use]
    pub fn counts(&self) -> &[u64; Outcome::COUNT] {
        &self.counts
    }

    /// Nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }
}

impl Head {
    /// Before a lane's first entry, which will cover from `next` on.
    #[must_use]
    pub fn genesis(next: i64) -> Self {
        Self {
            seq: 0,
            hash: [0; 32],
            next,
            epoch: 0,
        }
    }

    /// After the entry with this value.
    ///
    /// # Errors
    ///
    /// When the value is not an entry.
    pub fn after(value: &[u8]) -> Result<Self, EntryError> {
        let entry = Entry::parse(value)?;
        Ok(Self {
            seq: entry.seq + 1,
            hash: Sha256::digest(value).into(),
            next: entry.next,
            epoch: entry.epoch,
        })
    }

    /// Writes the entry for `tally`, which covers up to `next`, and moves on.
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

    /// Writes the entry for a range that retention deleted before it was read.
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

    /// Writes the entry for a move to `to` that an operator asked for.
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
    /// When it is too large, not JSON of this shape, or of another version.
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

/// Where the group, the ledger and the raw log stand when a lane is opened.
#[derive(Clone, Debug)]
pub struct Standing {
    /// After the lane's last entry, if it has one.
    pub head: Option<Head>,
    /// The group's committed offset, if it has one.
    pub committed: Option<i64>,
    /// The first raw offset that retention has left.
    pub low: i64,
    /// The first raw offset that is not written yet.
    pub high: i64,
}

/// Something that the ledger must say before it accounts for the next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Retention deleted what stood before this offset.
    Lost {
        /// The first offset that is still there.
        next: i64,
    },
    /// An operator moved the lane to this offset.
    Rewind {
        /// Where the lane goes on.
        to: i64,
    },
}

/// Where a lane goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outset {
    /// Where its ledger stands.
    pub head: Head,
    /// What the ledger has to say first.
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

/// Why a lane is not opened: somebody changed what only a transaction may change.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The group's offsets were reset, to before or after what the ledger covers.
    #[error(
        "the ledger covers up to offset {ledger}, the group's committed offset is {committed}: somebody reset the \
         group's offsets. Set it back to {ledger}, or start with --rewind to go on from {committed} and have the \
         ledger say so"
    )]
    Moved {
        /// Where the ledger stands.
        ledger: i64,
        /// Where the group stands.
        committed: i64,
    },
    /// The ledger covers the lane, the group has never been here.
    #[error(
        "the ledger covers up to offset {ledger}, but the group has no committed offset: it is a new group, or its \
         offsets have expired. Set it to {ledger}, or start with --rewind to begin again at {low}"
    )]
    NotCommitted {
        /// Where the ledger stands.
        ledger: i64,
        /// Where the raw log begins.
        low: i64,
    },
    /// The group has been here, the ledger has no entry.
    #[error(
        "the group's committed offset is {committed}, but the ledger has no entry for the lane: it was deleted, or \
         this is another ledger. Start with --rewind to go on from {committed} with a new chain"
    )]
    NoLedger {
        /// Where the group stands.
        committed: i64,
    },
    /// The raw log ends before what was already consumed.
    #[error(
        "the raw log ends at offset {high}, before the committed offset {committed}: the topic was deleted and made \
         again. Start with --rewind to begin at {low}"
    )]
    Truncated {
        /// Where the group stands.
        committed: i64,
        /// Where the raw log ends.
        high: i64,
        /// Where the raw log begins.
        low: i64,
    },
}

impl Refusal {
    /// It may be for the moment only: the ledger's or the log's newest records are not visible everywhere yet.
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
    /// Where the lane goes on, and what its ledger has to say first.
    ///
    /// # Errors
    ///
    /// When the three do not agree and `rewind` is false.
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
