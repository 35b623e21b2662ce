//! The ledger beside what it accounts for: each range's counts and Merkle root, recomputed from the raw, clean and
//! deadletter topics.
//!
//! A record that is in the deadletter was rejected for the reason that stands there; of the others the one whose event is
//! in the clean topic was accepted, and one whose event is there no more often than it was taken is a repeat. Ranges that
//! retention has eaten into, or that were covered twice because of a rewind, can't be recomputed and are counted apart.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers as _};
use sha2::{Digest as _, Sha256};

use super::events::{EventId, Events};
use super::ledger::Pending;
use super::report::{Kind, Problem};
use super::topic::Reader;
use super::{Against, VerifyError};
use crate::crypto::merkle::{self, MerkleRoot};
use crate::gate::ledger;
use crate::gate::outcome::Outcome;
use crate::io::kafka::Topics;

/// Clean and deadletter records of one lane that are kept in memory at most, at about 50 bytes each.
const RECORDS_MAX: usize = 20_000_000;

/// What a ledger record accounts for.
#[derive(Clone, Debug)]
pub(super) struct Account {
    /// Its number in the log.
    pub entry: u64,
    pub offsets: Range<i64>,
    pub records: u64,
    pub outcomes: BTreeMap<String, u64>,
    pub root: String,
    /// When the newest of its records was appended, in ms; 0 without records.
    pub appended_ms: i64,
    pub lost: bool,
}

impl Account {
    pub(super) fn of(number: u64, entry: &ledger::Entry) -> Self {
        Self {
            entry: number,
            offsets: entry.first..entry.next,
            records: entry.records,
            outcomes: entry.outcomes.clone(),
            root: entry.root.clone(),
            appended_ms: entry.t_last,
            lost: entry.lost.is_some(),
        }
    }
}

/// What to recompute.
pub(super) struct Job<'a> {
    pub lane: &'a str,
    pub partition: i32,
    pub topics: &'a Topics,
    /// The lane's ledger records in their order, those before the ones that are asked for included as far as they can
    /// have had the same events.
    pub accounts: Vec<Account>,
    /// The first account that is asked for.
    pub from: usize,
    /// The accounts end with the log; these accepted records are known to come behind it.
    pub pending_clean: Option<Pending>,
    /// How long an event can be repeated, in ms.
    pub repeat_ms: i64,
    pub raw: bool,
    pub clean: bool,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Recomputed {
    pub ranges: u64,
    pub unknown: u64,
    pub raw_records: u64,
    pub problems: Vec<Problem>,
}

/// Recomputes a lane. Blocking.
pub(super) fn recompute(
    job: &Job<'_>,
    reader: &Reader,
    events: &mut Events,
) -> Result<Recomputed, VerifyError> {
    let Some(first) = job.accounts.first().map(|account| account.offsets.start) else {
        return Ok(Recomputed::default());
    };
    let (low, _) = reader.watermarks(&job.topics.raw, job.partition)?;
    let dead = Dead::read(job, reader)?;
    let clean = Clean::read(job, reader, events)?;
    let start = first.max(low);
    let mut pass = Pass {
        job,
        whole: low == 0 && first == 0,
        warm_until_ms: None,
        dead,
        clean,
        covers: covers(&job.accounts),
        at: 0,
        tally: Tally::default(),
        done: Recomputed::default(),
    };
    pass.skip_before(start);
    let end = job
        .accounts
        .iter()
        .map(|account| account.offsets.end)
        .max()
        .unwrap_or(start);
    if start < end {
        reader.read(&job.topics.raw, job.partition, start, |message| {
            if message.offset() < end {
                pass.take(message, events)?;
            }
            Ok(message.offset() + 1 < end)
        })?;
    }
    pass.close_up_to(i64::MAX);
    pass.leftovers(start..end);
    let Pass { mut done, .. } = pass;
    done.problems.retain(|problem| match problem.kind {
        Kind::CleanMissing | Kind::CleanInserted => job.clean,
        _ => job.raw,
    });
    Ok(done)
}

/// Offsets that more than one account covers, because of a rewind.
fn covers(accounts: &[Account]) -> Vec<Range<i64>> {
    let mut covered: Vec<&Range<i64>> = accounts.iter().map(|account| &account.offsets).collect();
    covered.retain(|range| !range.is_empty());
    covered.sort_by_key(|range| range.start);
    let (mut twice, mut end) = (Vec::new(), i64::MIN);
    for range in covered {
        if range.start < end {
            twice.push(range.start..range.end.min(end));
        }
        end = end.max(range.end);
    }
    twice
}

/// One pass over the raw records.
struct Pass<'a> {
    job: &'a Job<'a>,
    /// Nothing is missing before the first account.
    whole: bool,
    /// Repeats of what is gone could come until then.
    warm_until_ms: Option<i64>,
    dead: Dead,
    clean: Clean,
    covers: Vec<Range<i64>>,
    /// The account that is being recomputed.
    at: usize,
    tally: Tally,
    done: Recomputed,
}

/// What was found of one account.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<&'static str, u64>,
    records: u64,
    root: MerkleRoot,
    /// The first record whose event is nowhere.
    nowhere: Option<i64>,
}

impl Pass<'_> {
    /// Accounts whose beginning is gone can't be recomputed.
    fn skip_before(&mut self, start: i64) {
        while self
            .account()
            .is_some_and(|account| account.offsets.start < start)
        {
            self.done.unknown += u64::from(self.at >= self.job.from);
            self.at += 1;
        }
    }

    fn account(&self) -> Option<&Account> {
        self.job.accounts.get(self.at)
    }

    fn take(&mut self, message: &BorrowedMessage<'_>, events: &mut Events) -> Result<(), VerifyError> {
        let (offset, value) = (message.offset(), message.payload().unwrap_or_default());
        if !self.whole && self.warm_until_ms.is_none() {
            let appended_ms = message.timestamp().to_millis().unwrap_or(0);
            self.warm_until_ms = Some(appended_ms + self.job.repeat_ms);
        }
        self.close_up_to(offset);
        let outcome = match self.dead.take(offset) {
            Some(outcome) => outcome,
            None => {
                let event = events.raw(value)?;
                let taken = event.map_or(Taken::Nowhere, |event| self.clean.take(event));
                if taken == Taken::Nowhere {
                    self.tally.nowhere.get_or_insert(offset);
                }
                // Behind a rewind a record may be in clean once for each time that it was covered.
                if let Some(event) = event.filter(|_| self.covers.iter().any(|twice| twice.contains(&offset)))
                {
                    self.clean.take(event);
                }
                if taken == Taken::Yes {
                    Outcome::Clean
                } else {
                    Outcome::Duplicate
                }
            }
        };
        *self.tally.counts.entry(outcome.as_str()).or_default() += 1;
        self.tally.records += 1;
        let digest = Sha256::digest(value).into();
        let leaf = merkle::record_leaf(offset.cast_unsigned(), outcome.as_str(), &digest);
        self.tally.root.push(leaf);
        self.done.raw_records += 1;
        Ok(())
    }

    /// Compares every account that ends at or before `offset`.
    fn close_up_to(&mut self, offset: i64) {
        while self
            .account()
            .is_some_and(|account| account.offsets.end <= offset)
            || offset == i64::MAX
        {
            let tally = std::mem::take(&mut self.tally);
            let Some(account) = self.job.accounts.get(self.at) else {
                return;
            };
            self.compare(account, &tally);
            self.at += 1;
        }
    }

    fn compare(&mut self, account: &Account, tally: &Tally) {
        let wanted = self.at >= self.job.from;
        let overlaps =
            |twice: &Range<i64>| twice.start < account.offsets.end && account.offsets.start < twice.end;
        let warm = self
            .warm_until_ms
            .is_some_and(|until| account.appended_ms != 0 && account.appended_ms < until);
        if account.lost || warm || self.covers.iter().any(overlaps) {
            self.done.unknown += u64::from(wanted);
            return;
        }
        if !wanted {
            return;
        }
        self.done.ranges += 1;
        let Some((kind, detail)) = tally.difference(account) else {
            return;
        };
        let missing = matches!(kind, Kind::CleanMissing | Kind::DeadletterMissing);
        let offset = tally.nowhere.filter(|_| missing).unwrap_or(account.offsets.start);
        let problem = Problem::new(kind, self.job.lane, detail).at(account.entry, Some(offset));
        self.note(problem);
    }

    /// What is in clean and deadletter without a raw record.
    fn leftovers(&mut self, read: Range<i64>) {
        let topics = self.job.topics;
        if let Some((origin, at)) = self.dead.left_in(&read) {
            let detail = format!("its raw record {origin} is not there, or it is there twice");
            let problem = Problem::new(Kind::DeadletterInserted, self.job.lane, detail);
            self.note(problem.in_topic(&topics.deadletter, self.job.partition, at));
        }
        let pending = self.job.pending_clean.map(|pending| pending.records);
        if let Some(at) = self.clean.left(self.whole, pending) {
            let detail = "no raw record is accounted for by it";
            let problem = Problem::new(Kind::CleanInserted, self.job.lane, detail);
            self.note(problem.in_topic(&topics.clean, self.job.partition, at));
        }
    }

    fn note(&mut self, problem: Problem) {
        if !self.done.problems.iter().any(|noted| noted.kind == problem.kind) {
            self.done.problems.push(problem);
        }
    }
}

impl Tally {
    /// What does not agree with the account, if something does not.
    fn difference(&self, account: &Account) -> Option<(Kind, String)> {
        let Range { start, end } = account.offsets;
        let counted = |name: &str| account.outcomes.get(name).copied().unwrap_or(0);
        let (clean, duplicate) = (Outcome::Clean.as_str(), Outcome::Duplicate.as_str());
        let rejected = |counts: &mut dyn Iterator<Item = (&str, u64)>| -> u64 {
            counts
                .filter(|(name, _)| ![clean, duplicate].contains(name))
                .map(|(_, count)| count)
                .sum()
        };
        let found_clean = self.counts.get(clean).copied().unwrap_or(0);
        let found_rejected = rejected(&mut self.counts.iter().map(|(name, count)| (*name, *count)));
        let wanted_rejected = rejected(
            &mut account
                .outcomes
                .iter()
                .map(|(name, count)| (name.as_str(), *count)),
        );
        let said = |what: &str, found: u64, wanted: u64| {
            format!("{found} {what} records of {start}..{end} where the ledger counts {wanted}")
        };
        let difference = match () {
            () if self.records < account.records => {
                (Kind::RawMissing, said("raw", self.records, account.records))
            }
            () if self.records > account.records => {
                (Kind::RawInserted, said("raw", self.records, account.records))
            }
            () if found_rejected < wanted_rejected => (
                Kind::DeadletterMissing,
                said("rejected", found_rejected, wanted_rejected),
            ),
            () if found_rejected > wanted_rejected => (
                Kind::DeadletterInserted,
                said("rejected", found_rejected, wanted_rejected),
            ),
            () if found_clean < counted(clean) => {
                (Kind::CleanMissing, said("clean", found_clean, counted(clean)))
            }
            () if found_clean > counted(clean) => {
                (Kind::CleanInserted, said("clean", found_clean, counted(clean)))
            }
            () if hex::encode(self.root.root()) != account.root => (
                Kind::RawChanged,
                format!("a record of {start}..{end}, or its outcome, is not what it was"),
            ),
            () => return None,
        };
        Some(difference)
    }
}

/// The deadletter records of a lane, by the raw offset that they are of.
struct Dead {
    by_origin: HashMap<i64, Rejected>,
}

struct Rejected {
    outcome: Outcome,
    /// Where it stands in the deadletter topic.
    at: i64,
    /// How many there are that no raw record has taken.
    left: u32,
}

impl Dead {
    fn read(job: &Job<'_>, reader: &Reader) -> Result<Self, VerifyError> {
        let topic = &job.topics.deadletter;
        let (low, _) = reader.watermarks(topic, job.partition)?;
        let prefix = format!("{}/", job.lane);
        let mut by_origin: HashMap<i64, Rejected> = HashMap::new();
        reader.read(topic, job.partition, low, |message| {
            let origin =
                header(message, "pg-origin").and_then(|origin| origin.strip_prefix(&prefix)?.parse().ok());
            let reason = header(message, "pg-reason");
            let outcome = Outcome::all().find(|outcome| Some(outcome.as_str()) == reason);
            if let (Some(origin), Some(outcome)) = (origin, outcome) {
                bounded(by_origin.len(), topic)?;
                let at = message.offset();
                by_origin
                    .entry(origin)
                    .or_insert(Rejected { outcome, at, left: 0 })
                    .left += 1;
            }
            Ok(true)
        })?;
        Ok(Self { by_origin })
    }

    fn take(&mut self, origin: i64) -> Option<Outcome> {
        let rejected = self.by_origin.get_mut(&origin)?;
        rejected.left = rejected.left.saturating_sub(1);
        Some(rejected.outcome)
    }

    /// The first one of `read` that no raw record has taken, and where it stands.
    fn left_in(&self, read: &Range<i64>) -> Option<(i64, i64)> {
        let left = self
            .by_origin
            .iter()
            .filter(|(origin, rejected)| read.contains(origin) && rejected.left > 0);
        left.map(|(origin, rejected)| (*origin, rejected.at)).min()
    }
}

fn header<'m>(message: &'m BorrowedMessage<'_>, name: &str) -> Option<&'m str> {
    let headers = message.headers()?;
    let mut values = headers
        .iter()
        .filter(|header| header.key == name)
        .filter_map(|header| header.value);
    std::str::from_utf8(values.next()?).ok()
}

fn bounded(count: usize, topic: &str) -> Result<(), VerifyError> {
    if count < RECORDS_MAX {
        return Ok(());
    }
    Err(VerifyError::Usage(format!(
        "a partition of {topic} has more than {RECORDS_MAX} records: narrow the comparison with --from and --to, or leave \
         raw and clean out of --against"
    )))
}

/// The clean records of a lane.
struct Clean {
    /// By event, and in the order of the topic within one.
    by_event: Vec<(EventId, u32)>,
    /// Where each stands in the topic; and that a raw record has taken it.
    records: Vec<(i64, bool)>,
}

/// Whether an event was in clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// Now it is taken.
    Yes,
    /// It was, as often as it is there.
    Before,
    /// No record has it.
    Nowhere,
}

impl Clean {
    fn read(job: &Job<'_>, reader: &Reader, events: &mut Events) -> Result<Self, VerifyError> {
        let topic = &job.topics.clean;
        let (low, _) = reader.watermarks(topic, job.partition)?;
        let (mut by_event, mut records) = (Vec::new(), Vec::new());
        let end = job.pending_clean.map_or(i64::MAX, |pending| pending.before);
        reader.read(topic, job.partition, low, |message| {
            if message.offset() >= end {
                return Ok(false);
            }
            bounded(records.len(), topic)?;
            // One that can't be read is nobody's: it is left over.
            if let Some(event) = events.clean(message.payload().unwrap_or_default())? {
                by_event.push((event, records.len() as u32));
            }
            records.push((message.offset(), false));
            Ok(true)
        })?;
        by_event.sort_unstable();
        Ok(Self { by_event, records })
    }

    fn take(&mut self, event: EventId) -> Taken {
        let from = self.by_event.partition_point(|(other, _)| *other < event);
        let same = self.by_event[from..]
            .iter()
            .take_while(|(other, _)| *other == event);
        let mut taken = Taken::Nowhere;
        for (_, number) in same {
            let record = &mut self.records[*number as usize];
            if !record.1 {
                record.1 = true;
                return Taken::Yes;
            }
            taken = Taken::Before;
        }
        taken
    }

    /// The first one that no raw record has taken and that can be neither older than what was read (unless that is the
    /// `whole`), nor of the `pending` ones behind it.
    fn left(&self, whole: bool, pending: Option<u64>) -> Option<i64> {
        let taken = |record: &(i64, bool)| record.1;
        let first = self.records.iter().position(taken);
        let last = self.records.iter().rposition(taken);
        let (first, last) = match (first, last) {
            (Some(first), Some(last)) => (if whole { 0 } else { first }, last + 1),
            _ => (0, 0),
        };
        let inside = self.records[first..last].iter().find(|record| !record.1);
        let behind = &self.records[last..];
        let too_many = pending.is_some_and(|pending| behind.len() as u64 > pending) && (whole || last > 0);
        inside
            .or(behind.first().filter(|_| too_many))
            .map(|(offset, _)| *offset)
    }
}

/// The raw and clean topics are to be compared.
pub(super) fn is_wanted(against: &std::collections::BTreeSet<Against>) -> bool {
    against.contains(&Against::Raw) || against.contains(&Against::Clean)
}
