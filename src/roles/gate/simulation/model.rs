//! What must hold (the contract's §2 and §7), computed from the raw log alone and compared with every transaction that
//! commits.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::fixture::PARTITIONS;
use super::log::{Log, Partition, Raw, Transaction};
use pulsegate_ledger::entry::Entry;
use pulsegate_ledger::outcome::Outcome;

/// The ledger of one lane, as far as it is committed.
#[derive(Default)]
struct Lane {
    seq: u64,
    hash: [u8; 32],
    next: i64,
    epoch: u64,
    /// Events that were admitted.
    seen: BTreeSet<usize>,
}

/// All lanes, and the first violation.
pub struct Model {
    lanes: Vec<Lane>,
    violation: Option<String>,
    commits: usize,
}

impl Model {
    pub fn new() -> Self {
        Self {
            lanes: (0..PARTITIONS.get()).map(|_| Lane::default()).collect(),
            violation: None,
            commits: 0,
        }
    }

    pub fn violation(&self) -> Option<&String> {
        self.violation.as_ref()
    }

    pub fn commits(&self) -> usize {
        self.commits
    }

    /// The first offset that no committed ledger record covers.
    pub fn next(&self, partition: i32) -> i64 {
        self.lanes[partition as usize].next
    }

    /// Compares a transaction with the log, at the moment that its commit is decided.
    pub fn commit(&mut self, log: &Log, id: usize) {
        self.commits += 1;
        let checked = self.check(log, &log.transactions[id]);
        if let Err(violation) = checked {
            self.violation
                .get_or_insert(format!("transaction {id}: {violation}"));
        }
    }

    fn check(&mut self, log: &Log, transaction: &Transaction) -> Result<(), String> {
        let mut expected = Produced::default();
        for (partition, value) in &transaction.ledger {
            let entry = Entry::parse(value).map_err(|error| error.to_string())?;
            let lane = &mut self.lanes[*partition as usize];
            lane.follow(&entry, value, log.partition(*partition))
                .and_then(|first| {
                    lane.account(
                        *partition,
                        log.partition(*partition),
                        first,
                        &entry,
                        &mut expected,
                    )
                })
                .map_err(|violation| format!("lane {partition}: {violation}"))?;
        }
        same("clean records", &expected.clean, &sorted(&transaction.clean))?;
        same("deadletters", &expected.letters, &sorted(&transaction.letters))?;
        let written: BTreeSet<_> = transaction
            .ledger
            .iter()
            .map(|(partition, _)| *partition)
            .collect();
        let offsets = written
            .into_iter()
            .map(|partition| (partition, self.next(partition)));
        same(
            "offsets",
            &offsets.collect::<Vec<_>>(),
            &sorted(&transaction.offsets),
        )
    }
}

/// What a transaction must produce.
#[derive(Default)]
struct Produced {
    clean: Vec<(i32, usize)>,
    letters: Vec<(i32, i64)>,
}

impl Lane {
    /// Appends an entry to the chain. Returns the first offset that it covers.
    fn follow(&mut self, entry: &Entry, value: &[u8], log: &Partition) -> Result<i64, String> {
        let gone = |offset| {
            log.raw
                .iter()
                .all(|raw| raw.offset >= offset || raw.offset < log.low)
        };
        if self.seq == 0 && gone(entry.first) {
            // A lane begins with what retention has left.
            self.next = entry.first;
        }
        same("number of the entry", &self.seq, &entry.seq)?;
        same("previous entry", &hex::encode(self.hash), &entry.prev)?;
        same("first offset", &self.next, &entry.first)?;
        if entry.epoch < self.epoch || entry.next < entry.first {
            return Err(format!("epoch or range run backwards: {entry:?}"));
        }
        *self = Self {
            seq: entry.seq + 1,
            hash: Sha256::digest(value).into(),
            next: entry.next,
            epoch: entry.epoch,
            seen: std::mem::take(&mut self.seen),
        };
        Ok(entry.first)
    }

    fn account(
        &mut self,
        partition: i32,
        log: &Partition,
        first: i64,
        entry: &Entry,
        expected: &mut Produced,
    ) -> Result<(), String> {
        let covered = log
            .raw
            .iter()
            .filter(|raw| (first..entry.next).contains(&raw.offset));
        if entry.lost.is_some() {
            let kept = covered.clone().filter(|raw| raw.offset >= log.low).count();
            return same("records that are lost and still there", &0, &kept);
        }
        let mut counts = BTreeMap::new();
        for raw in covered {
            let outcome = self.outcome(raw);
            *counts.entry(outcome.as_str().to_owned()).or_default() += 1;
            match outcome {
                Outcome::Clean => expected.clean.push((partition, raw.signed.event)),
                Outcome::Rejected(_) => expected.letters.push((partition, raw.offset)),
                Outcome::Duplicate => {}
            }
        }
        same("outcomes", &counts, &entry.outcomes)?;
        same("records", &counts.values().sum::<u64>(), &entry.records)
    }

    fn outcome(&mut self, raw: &Raw) -> Outcome {
        match raw.signed.outcome {
            Outcome::Clean if !self.seen.insert(raw.signed.event) => Outcome::Duplicate,
            outcome => outcome,
        }
    }
}

fn same<T: PartialEq + std::fmt::Debug>(of: &str, expected: &T, found: &T) -> Result<(), String> {
    if expected == found {
        Ok(())
    } else {
        Err(format!("{of}: expected {expected:?}, found {found:?}"))
    }
}

/// By lane, in each lane's own order.
fn sorted<T: Copy>(of: &[(i32, T)]) -> Vec<(i32, T)> {
    let mut sorted = of.to_vec();
    sorted.sort_by_key(|(partition, _)| *partition);
    sorted
}
