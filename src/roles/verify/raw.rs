//! Reads what [`pulsegate_ledger::verify::ranges`] recomputes: the raw, clean and deadletter records of one lane.

use std::ops::Range;

use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;

use super::error::{Against, VerifyError};
use super::events::Events;
use super::topic::Reader;
use crate::io::kafka::raw::header;
use pulsegate_ledger::outcome::Outcome;
use pulsegate_ledger::verify::account::{Job, Recomputed};
use pulsegate_ledger::verify::ranges::{Clean, Dead, Pass, Record};
use pulsegate_ledger::verify::report::Kind;

/// Most clean or deadletter records of one lane kept in memory, at about 50 bytes each.
const RECORDS_MAX: usize = 20_000_000;

/// Recomputes a lane. Blocking.
pub(super) fn recompute(
    job: &Job<'_>,
    reader: &Reader,
    events: &mut Events,
) -> Result<Recomputed, VerifyError> {
    let Some(Range { start: first, end }) = job.offsets() else {
        return Ok(Recomputed::default());
    };
    let (low, _) = reader.watermarks(job.topics.raw, job.partition)?;
    let (start, whole) = (first.max(low), low == 0 && first == 0);
    // From the lane's beginning, read everything, so that records inserted before it show too.
    let since_ms = job.since_ms().filter(|_| !whole);
    let dead = read_dead(job, reader, since_ms, &(start..end))?;
    let clean = read_clean(job, reader, since_ms, events)?;
    let clean_records = clean.len() as u64;
    let mut pass = Pass::new(job, start..end, whole, dead, clean);
    if start < end {
        reader.read(job.topics.raw, job.partition, start, |message| {
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
    let topic = job.topics.deadletter;
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
    let topic = job.topics.clean;
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
