//! What is done with the records of one topic: how a lane of it is opened, what is taken from a record, and where the
//! result is written. There are three: [`super::clean`], [`super::ledger`] and [`super::kpis`].

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use rdkafka::error::KafkaError;
use thiserror::Error;

use super::log;
use crate::io::postgres::WriteError;
use crate::telemetry::health::{HoldCause, Log};

/// A record as it is taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'r> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, in ms since the Unix epoch.
    pub append_ms: i64,
    /// Its value.
    pub value: &'r [u8],
}

/// A lane that was claimed.
pub struct Opened<L> {
    /// What its records are taken with.
    pub lane: L,
    /// The number of the claim.
    pub epoch: i64,
    /// The first offset that is not stored; none where nothing ever was.
    pub stored: Option<i64>,
    /// Where to read on. What lies before `stored` is only read to know what was known then.
    pub position: i64,
}

/// The stretch of a lane that one write is about.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// The partition.
    pub partition: i32,
    /// The claim's epoch.
    pub epoch: i64,
    /// Where the sink stands.
    pub expected: Option<i64>,
    /// The first offset after it.
    pub next: i64,
}

/// A record cannot be taken before the registry has said what a schema id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedsSchema(pub u32);

/// A lane cannot be opened now.
#[derive(Debug, Error)]
#[error("{reason}")]
pub struct OpenFault {
    /// What it waits for.
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
    /// The log of a partition ends before what `database` has of it.
    #[must_use]
    pub fn truncated(database: &str, topic: &str, partition: i32, log_end: i64) -> Self {
        Self {
            cause: HoldCause::Truncated,
            reason: format!(
                "partition {partition} of {topic} ended at offset {log_end}, before what the {database} database has of it: \
                 the topic was deleted, or a broker lost its end. What came since could pass for what is stored, so nothing \
                 is read: find out why, then set `next` of this partition in the table sink_offset to where to read on, and \
                 `log_end` to null"
            ),
        }
    }
}

/// Where a log ended when it was found to end before `next`, up to which it is stored: as was noted then, or as it is now.
/// `None` for one that is whole.
#[must_use]
pub fn truncated_at(next: Option<i64>, noted: Option<i64>, log: &Range<i64>) -> Option<i64> {
    noted.or_else(|| next.is_some_and(|next| log.end < next).then_some(log.end))
}

/// What is done with the records of one topic.
pub trait Feed: Send + Sync + 'static {
    /// What a lane remembers from record to record.
    type Lane: Send + 'static;
    /// What is to be written.
    type Batch: Default + Send + Sync + 'static;

    /// Which log it reads.
    const LOG: Log;

    /// The topic.
    fn topic(&self) -> &str;

    /// Claims a partition, then asks what `log` has of it, and says where to read on. Whoever had it before stores nothing
    /// after the claim: what is stored then is compared with a log that is at least as long.
    fn open(
        &self,
        partition: i32,
        log: &log::Log,
    ) -> impl Future<Output = Result<Opened<Self::Lane>, OpenFault>> + Send;

    /// Takes a record.
    ///
    /// # Errors
    ///
    /// [`NeedsSchema`]: nothing was taken.
    fn take(
        &self,
        lane: &mut Self::Lane,
        record: &Taken<'_>,
        batch: &mut Self::Batch,
    ) -> Result<(), NeedsSchema>;

    /// How much there is to write.
    fn rows(batch: &Self::Batch) -> usize;

    /// Forgets what was to be written, and keeps the memory.
    fn clear(batch: &mut Self::Batch);

    /// Completes a batch that is about to be written up to `next`.
    fn seal(&self, lane: &mut Self::Lane, next: i64, batch: &mut Self::Batch);

    /// Writes a batch, all of it or nothing.
    fn write(
        &self,
        stretch: Stretch,
        batch: &Self::Batch,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Leaves out of a batch that was not stored what can be stored another time: it may be what takes too long.
    fn lighten(batch: &mut Self::Batch);

    /// Whether it is known what a schema id is.
    fn knows(&self, id: u32) -> bool;

    /// Has the registry asked about a schema id, unless it is being asked.
    fn resolve(self: &Arc<Self>, id: u32);

    /// A lane that was opened with the claim of this number was given back. The partition may have been claimed anew by
    /// another worker of this process since.
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
