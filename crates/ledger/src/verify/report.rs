//! Report of a verification: what was examined, and the discrepancies.

use std::fmt;

use serde::Serialize;

use super::compare::Change;

/// Kind of discrepancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An entry of the log was deleted.
    EntryMissing,
    /// An entry of the log was changed.
    EntryChanged,
    /// The log has an entry that was never appended.
    EntryInserted,
    /// Entries of the log changed places.
    EntriesReordered,
    /// The end of the log was cut off.
    Truncated,
    /// The stored head of a lane does not match its entries.
    HeadChanged,
    /// A checkpoint is not signed by a trusted key, or was changed.
    CheckpointForged,
    /// A checkpoint has a valid signature, but the log does not continue it.
    CheckpointContradicted,
    /// The ledger already had a fault when the log read it, recorded in an alert.
    LedgerBroken,
    /// A record of the ledger topic is missing.
    LedgerMissing,
    /// A record of the ledger topic was changed.
    LedgerChanged,
    /// The ledger topic has an extra record.
    LedgerInserted,
    /// Records of the ledger topic changed places.
    LedgerReordered,
    /// A raw record is missing.
    RawMissing,
    /// A raw record, or its outcome, differs from what the ledger accounts for.
    RawChanged,
    /// The raw topic has a record that the ledger does not count.
    RawInserted,
    /// An accepted record is not in the clean topic.
    CleanMissing,
    /// The clean topic has a record that the ledger does not account for.
    CleanInserted,
    /// A rejected record is not in the deadletter topic.
    DeadletterMissing,
    /// The deadletter topic has a record that the ledger does not account for.
    DeadletterInserted,
}

/// A discrepancy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Kind of discrepancy.
    pub kind: Kind,
    /// Name of the lane.
    pub lane: String,
    /// Number of the first affected entry of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// First affected offset of the raw topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// Place in Kafka, as `topic/partition/offset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Description in words.
    pub detail: String,
}

impl Problem {
    /// A problem that concerns a lane as a whole.
    #[must_use]
    pub fn new(kind: Kind, lane: &str, detail: impl Into<String>) -> Self {
        Self {
            kind,
            lane: lane.to_owned(),
            entry: None,
            offset: None,
            place: None,
            detail: detail.into(),
        }
    }

    /// Places it at an entry of the log, and at an offset of the raw topic.
    #[must_use]
    pub fn at(mut self, entry: u64, offset: Option<i64>) -> Self {
        self.entry = Some(entry);
        self.offset = offset;
        self
    }

    /// Places it in Kafka.
    #[must_use]
    pub fn in_topic(mut self, topic: &str, partition: i32, offset: i64) -> Self {
        self.place = Some(format!("{topic}/{partition}/{offset}"));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = serde_json::to_value(self.kind).unwrap_or_default();
        write!(f, "{}: {}", self.lane, kind.as_str().unwrap_or_default())?;
        if let Some(entry) = self.entry {
            write!(f, " at entry {entry}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", raw offset {offset}")?;
        }
        if let Some(place) = &self.place {
            write!(f, ", {place}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// Scope and results of one lane's verification.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LaneReport {
    /// Name of the lane.
    pub lane: String,
    /// Number of entries recomputed.
    pub entries: u64,
    /// Merkle root over the entries, in hex.
    pub root: String,
    /// Number of checkpoints with a valid signature and a matching root.
    pub checkpoints: u64,
    /// Time of signing of the newest valid checkpoint, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<String>,
    /// Number of records of the ledger topic compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger_records: Option<u64>,
    /// Number of ledger records that have not reached the log yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger_pending: Option<u64>,
    /// Number of ledger ranges whose root was recomputed from the raw, clean and deadletter topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges: Option<u64>,
    /// Number of ledger ranges that the topics no longer have enough records to recompute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges_unknown: Option<u64>,
    /// Number of raw records hashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_records: Option<u64>,
    /// Number of clean records read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean_records: Option<u64>,
    /// Checkpoints kept elsewhere that the log continues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub continued: Vec<Continued>,
}

/// A checkpoint kept elsewhere, with a proof that the log has only grown since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Continued {
    /// Size in the checkpoint.
    pub from: u64,
    /// Size of the newest checkpoint of the log.
    pub to: u64,
    /// Root at that size, in hex.
    pub to_root: String,
    /// Consistency proof (RFC 9162 §2.1.4), in hex.
    pub proof: Vec<String>,
}

/// Result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Results by lane.
    pub lanes: Vec<LaneReport>,
    /// First discrepancy of each lane and each comparison, in the order of lanes.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether no discrepancies were found.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Kind of a change of the log itself.
pub(super) const fn entry_kind(change: Change) -> Kind {
    match change {
        Change::Missing => Kind::EntryMissing,
        Change::Inserted => Kind::EntryInserted,
        Change::Reordered => Kind::EntriesReordered,
        Change::Changed => Kind::EntryChanged,
    }
}
