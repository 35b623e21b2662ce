//! The state of a partition within a worker, and the batch that is filled from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::feed::{Feed, NeedsSchema, Opened, Stretch, Taken};
use crate::config::watch::Batch as Limits;

/// State of one partition.
pub(super) enum Slot<F: Feed> {
    /// Not assigned to this worker.
    Absent,
    /// Assigned, to be opened from this instant on.
    Closed(Instant),
    /// Being opened; the flag cancels it.
    Opening(Arc<AtomicBool>),
    /// Open.
    Open(Box<Lane<F>>),
    /// Another process has claimed it in the database twice. It is left alone until the group assigns it again.
    Fenced,
}

impl<F: Feed> Slot<F> {
    pub fn open(&mut self) -> Option<&mut Lane<F>> {
        match self {
            Self::Open(lane) => Some(lane),
            _ => None,
        }
    }

    /// Replaces the slot and cancels what is under way for the old one.
    pub fn replace(&mut self, by: Self) {
        match self {
            Self::Opening(cancelled) => cancelled.store(true, Ordering::Relaxed),
            Self::Open(lane) => lane.cancelled.store(true, Ordering::Relaxed),
            Self::Absent | Self::Closed(_) | Self::Fenced => {}
        }
        *self = by;
    }
}

/// Why fetching is paused for an open lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paused {
    /// The database takes longer than the lane can wait.
    Database,
    /// The registry has not resolved this schema id yet.
    Schema(u32),
}

/// An open lane.
pub(super) struct Lane<F: Feed> {
    known: F::Lane,
    /// Epoch of its claim in the database.
    pub epoch: i64,
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
    pub appended_ms: i64,
    /// Identifies this opening: results of tasks of an earlier one are ignored.
    pub cancelled: Arc<AtomicBool>,
}

impl<F: Feed> Lane<F> {
    pub fn new(opened: Opened<F::Lane>) -> Self {
        Self {
            known: opened.lane,
            epoch: opened.epoch,
            expected: opened.stored,
            position: opened.position,
            end: 0,
            filling: F::Batch::default(),
            begun: None,
            spare: Some(F::Batch::default()),
            writing: None,
            paused: None,
            appended_ms: 0,
            cancelled: Arc::default(),
        }
    }

    /// Whether stored records are being read again, only to rebuild the lane's state.
    pub fn is_rebuilding(&self) -> bool {
        self.expected.is_some_and(|stored| self.position < stored)
    }

    /// Takes the next record, unless it lies before the position: then it was taken already.
    pub fn take(&mut self, feed: &F, record: &Taken<'_>) -> Result<(), NeedsSchema> {
        if record.offset < self.position {
            return Ok(());
        }
        feed.take(&mut self.known, record, &mut self.filling)?;
        if self.expected.is_some_and(|stored| record.offset < stored) {
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
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.rows() >= limits.rows_max
    }

    /// Time left until the open batch is due; `None` when it is empty.
    pub fn patience(&self, limits: &Limits) -> Option<Duration> {
        let limit = Duration::from_millis(limits.time_max_ms);
        self.begun.map(|begun| limit.saturating_sub(begun.elapsed()))
    }

    /// Whether something is not stored yet.
    pub fn is_dirty(&self) -> bool {
        self.begun.is_some() || self.writing.is_some()
    }

    /// Closes the batch, if there is one and none is being written.
    pub fn hand_over(&mut self, feed: &F, partition: i32) -> Option<(Stretch, F::Batch)> {
        if self.writing.is_some() || self.begun.is_none() {
            return None;
        }
        let mut batch = std::mem::replace(&mut self.filling, self.spare.take().unwrap_or_default());
        feed.seal(&mut self.known, self.position, &mut batch);
        let stretch = Stretch {
            partition,
            epoch: self.epoch,
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
