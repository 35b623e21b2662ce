//! What a worker knows of one partition, and the batch that it fills from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::feed::{Feed, NeedsSchema, Opened, Stretch, Taken};
use crate::config::watch::Batch as Limits;

/// One assigned partition.
pub(super) enum Slot<F: Feed> {
    /// Not ours.
    Absent,
    /// Ours, to be opened from this instant on.
    Closed(Instant),
    /// Being opened; the flag cancels it.
    Opening(Arc<AtomicBool>),
    /// Open.
    Open(Box<Lane<F>>),
    /// Another process has claimed it in the database, and again. It is left alone until the group gives it to us anew.
    Fenced,
}

impl<F: Feed> Slot<F> {
    pub fn open(&mut self) -> Option<&mut Lane<F>> {
        match self {
            Self::Open(lane) => Some(lane),
            _ => None,
        }
    }

    /// Drops what was open, and has whatever is under way for it stop.
    pub fn replace(&mut self, by: Self) {
        match self {
            Self::Opening(cancelled) => cancelled.store(true, Ordering::Relaxed),
            Self::Open(lane) => lane.cancelled.store(true, Ordering::Relaxed),
            Self::Absent | Self::Closed(_) | Self::Fenced => {}
        }
        *self = by;
    }
}

/// Why nothing is fetched for an open lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paused {
    /// The database takes longer than the lane can wait.
    Database,
    /// The registry has to say what a schema id is.
    Schema(u32),
}

/// An open lane.
pub(super) struct Lane<F: Feed> {
    known: F::Lane,
    /// The number of its claim.
    pub epoch: i64,
    /// Where the sink stands once what is being written is.
    expected: Option<i64>,
    /// The first offset that was not taken.
    pub position: i64,
    /// Where the log ended when everything before that was taken.
    pub end: i64,
    filling: F::Batch,
    begun: Option<Instant>,
    spare: Option<F::Batch>,
    /// Since when a batch is being written.
    pub writing: Option<Instant>,
    pub paused: Option<Paused>,
    /// When the last record that was taken was appended, in ms since the Unix epoch.
    pub appended_ms: i64,
    /// Names this opening: what was begun for an earlier one is not ours.
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

    /// What is stored is read again, only to know what was known then.
    pub fn is_rebuilding(&self) -> bool {
        self.expected.is_some_and(|stored| self.position < stored)
    }

    /// Takes the next record. What comes before the position was taken already.
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

    /// How much it holds that is not being written yet.
    pub fn rows(&self) -> usize {
        F::rows(&self.filling)
    }

    /// It holds as much as may be written at once.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.rows() >= limits.rows_max
    }

    /// How long its batch may stay open yet; none when it is empty.
    pub fn patience(&self, limits: &Limits) -> Option<Duration> {
        let limit = Duration::from_millis(limits.time_max_ms);
        self.begun.map(|begun| limit.saturating_sub(begun.elapsed()))
    }

    /// There is something that is not stored.
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

    /// The batch is stored.
    pub fn written(&mut self, mut batch: F::Batch) {
        F::clear(&mut batch);
        self.spare = Some(batch);
        self.writing = None;
    }
}
