//! What a verification says: what it looked at, and what does not agree.

use std::fmt;

use serde::Serialize;

/// What does not agree.
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
    /// The stored head of a lane is not what its entries give.
    HeadChanged,
    /// A checkpoint is not signed by a key that is trusted, or was changed.
    CheckpointForged,
    /// A checkpoint is truly signed, but the log is not its continuation.
    CheckpointContradicted,
    /// The ledger was broken already when it came to the log, which says so in an alert.
    LedgerBroken,
    /// A record of the ledger topic is gone.
    LedgerMissing,
    /// A record of the ledger topic is not what it was.
    LedgerChanged,
    /// The ledger topic has a record that it had not.
    LedgerInserted,
    /// Records of the ledger topic are in another order than they were.
    LedgerReordered,
    /// A raw record is gone.
    RawMissing,
    /// A raw record, or what became of it, is not what the ledger was written for.
    RawChanged,
    /// The raw topic has a record that the ledger does not count.
    RawInserted,
    /// An accepted record is not in the clean topic.
    CleanMissing,
    /// The clean topic has a record that nobody accounts for.
    CleanInserted,
    /// A rejected record is not in the deadletter topic.
    DeadletterMissing,
    /// The deadletter topic has a record that nobody accounts for.
    DeadletterInserted,
}

/// One thing that does not agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is.
    pub kind: Kind,
    /// The lane.
    pub lane: String,
    /// The number of the first entry of the log that is concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// The first offset of the raw topic that is concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// Where it is in Kafka, as `topic/partition/offset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// In words.
    pub detail: String,
}

impl Problem {
    /// A problem of a lane as a whole.
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

/// What was looked at in one lane.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LaneReport {
    /// The lane.
    pub lane: String,
    /// Entries that were recomputed.
    pub entries: u64,
    /// The Merkle root over them, in hex.
    pub root: String,
    /// Checkpoints whose signature and root are good.
    pub checkpoints: u64,
    /// When the newest good one was signed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<String>,
    /// Ledger records of the topic that were compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger_records: Option<u64>,
    /// Ledger records that have not come to the log yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger_pending: Option<u64>,
    /// Ledger ranges whose root was recomputed from the raw, clean and deadletter topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges: Option<u64>,
    /// Ledger ranges for which the topics no longer have what it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges_unknown: Option<u64>,
    /// Raw records that were hashed for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_records: Option<u64>,
    /// Clean records that were read for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean_records: Option<u64>,
    /// Checkpoints held by others that the log continues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub continued: Vec<Continued>,
}

/// A checkpoint that somebody held, and the proof that the log has only grown since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Continued {
    /// The size in the checkpoint.
    pub from: u64,
    /// The size of the newest checkpoint of the log.
    pub to: u64,
    /// The root at that size, in hex.
    pub to_root: String,
    /// The consistency proof (RFC 9162 §2.1.4), in hex.
    pub proof: Vec<String>,
}

/// What a verification came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// What was looked at.
    pub lanes: Vec<LaneReport>,
    /// The first of what does not agree in each lane and each comparison, in the order of lanes.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Everything agrees.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}
