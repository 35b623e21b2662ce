//! Checks the ledger against the topics it accounts for: recomputes each range's counts and Merkle root from the raw,
//! clean and deadletter topics.
//!
//! A record in the deadletter topic was rejected for the reason given there. Of the others, a record whose event is in
//! the clean topic was accepted, and one whose event's clean records are all taken is a repeat ([`pass`]). Ranges that
//! retention has partly deleted, or that a rewind covered twice, cannot be recomputed and are counted separately.

mod clean;
mod dead;
mod pass;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;

use self::clean::Clean;
use self::dead::Dead;
use self::pass::{Pass, Record};
use super::events::Events;
use super::ledger::Pending;
use super::report::{Kind, Problem};
use super::topic::Reader;
use super::{Against, VerifyError};
use crate::gate::ledger;
use crate::gate::outcome::Outcome;
use crate::io::kafka::Topics;
use crate::io::kafka::raw::header;

/// Most clean or deadletter records of one lane kept in memory, at about 50 bytes each.
const RECORDS_MAX: usize = 20_000_000;

/// Range accounted for by a ledger record.
#[derive(Clone, Debug)]
pub(super) struct Account {
    /// Number of the entry in the log.
    pub entry: u64,
    pub offsets: Range<i64>,
    pub records: u64,
    pub outcomes: BTreeMap<String, u64>,
    pub root: String,
    /// Append times of its oldest and newest record, in ms; 0 without records.
    pub appended_ms: (i64, i64),
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
            appended_ms: (entry.t_first, entry.t_last),
            lost: entry.lost.is_some(),
        }
    }

    /// Number of its records with this outcome.
    fn counted(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(outcome.as_str()).copied().unwrap_or(0)
    }
}

/// Parameters of a recomputation.
pub(super) struct Job<'a> {
    pub lane: &'a str,
    pub partition: i32,
    pub topics: &'a Topics,
    /// The lane's ledger records in order, including those before the requested ones that may have had the same events.
    pub accounts: Vec<Account>,
    /// First requested account.
    pub from: usize,
    /// Offsets covered by more than one ledger record, because of a rewind.
    pub covers: Vec<Range<i64>>,
    /// Accepted records known to follow the accounts, if the accounts end with the log.
    pub pending_clean: Option<Pending>,
    /// Time by which the accounts' records were in the clean topic, in ms; if unknown, the whole topic is read.
    pub until_ms: Option<i64>,
    /// How long an event can be repeated, in ms. No two clocks differ by more: the gate would accept nothing.
    pub repeat_ms: i64,
    pub raw: bool,
    pub clean: bool,
}

impl Job<'_> {
    /// Range from the lowest accounted offset to past the highest.
    fn offsets(&self) -> Option<Range<i64>> {
        let start = self.accounts.iter().map(|account| account.offsets.start).min()?;
        let end = self.accounts.iter().map(|account| account.offsets.end).max()?;
        Some(start..end)
    }

    /// Time after which the accounts' records were appended to clean and deadletter, in ms.
    fn since_ms(&self) -> Option<i64> {
        let mut first_ms = self.accounts.iter().map(|account| account.appended_ms.0);
        Some(first_ms.find(|ms| *ms > 0)? - self.repeat_ms)
    }
}

/// Result of a recomputation.
#[derive(Default)]
pub(super) struct Recomputed {
    pub ranges: u64,
    pub unknown: u64,
    pub raw_records: u64,
    pub clean_records: u64,
    pub problems: Vec<Problem>,
}

/// Recomputes a lane. Blocking.
pub(super) fn recompute(
    job: &Job<'_>,
    reader: &Reader,
    events: &mut Events,
) -> Result<Recomputed, VerifyError> {
    let Some(Range { start: first, end }) = job.offsets() else {
        return Ok(Recomputed::default());
    };
    let (low, _) = reader.watermarks(&job.topics.raw, job.partition)?;
    let (start, whole) = (first.max(low), low == 0 && first == 0);
    // From the lane's beginning, read everything, so that records inserted before it show too.
    let since_ms = job.since_ms().filter(|_| !whole);
    let dead = read_dead(job, reader, since_ms, &(start..end))?;
    let clean = read_clean(job, reader, since_ms, events)?;
    let clean_records = clean.len() as u64;
    let mut pass = Pass::new(job, start..end, whole, dead, clean);
    if start < end {
        reader.read(&job.topics.raw, job.partition, start, |message| {
            if message.offset() < end {
                take(&mut pass, message, events)?;
            }
            Ok(message.offset() + 1 < end)
        })?;
    }
    let mut done = Recomputed {
        clean_records,
        ..pass.finish()
    };
    done.problems.retain(|problem| match problem.kind {
        Kind::CleanMissing | Kind::CleanInserted => job.clean,
        _ => job.raw,
    });
    Ok(done)
}

fn take(pass: &mut Pass<'_>, message: &BorrowedMessage<'_>, events: &mut Events) -> Result<(), VerifyError> {
    let (offset, value) = (message.offset(), message.payload().unwrap_or_default());
    // A rejected record need not be an event: the registry is not queried for it.
    let event = if pass.needs_event(offset) {
        events.raw(value)?
    } else {
        None
    };
    pass.take(&Record {
        offset,
        appended_ms: message.timestamp().to_millis().unwrap_or(0),
        value,
        event,
    });
    Ok(())
}

/// Reads the deadletter records of raw records in `offsets`, to the end of the topic: its timestamps are set by
/// producers, and a record produced by hand can have any.
fn read_dead(
    job: &Job<'_>,
    reader: &Reader,
    since_ms: Option<i64>,
    offsets: &Range<i64>,
) -> Result<Dead, VerifyError> {
    let topic = &job.topics.deadletter;
    let begin = reader.begin(topic, job.partition, since_ms)?;
    let prefix = format!("{}/", job.lane);
    let mut dead = Dead::default();
    reader.read(topic, job.partition, begin, |message| {
        let origin = text(message, "pg-origin").and_then(|origin| origin.strip_prefix(&prefix)?.parse().ok());
        let origin = origin.filter(|origin| offsets.contains(origin));
        let reason = text(message, "pg-reason");
        let outcome = Outcome::all().find(|outcome| Some(outcome.as_str()) == reason);
        if let (Some(origin), Some(outcome)) = (origin, outcome) {
            bounded(dead.len(), topic)?;
            dead.add(origin, outcome, message.offset());
        }
        Ok(true)
    })?;
    Ok(dead)
}

fn text<'m>(message: &'m BorrowedMessage<'_>, name: &str) -> Option<&'m str> {
    std::str::from_utf8(header(message, name.as_bytes())?).ok()
}

fn read_clean(
    job: &Job<'_>,
    reader: &Reader,
    since_ms: Option<i64>,
    events: &mut Events,
) -> Result<Clean, VerifyError> {
    let topic = &job.topics.clean;
    let begin = reader.begin(topic, job.partition, since_ms)?;
    let until_ms = job.until_ms.map_or(i64::MAX, |until_ms| until_ms + job.repeat_ms);
    let end = job.pending_clean.map_or(i64::MAX, |pending| pending.before);
    let mut clean = Clean::default();
    reader.read(topic, job.partition, begin, |message| {
        // The brokers set the timestamps of this topic; producers cannot.
        let appended_ms = message.timestamp().to_millis().unwrap_or(0);
        if message.offset() >= end || appended_ms > until_ms {
            return Ok(false);
        }
        bounded(clean.len(), topic)?;
        let event = events.clean(message.payload().unwrap_or_default())?;
        clean.add(message.offset(), event);
        Ok(true)
    })?;
    clean.sort();
    Ok(clean)
}

fn bounded(count: usize, topic: &str) -> Result<(), VerifyError> {
    if count < RECORDS_MAX {
        return Ok(());
    }
    Err(VerifyError::Usage(format!(
        "a partition of {topic} has more than {RECORDS_MAX} records: narrow the window with --from and --to, or leave \
         raw and clean out of --against"
    )))
}

/// Whether the raw or clean topic is to be compared.
pub(super) fn is_wanted(against: &std::collections::BTreeSet<Against>) -> bool {
    against.contains(&Against::Raw) || against.contains(&Against::Clean)
}
