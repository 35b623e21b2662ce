//! State of one raw partition: its admissions and its ledger, and how both are rolled back when a transaction is
//! aborted.
//!
//! A lane has three positions: `settled`, the end of the last committed transaction; `handed`, the end of the
//! transaction that is being committed; and `here`, up to which records are accounted for. An abort returns to
//! `settled`, a commit makes `handed` the new `settled`.

use crate::gate::admit::{Admission, Savepoint};
use crate::gate::seal::SealedBatch;
use crate::gate::verify::Budget;
use pulsegate_ledger::entry::{Head, Notice, Outset, Stamp, Tally};
use pulsegate_ledger::outcome::Outcome;
use pulsegate_ledger::record::Received;

/// An open lane: its replay state is rebuilt, and it can account for the next record.
pub struct Lane {
    partition: i32,
    name: String,
    /// Replay windows and rate limits.
    pub admission: Admission,
    /// Remaining budget for signature checks that fail.
    pub budget: Budget,
    tally: Tally,
    notices: Vec<Notice>,
    here: Place,
    /// Savepoint that the admission returns to if the open transaction is aborted. Always `Some` between two calls.
    began: Option<Savepoint>,
    handed: Option<Handed>,
    settled: Checkpoint,
    aborts: u32,
}

#[derive(Clone)]
struct Place {
    head: Head,
    /// The next raw offset to account for.
    position: i64,
}

/// State of the lane at the end of a transaction.
struct Checkpoint {
    place: Place,
    budget: Budget,
    notices: Vec<Notice>,
}

/// A transaction that is being committed.
struct Handed {
    began: Savepoint,
    after: Checkpoint,
}

impl Lane {
    /// Opens a lane and increments its epoch.
    #[must_use]
    pub fn open(
        topic: &str,
        partition: i32,
        outset: Outset,
        mut admission: Admission,
        budget: Budget,
    ) -> Self {
        let position = outset.position();
        let Outset { mut head, notices } = outset;
        head.epoch += 1;
        let name = format!("{topic}/{partition}");
        let here = Place { head, position };
        let settled = Checkpoint {
            place: here.clone(),
            budget,
            notices: notices.clone(),
        };
        let began = Some(admission.savepoint());
        Self {
            partition,
            name,
            admission,
            budget,
            tally: Tally::default(),
            notices,
            here,
            began,
            handed: None,
            settled,
            aborts: 0,
        }
    }

    /// `<raw topic>/<partition>`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next raw offset to account for.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.here.position
    }

    /// The first raw offset that no committed transaction covers.
    #[must_use]
    pub fn settled(&self) -> i64 {
        self.settled.place.position
    }

    /// Number of aborted transactions with records of the lane since the last committed one.
    #[must_use]
    pub fn aborts(&self) -> u32 {
        self.aborts
    }

    /// Whether the lane has something to write to the ledger.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.tally.is_empty() || !self.notices.is_empty()
    }

    /// Accounts for one record and its outcome.
    pub fn account(&mut self, record: &Received, outcome: Outcome) {
        self.tally.add(record, outcome);
        self.here.position = record.offset + 1;
    }

    /// Closes the lane's part of a transaction: adds its ledger records to the batch and returns the counts by outcome.
    pub fn hand_over(&mut self, stamp: &Stamp, batch: &mut SealedBatch) -> [u64; Outcome::COUNT] {
        let head = &mut self.here.head;
        for notice in self.notices.drain(..) {
            let entry = match notice {
                Notice::Lost { next } => head.append_lost(&self.name, next, stamp),
                Notice::Rewind { to } => head.append_rewind(&self.name, to, stamp),
            };
            batch.add_ledger(self.partition, &self.name, &entry);
        }
        let tally = std::mem::take(&mut self.tally);
        if !tally.is_empty() {
            let entry = head.append(&self.name, &tally, self.here.position, stamp);
            batch.add_ledger(self.partition, &self.name, &entry);
        }
        let next = self.admission.savepoint();
        let after = Checkpoint {
            place: self.here.clone(),
            budget: self.budget,
            notices: Vec::new(),
        };
        self.handed = self.began.replace(next).map(|began| Handed { began, after });
        *tally.counts()
    }

    /// Notes that the transaction that was handed over is committed.
    pub fn commit(&mut self) {
        if let Some(Handed { began, after }) = self.handed.take() {
            self.admission.commit_through(began);
            self.settled = after;
            self.aborts = 0;
        }
    }

    /// Aborts the transaction that was handed over, if any: undoes everything since the last commit.
    pub fn abort(&mut self) {
        self.aborts += u32::from(self.handed.is_some());
        let began = self
            .handed
            .take()
            .map(|handed| handed.began)
            .or_else(|| self.began.take());
        if let Some(began) = began {
            self.admission.rollback_to(began);
        }
        self.began = Some(self.admission.savepoint());
        self.tally = Tally::default();
        self.budget = self.settled.budget;
        self.notices.clone_from(&self.settled.notices);
        self.here = self.settled.place.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::admit;
    use crate::gate::verify::BudgetConfig;
    use pulsegate_ledger::entry::Entry;
    use pulsegate_ledger::record::SignatureHeaders;

    const STAMP: Stamp<'_> = Stamp {
        worker: "w",
        schema_rev: "s",
        key_rev: 1,
    };

    fn lane(notices: Vec<Notice>) -> Lane {
        let admission = Admission::new(&admit::Config::default(), 300_000);
        let budget = Budget::new(&BudgetConfig::default(), 300_000);
        Lane::open(
            "raw",
            3,
            Outset {
                head: Head::genesis(0),
                notices,
            },
            admission,
            budget,
        )
    }

    fn account(lane: &mut Lane, offsets: std::ops::Range<i64>) {
        for offset in offsets {
            let signature = SignatureHeaders::default();
            let record = Received {
                partition: 3,
                offset,
                appended_ms: 1,
                key: None,
                value: b"v",
                signature,
            };
            lane.account(&record, Outcome::Clean);
        }
    }

    /// Hands over and returns the number and range of each ledger record.
    fn hand_over(lane: &mut Lane) -> Vec<(u64, i64, i64)> {
        let mut batch = SealedBatch::default();
        lane.hand_over(&STAMP, &mut batch);
        let entries = batch
            .ledger()
            .map(|(_, _, value)| Entry::parse(value).expect("an entry"));
        entries
            .map(|entry| (entry.seq, entry.first, entry.next))
            .collect()
    }

    #[test]
    fn an_abort_undoes_the_transaction_in_flight_and_the_one_that_is_being_filled() {
        let mut lane = lane(Vec::new());
        account(&mut lane, 0..3);
        assert_eq!(hand_over(&mut lane), [(0, 0, 3)]);
        account(&mut lane, 3..5);
        lane.abort();
        assert_eq!((lane.position(), lane.settled(), lane.is_dirty()), (0, 0, false));
        account(&mut lane, 0..4);
        assert_eq!(hand_over(&mut lane), [(0, 0, 4)]);
    }

    #[test]
    fn a_commit_holds_when_the_next_transaction_is_aborted() {
        let mut lane = lane(Vec::new());
        account(&mut lane, 0..3);
        hand_over(&mut lane);
        account(&mut lane, 3..5);
        lane.commit();
        assert_eq!((lane.position(), lane.settled()), (5, 3));
        lane.abort();
        assert_eq!((lane.position(), lane.settled()), (3, 3));
        account(&mut lane, 3..9);
        assert_eq!(hand_over(&mut lane), [(1, 3, 9)]);
    }

    #[test]
    fn aborts_count_from_the_last_commit_and_only_where_the_lane_took_part() {
        let mut lane = lane(Vec::new());
        account(&mut lane, 0..3);
        lane.abort();
        assert_eq!(lane.aborts(), 0, "nothing was handed over");
        for aborts in 1..3 {
            account(&mut lane, 0..3);
            hand_over(&mut lane);
            lane.abort();
            assert_eq!(lane.aborts(), aborts);
        }
        account(&mut lane, 0..3);
        hand_over(&mut lane);
        lane.commit();
        assert_eq!(lane.aborts(), 0);
    }

    #[test]
    fn notices_come_first_and_come_again_after_an_abort() {
        let mut lane = lane(vec![Notice::Rewind { to: 7 }, Notice::Lost { next: 10 }]);
        assert_eq!((lane.position(), lane.is_dirty()), (10, true));
        account(&mut lane, 10..12);
        let expected = [(0, 7, 7), (1, 7, 10), (2, 10, 12)];
        assert_eq!(hand_over(&mut lane), expected);
        lane.abort();
        assert!(lane.is_dirty());
        account(&mut lane, 10..12);
        assert_eq!(hand_over(&mut lane), expected);
        lane.commit();
        assert!(!lane.is_dirty());
    }
}
