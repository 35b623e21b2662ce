//! What is done with the records of one topic: how a lane of it is opened, what is taken from a record, and where the
//! result is written. There are three: [`super::clean`], [`super::ledger`] and [`super::kpis`].

use std::future::Future;
use std::sync::Arc;

use thiserror::Error;

use crate::io::timescale::WriteError;
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

    /// Claims a partition and says where to read on. `low` is the first offset that the log still has.
    fn open(
        &self,
        partition: i32,
        low: i64,
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

    /// The lane was given back.
    fn release(&self, partition: i32);
}
