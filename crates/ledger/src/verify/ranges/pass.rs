//! One pass over the raw records of a lane. Pure.
//!
//! The outcome of a record is first guessed: of the records that claim an event, the first was accepted. The root
//! proves the guess. If it does not match, a device may have signed an event more than once, which the gate allows:
//! then the root decides which of the records that share an event were accepted.

use std::ops::Range;

use itertools::Itertools as _;
use sha2::{Digest as _, Sha256};

use super::clean::{Claim, Clean};
use super::dead::Dead;
use crate::merkle::{self, Hash, MerkleRoot};
use crate::outcome::Outcome;
use crate::verify::account::EventId;
use crate::verify::account::{Account, Job, Recomputed};
use crate::verify::report::{Kind, Problem};

/// Most raw records kept in memory of ranges whose guess was wrong, at about 80 bytes each.
const DOUBTED_RECORDS_MAX: usize = 1_000_000;
/// Most choices of accepted records tried for one range. Ranges of a device that needs more are counted as unknown.
const WAYS_MAX: usize = 1_000;

/// A raw record.
pub struct Record<'a> {
    /// Its offset.
    pub offset: i64,
    /// When the broker appended it, in ms since the Unix epoch.
    pub appended_ms: i64,
    /// Its value.
    pub value: &'a [u8],
    /// Its event, where [`Pass::needs_event`] asks for it and it has one.
    pub event: Option<EventId>,
}

/// State of the pass.
pub struct Pass<'a> {
    job: &'a Job<'a>,
    /// Range of the raw topic that is read.
    read: Range<i64>,
    /// Whether nothing is missing before the first account.
    whole: bool,
    /// Until this time a replay may still arrive whose original has been deleted by retention.
    warm_until_ms: Option<i64>,
    dead: Dead,
    clean: Clean,
    /// Index of the account being recomputed.
    at: usize,
    tally: Tally,
    doubted: Vec<Doubted>,
    doubted_records: usize,
    /// Whether a range had more choices than may be tried.
    gave_up: bool,
    done: Recomputed,
}

/// Records found for one account.
#[derive(Default)]
struct Tally {
    leaves: Vec<Leaf>,
    /// First record whose event is not in clean.
    nowhere: Option<i64>,
}

/// A raw record of an account.
struct Leaf {
    offset: u64,
    digest: Hash,
    /// The record's event, if it is in clean.
    event: Option<EventId>,
    outcome: Outcome,
}

/// An account that does not match the guess.
struct Doubted {
    at: usize,
    tally: Tally,
    kind: Kind,
    detail: String,
}

/// Choices of accepted records among those that share an event.
enum Ways {
    /// The only choice that yields the root: one outcome per leaf.
    One(Vec<Outcome>),
    /// No choice yields the root.
    None,
    /// There are too many choices to try.
    TooMany,
}

impl<'a> Pass<'a> {
    /// Starts before the first raw record of `read`.
    pub fn new(job: &'a Job<'a>, read: Range<i64>, whole: bool, dead: Dead, clean: Clean) -> Self {
        let mut pass = Self {
            job,
            read,
            whole,
            warm_until_ms: None,
            dead,
            clean,
            at: 0,
            tally: Tally::default(),
            doubted: Vec::new(),
            doubted_records: 0,
            gave_up: false,
            done: Recomputed::default(),
        };
        pass.skip_before_start();
        pass
    }

    /// Skips accounts whose beginning has been deleted: they cannot be recomputed.
    fn skip_before_start(&mut self) {
        let start = self.read.start;
        while self
            .account()
            .is_some_and(|account| account.offsets.start < start)
        {
            self.done.unknown += u64::from(self.at >= self.job.from);
            self.at += 1;
        }
    }

    fn account(&self) -> Option<&'a Account> {
        self.job.accounts.get(self.at)
    }

    /// Whether the event of the record at `offset` matters.
    pub fn needs_event(&self, offset: i64) -> bool {
        !self.dead.has(offset) || self.job.covers.iter().any(|twice| twice.contains(&offset))
    }

    /// Processes the next raw record.
    pub fn take(&mut self, record: &Record<'_>) {
        if !self.whole && self.warm_until_ms.is_none() {
            self.warm_until_ms = Some(record.appended_ms + self.job.repeat_ms);
        }
        self.close_up_to(record.offset);
        let account = self.account();
        if account
            .is_some_and(|account| account.offsets.contains(&record.offset) && !self.is_unknown(account))
        {
            let leaf = self.guess(record);
            self.tally.leaves.push(leaf);
            self.done.raw_records += 1;
        } else {
            self.dead.forget(record.offset);
            record
                .event
                .into_iter()
                .for_each(|event| self.clean.loosen(event));
        }
    }

    /// Whether the account was lost, covered more than once, or may have replays of deleted records.
    fn is_unknown(&self, account: &Account) -> bool {
        let Range { start, end } = account.offsets;
        let overlaps = |twice: &Range<i64>| twice.start < end && start < twice.end;
        let (_, last_ms) = account.appended_ms;
        let warm = self
            .warm_until_ms
            .is_some_and(|until| last_ms != 0 && last_ms < until);
        account.lost || warm || self.job.covers.iter().any(overlaps)
    }

    fn guess(&mut self, record: &Record<'_>) -> Leaf {
        let rejected = self.dead.take(record.offset);
        let claim = match (rejected, record.event) {
            (None, Some(event)) => self.clean.claim(event),
            _ => Claim::Nowhere,
        };
        if rejected.is_none() && claim == Claim::Nowhere {
            self.tally.nowhere.get_or_insert(record.offset);
        }
        Leaf {
            offset: record.offset.cast_unsigned(),
            digest: Sha256::digest(record.value).into(),
            event: record.event.filter(|_| claim != Claim::Nowhere),
            outcome: rejected.unwrap_or(match claim {
                Claim::Taken => Outcome::Clean,
                Claim::Before | Claim::Nowhere => Outcome::Duplicate,
            }),
        }
    }

    /// Compares every account that ends at or before `offset`.
    fn close_up_to(&mut self, offset: i64) {
        while let Some(account) = self.account()
            && account.offsets.end <= offset
        {
            let tally = std::mem::take(&mut self.tally);
            self.compare(account, tally);
            self.at += 1;
        }
    }

    fn compare(&mut self, account: &Account, tally: Tally) {
        let wanted = u64::from(self.at >= self.job.from);
        if self.is_unknown(account) {
            self.done.unknown += wanted;
            return;
        }
        self.done.ranges += wanted;
        if let Some((kind, detail)) = tally.difference(account) {
            self.doubted_records += tally.leaves.len();
            self.doubted.push(Doubted {
                at: self.at,
                tally,
                kind,
                detail,
            });
        }
        if self.doubted_records > DOUBTED_RECORDS_MAX {
            self.settle();
        }
    }

    /// Returns the result after the last raw record.
    pub fn finish(mut self) -> Recomputed {
        self.close_up_to(i64::MAX);
        self.settle();
        self.balance();
        self.leftovers();
        self.done
    }

    /// Lets the roots decide where the guess was wrong.
    fn settle(&mut self) {
        self.doubted_records = 0;
        let (mut settled, mut accepted) = (Vec::new(), Vec::new());
        for doubted in std::mem::take(&mut self.doubted) {
            match self.ways(&doubted) {
                Ways::One(outcomes) => settled.push((doubted, outcomes)),
                Ways::None => self.disagrees(&doubted),
                Ways::TooMany => self.give_up(&doubted),
            }
        }
        // Records given back by one account may be needed by another: take only after all are given back.
        for (Doubted { at, tally, .. }, outcomes) in settled {
            for (leaf, outcome) in tally.leaves.iter().zip(outcomes) {
                match (leaf.event, leaf.outcome, outcome) {
                    (Some(event), Outcome::Clean, Outcome::Duplicate) => self.clean.give_back(event),
                    (Some(event), Outcome::Duplicate, Outcome::Clean) => accepted.push((at, event)),
                    _ => {}
                }
            }
        }
        for (at, event) in accepted {
            if !self.clean.take(event) {
                let detail = "an event was accepted more often than the clean topic has it";
                let problem = Problem::new(Kind::CleanMissing, self.job.lane, detail);
                self.note_at(at, problem, None);
            }
        }
    }

    /// Searches for the choice that yields the account's root.
    fn ways(&self, doubted: &Doubted) -> Ways {
        if !matches!(
            doubted.kind,
            Kind::CleanMissing | Kind::CleanInserted | Kind::RawChanged
        ) {
            return Ways::None;
        }
        let account = &self.job.accounts[doubted.at];
        doubted.tally.ways(account, |event| self.clean.is_shared(event))
    }

    fn disagrees(&mut self, doubted: &Doubted) {
        let problem = Problem::new(doubted.kind, self.job.lane, doubted.detail.as_str());
        let missing = matches!(doubted.kind, Kind::CleanMissing | Kind::DeadletterMissing);
        self.note_at(doubted.at, problem, doubted.tally.nowhere.filter(|_| missing));
    }

    fn give_up(&mut self, doubted: &Doubted) {
        self.gave_up = true;
        let wanted = u64::from(doubted.at >= self.job.from);
        self.done.ranges -= wanted;
        self.done.unknown += wanted;
        let events = doubted.tally.leaves.iter().filter_map(|leaf| leaf.event);
        events.for_each(|event| self.clean.loosen(event));
    }

    /// Checks the total of clean records if ranges were given up, so that a missing record still shows: only for a lane
    /// known from its beginning, and reported once.
    fn balance(&mut self) {
        let Job { accounts, covers, .. } = self.job;
        if !self.gave_up || !self.whole || !covers.is_empty() || accounts.iter().any(|account| account.lost) {
            return;
        }
        let counted: u64 = accounts
            .iter()
            .map(|account| account.counted(Outcome::Clean))
            .sum();
        let pending = self.job.pending_clean.map_or(0, |pending| pending.records);
        let found = (self.clean.len() as u64).saturating_sub(pending);
        if found < counted {
            let detail = format!("{found} clean records where the ledger counts {counted}");
            self.note(Problem::new(Kind::CleanMissing, self.job.lane, detail));
        }
    }

    /// Reports records of clean and deadletter that no raw record accounts for.
    fn leftovers(&mut self) {
        let topics = self.job.topics;
        if let Some((origin, at)) = self.dead.left_in(&self.read) {
            let detail =
                format!("its raw record {origin} is missing, or has more than one deadletter record");
            let problem = Problem::new(Kind::DeadletterInserted, self.job.lane, detail);
            self.note(problem.in_topic(topics.deadletter, self.job.partition, at));
        }
        let pending = self.job.pending_clean.map(|pending| pending.records);
        if let Some(at) = self.clean.left(self.whole, pending) {
            let detail = "no raw record corresponds to it";
            let problem = Problem::new(Kind::CleanInserted, self.job.lane, detail);
            self.note(problem.in_topic(topics.clean, self.job.partition, at));
        }
    }

    /// Notes a discrepancy of an account, if the account was requested.
    fn note_at(&mut self, at: usize, problem: Problem, offset: Option<i64>) {
        let account = &self.job.accounts[at];
        if at >= self.job.from {
            self.note(problem.at(account.entry, Some(offset.unwrap_or(account.offsets.start))));
        }
    }

    fn note(&mut self, problem: Problem) {
        if !self.done.problems.iter().any(|noted| noted.kind == problem.kind) {
            self.done.problems.push(problem);
        }
    }
}

impl Tally {
    /// Returns the account's discrepancy, if there is one.
    fn difference(&self, account: &Account) -> Option<(Kind, String)> {
        let Range { start, end } = account.offsets;
        let said = |what: &str, found: u64, wanted: u64| {
            format!("{found} {what} records of {start}..{end} where the ledger counts {wanted}")
        };
        let count =
            |of: &dyn Fn(Outcome) -> bool| self.leaves.iter().filter(|leaf| of(leaf.outcome)).count() as u64;
        let rejected = |outcome: Outcome| !matches!(outcome, Outcome::Clean | Outcome::Duplicate);
        let records = (self.leaves.len() as u64, account.records);
        let clean = (
            count(&|outcome| outcome == Outcome::Clean),
            account.counted(Outcome::Clean),
        );
        let repeats = account.counted(Outcome::Duplicate);
        let counted_rejected = account.outcomes.values().sum::<u64>() - clean.1 - repeats;
        let rejected = (count(&rejected), counted_rejected);
        let counts = [
            ("raw", records, Kind::RawMissing, Kind::RawInserted),
            (
                "rejected",
                rejected,
                Kind::DeadletterMissing,
                Kind::DeadletterInserted,
            ),
            ("clean", clean, Kind::CleanMissing, Kind::CleanInserted),
        ];
        for (what, (found, wanted), missing, inserted) in counts {
            if found != wanted {
                let kind = if found < wanted { missing } else { inserted };
                return Some((kind, said(what, found, wanted)));
            }
        }
        let detail = || format!("a record of {start}..{end}, or its outcome, was changed");
        (hex::encode(self.root(&self.outcomes())) != account.root).then(|| (Kind::RawChanged, detail()))
    }

    fn root(&self, outcomes: &[Outcome]) -> Hash {
        let mut root = MerkleRoot::new();
        for (leaf, outcome) in self.leaves.iter().zip(outcomes) {
            root.push(merkle::record_leaf(leaf.offset, outcome.as_str(), &leaf.digest));
        }
        root.root()
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.leaves.iter().map(|leaf| leaf.outcome).collect()
    }

    /// Searches for outcomes that yield the account's root, where each record whose event `is_shared` may be accepted
    /// or a repeat.
    fn ways(&self, account: &Account, is_shared: impl Fn(EventId) -> bool) -> Ways {
        let mut outcomes = self.outcomes();
        let shared = |place: &usize| self.leaves[*place].event.is_some_and(&is_shared);
        let open: Vec<usize> = (0..outcomes.len()).filter(shared).collect();
        for place in &open {
            outcomes[*place] = Outcome::Duplicate;
        }
        let sure = outcomes
            .iter()
            .filter(|outcome| **outcome == Outcome::Clean)
            .count();
        let Some(accepted) = account.counted(Outcome::Clean).checked_sub(sure as u64) else {
            return Ways::None;
        };
        for (tried, chosen) in open.into_iter().combinations(accepted as usize).enumerate() {
            if tried == WAYS_MAX {
                return Ways::TooMany;
            }
            let mut outcomes = outcomes.clone();
            for place in chosen {
                outcomes[place] = Outcome::Clean;
            }
            if hex::encode(self.root(&outcomes)) == account.root {
                return Ways::One(outcomes);
            }
        }
        Ways::None
    }
}
