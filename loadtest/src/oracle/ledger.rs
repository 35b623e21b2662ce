//! Ledger records in the contract's form, and the chain that they make.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::report::{Problem, Report};
use crate::outcome::Outcome;

/// A ledger record. The members are in canonical order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    v: u32,
    lane: String,
    seq: u64,
    prev: String,
    pub first: i64,
    pub next: i64,
    pub records: u64,
    pub outcomes: BTreeMap<String, u64>,
    pub root: String,
    worker: String,
    epoch: u64,
    schema_rev: String,
    key_rev: u64,
    pub t_first: i64,
    pub t_last: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewind: Option<Rewind>,
    /// Offset in the ledger topic.
    #[serde(skip)]
    pub offset: i64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lost {
    first: i64,
    next: i64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rewind {
    from: i64,
    to: i64,
}

/// Chain of one lane, checked record by record.
pub(super) struct Chain {
    topic: String,
    partition: i32,
    lane: String,
    /// Whether the first record read must be the chain's first.
    from_start: bool,
    last: Option<Link>,
    pub entries: Vec<Entry>,
}

struct Link {
    seq: u64,
    hash: String,
    next: i64,
}

impl Chain {
    /// A chain read from the topic's first record (`from_start`) or from a later one.
    pub fn new(topic: &str, raw_topic: &str, partition: i32, from_start: bool) -> Self {
        let lane = format!("{raw_topic}/{partition}");
        Self {
            topic: topic.to_owned(),
            partition,
            lane,
            from_start,
            last: None,
            entries: Vec::new(),
        }
    }

    /// Checks the next record of the partition.
    pub fn push(&mut self, offset: i64, key: Option<&[u8]>, value: &[u8], report: &mut Report) {
        let mut wrong =
            |problem, detail: &str| report.note(problem, &self.topic, self.partition, offset, detail);
        let hash = hex(&Sha256::digest(value));
        let Ok(mut entry) = serde_json::from_slice::<Entry>(value) else {
            wrong(Problem::LedgerMalformed, "not a ledger record");
            return;
        };
        if serde_json::to_vec(&entry).is_ok_and(|canonical| canonical != value) {
            wrong(Problem::LedgerMalformed, "not in canonical form");
        }
        if entry.v != 1 || entry.lane != self.lane || key != Some(self.lane.as_bytes()) {
            wrong(Problem::LedgerMalformed, "another version or another lane");
        }
        let unknown = |name: &String| Outcome::from_name(name.as_bytes()).is_none();
        if entry.outcomes.keys().any(unknown) || entry.outcomes.values().any(|count| *count == 0) {
            wrong(
                Problem::LedgerMalformed,
                "unknown outcomes, or outcomes with a count of 0",
            );
        }
        if entry.records != entry.outcomes.values().sum::<u64>() {
            wrong(Problem::LedgerCounts, "the outcomes do not add up to the records");
        }
        self.check_link(&entry, &mut wrong);
        self.last = Some(Link {
            seq: entry.seq,
            hash,
            next: entry.next,
        });
        entry.offset = offset;
        self.entries.push(entry);
    }

    fn check_link(&self, entry: &Entry, wrong: &mut impl FnMut(Problem, &str)) {
        let first_seq = if self.from_start { 0 } else { entry.seq };
        let (seq, prev) = match &self.last {
            Some(last) => (last.seq + 1, last.hash.as_str()),
            None if entry.seq == 0 || self.from_start => (first_seq, ZEROS),
            None => (first_seq, entry.prev.as_str()),
        };
        if entry.seq != seq {
            wrong(
                Problem::LedgerChain,
                &format!("sequence {}, expected {seq}", entry.seq),
            );
        }
        if entry.prev != prev {
            wrong(
                Problem::LedgerChain,
                "`prev` is not the hash of the preceding record",
            );
        }
        let Some(last) = &self.last else { return };
        let expected = match entry.rewind {
            Some(rewind) if rewind.from != last.next => {
                wrong(
                    Problem::LedgerRange,
                    &format!("rewinds from {}, but the chain was at {}", rewind.from, last.next),
                );
                rewind.to
            }
            Some(rewind) => rewind.to,
            None => last.next,
        };
        if entry.first != expected || entry.next < entry.first {
            wrong(
                Problem::LedgerRange,
                &format!(
                    "covers {}..{}, expected to begin at {expected}",
                    entry.first, entry.next
                ),
            );
        }
        if entry
            .lost
            .is_some_and(|lost| (lost.first, lost.next, 0) != (entry.first, entry.next, entry.records))
        {
            wrong(Problem::LedgerRange, "its lost range differs from its range");
        }
    }
}

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
            text
        })
}
