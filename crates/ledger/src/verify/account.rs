//! What ledger records account for, and what recomputing them needs and gives.

use std::collections::BTreeMap;
use std::ops::Range;

use super::report::Problem;
use crate::entry::Entry;
use crate::outcome::Outcome;

/// 128 bits that stand for an event id.
pub type EventId = u128;

/// What a ledger record accounts for.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its number in the log.
    pub entry: u64,
    /// The raw offsets that it covers.
    pub offsets: Range<i64>,
    /// How many records were found at them.
    pub records: u64,
    /// How many of them had which outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// The Merkle root over them, in hex.
    pub root: String,
    /// When the oldest and the newest of its records were appended, in ms; 0 without records.
    pub appended_ms: (i64, i64),
    /// Retention deleted the range before it was read.
    pub lost: bool,
}

impl Account {
    /// The account of entry `number` of the log.
    #[must_use]
    pub fn of(number: u64, entry: &Entry) -> Self {
        Self {
            entry: number,
            offsets: entry.first..entry.next,
            records: entry.records,
            outcomes: entry.outcomes.clone(),
            root: entry.root.clone(),
            appended_ms: (entry.t_first, entry.t_last),
            lost: entry.lost.is_some(),
        }
    }

    /// How many of its records had this outcome.
    pub(super) fn counted(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(outcome.as_str()).copied().unwrap_or(0)
    }
}

/// Accepted records of the ledger that the log does not have yet.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// How many.
    pub records: u64,
    /// All of the clean topic's before this offset are counted; more may be.
    pub before: i64,
}

/// The names of the topics that ledger records are recomputed from.
#[derive(Clone, Copy, Debug)]
pub struct TopicNames<'a> {
    /// The raw topic.
    pub raw: &'a str,
    /// The clean topic.
    pub clean: &'a str,
    /// The deadletter topic.
    pub deadletter: &'a str,
}

/// What to recompute.
pub struct Job<'a> {
    /// The lane's name.
    pub lane: &'a str,
    /// Its partition, in all topics.
    pub partition: i32,
    /// The topics.
    pub topics: TopicNames<'a>,
    /// The lane's ledger records in their order, including earlier ones than asked for as far as they can have had the
    /// same events.
    pub accounts: Vec<Account>,
    /// The first account that is asked for.
    pub from: usize,
    /// Offsets that more than one ledger record covers, because of a rewind.
    pub covers: Vec<Range<i64>>,
    /// The accounts end with the log; these accepted records are known to come behind it.
    pub pending_clean: Option<Pending>,
    /// When what belongs to the accounts was in the clean topic, in ms; `None` where that is unknown: then all of the topic
    /// is read.
    pub until_ms: Option<i64>,
    /// How long an event can be repeated, in ms. No two clocks are further apart, or the gate would take nothing.
    pub repeat_ms: i64,
    /// Compare with the raw and deadletter topics.
    pub raw: bool,
    /// Compare with the clean topic.
    pub clean: bool,
}

impl Job<'_> {
    /// The offsets that are accounted for, from the lowest to behind the highest.
    #[must_use]
    pub fn offsets(&self) -> Option<Range<i64>> {
        let start = self.accounts.iter().map(|account| account.offsets.start).min()?;
        let end = self.accounts.iter().map(|account| account.offsets.end).max()?;
        Some(start..end)
    }

    /// What belongs to the accounts was appended to clean and deadletter after this, in ms.
    #[must_use]
    pub fn since_ms(&self) -> Option<i64> {
        let mut first_ms = self.accounts.iter().map(|account| account.appended_ms.0);
        Some(first_ms.find(|ms| *ms > 0)? - self.repeat_ms)
    }
}

/// What recomputing a lane's ledger records gave.
#[derive(Default)]
pub struct Recomputed {
    /// Ranges whose root was recomputed.
    pub ranges: u64,
    /// Ranges for which the topics no longer have what it takes.
    pub unknown: u64,
    /// Raw records that were hashed.
    pub raw_records: u64,
    /// Clean records that were read.
    pub clean_records: u64,
    /// The first difference of each kind.
    pub problems: Vec<Problem>,
}
