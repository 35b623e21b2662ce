//! Compares the ledger topic with the log, record by record, from the first record that both have.

use super::VerifyError;
use super::compare::{Change, classify};
use super::lane::entry_kind;
use super::report::{Kind, Problem};
use super::snapshot::Row;
use super::topic::Ledger;
use super::window::Accounts;
use crate::gate::ledger;

/// Records examined to classify a difference.
const WINDOW: usize = 3;

/// A comparison in progress.
pub(super) struct Comparison {
    pub topic: String,
    partition: i32,
    ledger: Ledger,
    /// First offset of the topic that the log has not processed.
    next: i64,
    compared: u64,
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

/// Accepted records of the ledger that have not reached the log yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub records: u64,
    /// All records of the clean topic before this offset are counted; later ones may be.
    pub before: i64,
}

/// Result of a comparison.
pub(super) struct Outcome {
    pub compared: u64,
    pub pending: u64,
    pub pending_clean: Pending,
    pub difference: Option<Difference>,
}

impl Comparison {
    pub(super) fn new(topic: &str, partition: i32, ledger: Ledger, next: i64) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            ledger,
            next,
            compared: 0,
            difference: None,
        }
    }

    /// Compares the log's next ledger record, the first of `records`, which are the log's ledger records from there on.
    pub(super) async fn take<'r>(
        &mut self,
        entry: &ledger::Entry,
        records: impl Iterator<Item = &'r Row>,
        raw_offset: Option<i64>,
    ) -> Result<(), VerifyError> {
        if self.difference.is_some() {
            return Ok(());
        }
        let (next, low) = (self.next, self.ledger.low);
        let ahead = self.ledger.peek(WINDOW).await?;
        let taken: Vec<_> = ahead
            .iter()
            .take(WINDOW)
            .take_while(|record| record.offset < next)
            .collect();
        if low > 0 && self.compared == 0 && taken.first().is_some_and(|first| entry.seq < first.seq) {
            // Retention has deleted the record from the topic; the log still has it.
            return Ok(());
        }
        let found: Vec<&Row> = records.take(WINDOW).collect();
        let same = found.first().map(|row| row.bytes.as_slice())
            == taken.first().map(|record| record.value.as_slice());
        if same {
            self.ledger.next().await?;
            self.compared += 1;
            return Ok(());
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
        Ok(())
    }

    /// Reads the rest of the topic past the end of the log. The `accounts` learn what it covers.
    pub(super) async fn finish(
        mut self,
        raw_offset: Option<i64>,
        mut accounts: Option<&mut Accounts>,
    ) -> Result<Outcome, VerifyError> {
        let (mut pending, mut pending_clean) = (0, 0);
        while let Some(record) = self.ledger.next().await? {
            if record.offset >= self.next {
                pending += 1;
                pending_clean += record.clean;
                if let Some(accounts) = &mut accounts {
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
        Ok(Outcome {
            compared: self.compared,
            pending,
            pending_clean: Pending {
                records: pending_clean,
                before: self.ledger.clean_end,
            },
            difference: self.difference,
        })
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
