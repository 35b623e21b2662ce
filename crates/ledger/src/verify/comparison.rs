//! Compares the ledger topic with the log, record by record, from the first record that both have.

use std::collections::VecDeque;

use super::account::Pending;
use super::compare::{Change, classify};
use super::report::{Kind, Problem, entry_kind};
use super::stored::{LedgerRecord, Row};
use super::window::Accounts;
use crate::entry as ledger;

/// Records examined to classify a difference.
const WINDOW: usize = 3;

/// Where the topics of a lane begin and end.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The first offset that retention has left of the ledger.
    pub low: i64,
    /// Everything in the clean topic before this offset is in the ledger too.
    pub clean_end: i64,
}

/// A comparison in progress. While it needs a record of the topic, its caller passes it the next one.
pub struct Comparison {
    pub(super) topic: String,
    partition: i32,
    /// The next records of the topic, oldest first.
    ahead: VecDeque<LedgerRecord>,
    ended: bool,
    ends: Ends,
    /// First offset of the topic that the log has not processed.
    next: i64,
    compared: u64,
    /// Records behind the end of the log, and how many accepted records they account for.
    pending: u64,
    pending_clean: u64,
    difference: Option<Difference>,
}

/// First difference between log and topic.
pub(super) struct Difference {
    change: Change,
    /// Number of the entry in the log; `None` past its end.
    pub entry: Option<u64>,
    raw_offset: Option<i64>,
    topic: String,
    partition: i32,
    /// Offset in the topic; `None` past its end.
    offset: Option<i64>,
}

/// Result of a comparison.
pub(super) struct Outcome {
    pub compared: u64,
    pub pending: u64,
    pub pending_clean: Pending,
    pub difference: Option<Difference>,
}

impl Comparison {
    /// A comparison with `partition` of `topic`, of which the log has taken what comes before `next`.
    #[must_use]
    pub fn new(topic: &str, partition: i32, ends: Ends, next: i64) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            ahead: VecDeque::new(),
            ended: false,
            ends,
            next,
            compared: 0,
            pending: 0,
            pending_clean: 0,
            difference: None,
        }
    }

    /// Compares the log's next ledger record, the first of `records`, which are the log's ledger records from there on.
    pub(super) fn take<'r>(
        &mut self,
        entry: &ledger::Entry,
        records: impl Iterator<Item = &'r Row>,
        raw_offset: Option<i64>,
    ) {
        if self.difference.is_some() {
            return;
        }
        let (next, low) = (self.next, self.ends.low);
        let taken: Vec<_> = self
            .ahead
            .iter()
            .take(WINDOW)
            .take_while(|record| record.offset < next)
            .collect();
        if low > 0 && self.compared == 0 && taken.first().is_some_and(|first| entry.seq < first.seq) {
            // Retention has deleted the record from the topic; the log still has it.
            return;
        }
        let found: Vec<&Row> = records.take(WINDOW).collect();
        let same = found.first().map(|row| row.bytes.as_slice())
            == taken.first().map(|record| record.value.as_slice());
        if same {
            self.ahead.pop_front();
            self.compared += 1;
            return;
        }
        let logged: Vec<&[u8]> = found.iter().map(|row| row.bytes.as_slice()).collect();
        let expected: Vec<&[u8]> = taken.iter().map(|record| record.value.as_slice()).collect();
        self.difference = Some(Difference {
            change: classify(&logged, &expected),
            entry: found.first().map(|row| row.seq),
            raw_offset,
            topic: self.topic.clone(),
            partition: self.partition,
            offset: taken.first().map(|record| record.offset),
        });
    }

    /// Whether the next record of the topic is needed before the log's next one is taken.
    pub(super) fn needs_record(&self) -> bool {
        !self.ended && self.difference.is_none() && self.ahead.len() < WINDOW
    }

    /// Takes the next record of the topic; `None` at its end.
    pub(super) fn offer(&mut self, record: Option<LedgerRecord>) {
        self.ended |= record.is_none();
        self.ahead.extend(record);
    }

    /// Takes the next record of the topic that is left behind the end of the log. The `accounts` see what it covers.
    pub(super) fn take_rest(
        &mut self,
        record: LedgerRecord,
        raw_offset: Option<i64>,
        accounts: Option<&mut Accounts>,
    ) {
        if record.offset >= self.next {
            self.pending += 1;
            self.pending_clean += record.clean;
            if let Some(accounts) = accounts {
                accounts.cover(record.covers);
            }
        } else if self.difference.is_none() {
            self.difference = Some(Difference {
                change: Change::Missing,
                entry: None,
                raw_offset,
                topic: self.topic.clone(),
                partition: self.partition,
                offset: Some(record.offset),
            });
        }
    }

    /// The records of the topic that were offered and not compared.
    pub(super) fn take_ahead(&mut self) -> VecDeque<LedgerRecord> {
        std::mem::take(&mut self.ahead)
    }

    /// What the comparison came to, once the rest of the topic was taken.
    pub(super) fn finish(self) -> Outcome {
        Outcome {
            compared: self.compared,
            pending: self.pending,
            pending_clean: Pending {
                records: self.pending_clean,
                before: self.ends.clean_end,
            },
            difference: self.difference,
        }
    }
}

impl Difference {
    /// The log was changed: compared with the topic it lacks records or has extra ones.
    pub(super) fn of_log(self, lane: &str, size: u64) -> Problem {
        let kind = match (self.change, self.entry) {
            (Change::Missing, None) => Kind::Truncated,
            (change, _) => entry_kind(change),
        };
        let (entry, raw_offset) = (self.entry.unwrap_or(size), self.raw_offset);
        self.place(Problem::new(kind, lane, "the log differs from the ledger topic"))
            .at(entry, raw_offset)
    }

    /// The topic was changed, and the log is as it was signed.
    pub(super) fn of_topic(self, lane: &str) -> Problem {
        let kind = match self.change {
            // A record missing from one is an extra record of the other.
            Change::Missing => Kind::LedgerInserted,
            Change::Inserted => Kind::LedgerMissing,
            Change::Reordered => Kind::LedgerReordered,
            Change::Changed => Kind::LedgerChanged,
        };
        let (entry, raw_offset) = (self.entry, self.raw_offset);
        let problem = self.place(Problem::new(
            kind,
            lane,
            "the ledger topic differs from the log, whose checkpoints are valid",
        ));
        match entry {
            Some(entry) => problem.at(entry, raw_offset),
            None => problem,
        }
    }

    fn place(&self, problem: Problem) -> Problem {
        match self.offset {
            Some(offset) => problem.in_topic(&self.topic, self.partition, offset),
            None => problem,
        }
    }
}
