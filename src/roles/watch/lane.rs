//! An open lane of a worker, and the batch that is filled from it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::feed::{Feed, NeedsSchema, Opened, Stretch, Taken};
use crate::config::watch::BatchLimits;
use crate::roles::assignments::Reached;
use crate::telemetry::health::HoldCause;

/// Why fetching is paused for an open lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paused {
    /// The database takes longer than the lane can wait.
    Database,
    /// The registry has not resolved this schema id yet.
    Schema(u32),
}

impl Paused {
    /// The cause that health reports.
    pub const fn cause(self) -> HoldCause {
        match self {
            Self::Database => HoldCause::Database,
            Self::Schema(_) => HoldCause::SchemaRegistry,
        }
    }
}

/// A claim of a partition in the database. The feed learns when it is dropped.
pub(super) struct Claim<F: Feed> {
    feed: Arc<F>,
    partition: i32,
    epoch: i64,
}

impl<F: Feed> Claim<F> {
    pub fn new(feed: &Arc<F>, partition: i32, epoch: i64) -> Self {
        Self {
            feed: Arc::clone(feed),
            partition,
            epoch,
        }
    }
}

impl<F: Feed> Drop for Claim<F> {
    fn drop(&mut self) {
        self.feed.release(self.partition, self.epoch);
    }
}

/// An open lane.
pub(super) struct OpenLane<F: Feed> {
    claim: Claim<F>,
    state: F::State,
    /// The sink's offset once the write under way is done.
    expected: Option<i64>,
    /// The first offset that was not taken.
    pub position: i64,
    /// End of the log at the time when everything before it was taken.
    pub end: i64,
    filling: F::Batch,
    begun: Option<Instant>,
    spare: Option<F::Batch>,
    /// When the write under way began.
    pub writing: Option<Instant>,
    pub paused: Option<Paused>,
    /// Append time of the last record taken, in ms since the Unix epoch.
    appended_ms: i64,
}

impl<F: Feed> OpenLane<F> {
    pub fn new(claim: Claim<F>, opened: Opened<F::State>) -> Self {
        Self {
            claim,
            state: opened.state,
            expected: opened.stored,
            position: opened.position,
            end: 0,
            filling: F::Batch::default(),
            begun: None,
            spare: Some(F::Batch::default()),
            writing: None,
            paused: None,
            appended_ms: 0,
        }
    }

    /// Whether stored records are being read again, only to rebuild the lane's state.
    pub fn is_rebuilding(&self) -> bool {
        self.expected.is_some_and(|stored| self.position < stored)
    }

    /// Takes the next record, unless it lies before the position: then it was taken already.
    pub fn take(&mut self, record: &Taken<'_>) -> Result<(), NeedsSchema> {
        if record.offset < self.position {
            return Ok(());
        }
        let feed = &self.claim.feed;
        feed.take(&mut self.state, record, &mut self.filling)?;
        let is_stored = self.expected.is_some_and(|stored| record.offset < stored);
        if is_stored && !planted!(StoreRebuilt) {
            F::clear(&mut self.filling);
        } else {
            self.begun.get_or_insert_with(Instant::now);
        }
        self.position = record.offset + 1;
        self.appended_ms = record.append_ms;
        Ok(())
    }

    /// Number of rows in the open batch.
    pub fn rows(&self) -> usize {
        F::rows(&self.filling)
    }

    /// Whether the open batch has as many rows as one write may have.
    pub fn is_full(&self, limits: &BatchLimits) -> bool {
        self.rows() >= limits.rows_max
    }

    /// Time left until the open batch is due; `None` when it is empty.
    pub fn patience(&self, limits: &BatchLimits) -> Option<Duration> {
        let limit = Duration::from_millis(limits.time_max_ms);
        self.begun.map(|begun| limit.saturating_sub(begun.elapsed()))
    }

    /// Whether the open batch is full or its time is over.
    pub fn is_due(&self, limits: &BatchLimits) -> bool {
        self.is_full(limits) || self.patience(limits).is_some_and(|left| left.is_zero())
    }

    /// Whether something is not stored yet.
    pub fn is_dirty(&self) -> bool {
        self.begun.is_some() || self.writing.is_some()
    }

    /// How far the lane has read. The offsets behind the last record are transaction markers, which readers never see.
    pub fn reached(&self) -> Reached {
        Reached {
            position: self.position.max(self.end),
            appended_ms: self.appended_ms,
        }
    }

    /// Closes the batch, if there is one and none is being written.
    pub fn hand_over(&mut self) -> Option<(Stretch, F::Batch)> {
        if self.writing.is_some() || self.begun.is_none() {
            return None;
        }
        let mut batch = std::mem::replace(&mut self.filling, self.spare.take().unwrap_or_default());
        self.claim.feed.seal(&mut self.state, self.position, &mut batch);
        let stretch = Stretch {
            partition: self.claim.partition,
            epoch: self.claim.epoch,
            expected: self.expected,
            next: self.position,
        };
        self.begun = None;
        self.expected = Some(self.position);
        self.writing = Some(Instant::now());
        Some((stretch, batch))
    }

    /// Notes that the batch is stored, and keeps its memory.
    pub fn written(&mut self, mut batch: F::Batch) {
        F::clear(&mut batch);
        self.spare = Some(batch);
        self.writing = None;
    }
}
