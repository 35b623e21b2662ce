//! How the records of one topic are processed: how a lane of it is opened, what is taken from a record, and where the
//! result is written. There are three feeds: [`super::clean`], [`super::ledger`] and [`super::kpis`].

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use rdkafka::error::{KafkaError, KafkaResult};
use thiserror::Error;

use crate::io::postgres::WriteError;
use crate::telemetry::health::{HoldCause, Log};

/// A record as a feed takes it.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'r> {
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Append time, in ms since the Unix epoch.
    pub append_ms: i64,
    /// Value; a null value is empty.
    pub value: &'r [u8],
}

/// A lane that was claimed.
pub struct Opened<T> {
    /// State that the lane keeps from record to record.
    pub state: T,
    /// Epoch of the claim, which grows with each claim of the partition.
    pub epoch: i64,
    /// The first offset that is not stored; `None` if none ever was.
    pub stored: Option<i64>,
    /// The offset to resume at. Records before `stored` are only read to rebuild the lane's state.
    pub position: i64,
}

/// The range of a lane's offsets that one write covers.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// Partition of the topic.
    pub partition: i32,
    /// Epoch of the claim.
    pub epoch: i64,
    /// The offset that the sink must have before the write; `None` if nothing was ever stored.
    pub expected: Option<i64>,
    /// The first offset after the range.
    pub next: i64,
}

/// A record cannot be taken before the registry has resolved this schema id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedsSchema(pub u32);

/// A lane cannot be opened now.
#[derive(Debug, Error)]
#[error("{reason}")]
pub struct OpenFault {
    /// What the lane waits for.
    pub cause: HoldCause,
    /// What went wrong, and what to do.
    pub reason: String,
}

impl From<KafkaError> for OpenFault {
    fn from(error: KafkaError) -> Self {
        Self {
            cause: HoldCause::Kafka,
            reason: error.to_string(),
        }
    }
}

impl OpenFault {
    /// The fault that the log of a partition ends before the offset up to which `database` has it.
    #[must_use]
    pub fn truncated(database: &str, topic: &str, partition: i32, log_end: i64) -> Self {
        Self {
            cause: HoldCause::Truncated,
            reason: format!(
                "partition {partition} of {topic} ended at offset {log_end}, before the offset up to which the \
                 {database} database has it: the topic was deleted, or a broker lost its end. New records could be \
                 mistaken for stored ones, so nothing is read. Find out why, then set `next` of this partition in the \
                 table sink_offset to the offset to resume at, and `log_end` to null"
            ),
        }
    }
}

/// The end of a log that was found to end before `next`, up to which it is stored: as noted at that time, or as it is
/// now. `None` for a complete log.
#[must_use]
pub fn truncated_at(next: Option<i64>, noted: Option<i64>, log: &Range<i64>) -> Option<i64> {
    noted.or_else(|| next.is_some_and(|next| log.end < next).then_some(log.end))
}

/// A partition that is to be claimed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claiming<'a> {
    /// Name of the database, for messages.
    pub database: &'static str,
    /// Name of the topic.
    pub topic: &'a str,
    /// Partition of the topic.
    pub partition: i32,
}

/// What a claim found in the row of `sink_offset`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The first offset that is not stored; `None` if none ever was.
    pub next: Option<i64>,
    /// The end of the log, if it was found to end before `next`.
    pub log_end: Option<i64>,
}

/// Claims a partition, then asks for the log's offsets and compares them with what is stored. The order matters: the
/// former owner stores nothing after the claim, so the stored offset is compared with a log that is at least as long.
///
/// # Errors
///
/// [`OpenFault`]: a step failed, or the log ended before what is stored, which is noted in the database.
pub(super) async fn claim<C, N: Future<Output = Result<(), OpenFault>>>(
    what: Claiming<'_>,
    claim: impl Future<Output = Result<(Found, C), OpenFault>>,
    offsets: impl Future<Output = KafkaResult<Range<i64>>>,
    note_log_end: impl FnOnce(i64) -> N,
) -> Result<(C, Range<i64>), OpenFault> {
    let (found, claim, log) = if planted!(LogBeforeClaim) {
        let log = offsets.await?;
        let (found, claim) = claim.await?;
        (found, claim, log)
    } else {
        let (found, claim) = claim.await?;
        (found, claim, offsets.await?)
    };
    let Some(end) = truncated_at(found.next, found.log_end, &log) else {
        return Ok((claim, log));
    };
    if !planted!(ForgetLogEnd) {
        note_log_end(end).await?;
    }
    Err(OpenFault::truncated(
        what.database,
        what.topic,
        what.partition,
        end,
    ))
}

/// How the records of one topic are processed.
pub trait Feed: Send + Sync + 'static {
    /// State that a lane keeps from record to record.
    type State: Send + 'static;
    /// Rows to be written at once.
    type Batch: Default + Send + Sync + 'static;

    /// The log that it reads.
    const LOG: Log;

    /// Name of the topic.
    fn topic(&self) -> &str;

    /// Claims a partition and returns where to resume.
    fn open(&self, partition: i32) -> impl Future<Output = Result<Opened<Self::State>, OpenFault>> + Send;

    /// Takes a record.
    ///
    /// # Errors
    ///
    /// [`NeedsSchema`]: nothing was taken.
    fn take(
        &self,
        state: &mut Self::State,
        record: &Taken<'_>,
        batch: &mut Self::Batch,
    ) -> Result<(), NeedsSchema>;

    /// Number of rows to write.
    fn rows(batch: &Self::Batch) -> usize;

    /// Empties a batch and keeps its memory.
    fn clear(batch: &mut Self::Batch);

    /// Completes a batch that is about to be written up to `next`.
    fn seal(&self, state: &mut Self::State, next: i64, batch: &mut Self::Batch);

    /// Writes a batch, all of it or nothing.
    fn write(
        &self,
        stretch: Stretch,
        batch: &Self::Batch,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Removes from a batch that was not stored what can be stored later, since it may be what takes too long.
    fn lighten(batch: &mut Self::Batch);

    /// Whether a schema id is resolved.
    fn knows(&self, id: u32) -> bool;

    /// Starts to resolve a schema id at the registry, unless that is under way.
    fn resolve(self: &Arc<Self>, id: u32);

    /// Notes that a lane that was opened with this epoch was given back. Another worker of this process may have
    /// claimed the partition since.
    fn release(&self, partition: i32, epoch: i64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_ended_before_what_is_stored_is_truncated_also_when_it_has_grown() {
        assert_eq!(truncated_at(None, None, &(0..0)), None, "nothing is stored");
        assert_eq!(
            truncated_at(Some(1_000), None, &(0..1_000)),
            None,
            "all is stored"
        );
        assert_eq!(
            truncated_at(Some(1_000), None, &(1_200..1_300)),
            None,
            "retention"
        );
        assert_eq!(truncated_at(Some(1_000), None, &(0..999)), Some(999));
        assert_eq!(truncated_at(Some(1_000), Some(950), &(0..2_000)), Some(950));
    }
}
