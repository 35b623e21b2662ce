//! Takes records into their lanes, and hands the batches that are due over to be written.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::{CHUNK_RECORDS, IDLE_WAIT, PRESSED_MAX, WRITE_STEP, Worker};
use crate::io::kafka::source::{Record, Records, Source};
use crate::roles::assignments::AssignmentError;
use crate::roles::watch::feed::{Feed, Taken};
use crate::roles::watch::lane::Paused;
use crate::roles::watch::tasks::Tasks;
use crate::roles::watch::write;

impl<F: Feed, S: Source, T: Tasks> Worker<F, S, T> {
    /// Starts to write the batches that are due, or all of them.
    pub(super) fn hand_over(&mut self, all: bool) {
        for (_, opening, lane) in self.assignments.lanes() {
            if !all && !lane.is_due(&self.config.batch) {
                continue;
            }
            let Some((stretch, batch)) = lane.hand_over() else {
                continue;
            };
            self.tasks.spawn(write::until_done(
                Arc::clone(&self.feed),
                stretch,
                batch,
                opening.clone(),
                self.outbox.clone(),
            ));
        }
    }

    /// Whether a lane is full while its last batch is still being written: then taking more has to wait. A lane that
    /// makes the others wait for longer than [`PRESSED_MAX`] is paused.
    pub(super) fn is_pressed(&mut self) -> bool {
        let mut pressed = false;
        let mut slow = Vec::new();
        for (partition, _, lane) in self.assignments.lanes() {
            if lane.paused.is_some() || !lane.is_full(&self.config.batch) {
                continue;
            }
            match lane.writing {
                Some(since) if since.elapsed() >= PRESSED_MAX => slow.push(partition),
                Some(_) => pressed = true,
                None => {}
            }
        }
        for partition in slow {
            self.pause(partition, Paused::Database);
        }
        pressed
    }

    /// How many records to wait for, and how long.
    fn patience(&mut self) -> (usize, Duration) {
        let limits = &self.config.batch;
        let (mut due, mut dirty) = (None, false);
        for (_, _, lane) in self.assignments.lanes() {
            dirty |= lane.is_dirty();
            if lane.writing.is_none()
                && let Some(left) = lane.patience(limits)
            {
                due = Some(due.map_or(left, |due: Duration| due.min(left)));
            }
        }
        match due {
            Some(due) => (CHUNK_RECORDS, due.min(IDLE_WAIT)),
            None if dirty => (CHUNK_RECORDS, WRITE_STEP),
            // When nothing is pending, wait for a single record, so that its batch begins with it.
            None => (1, IDLE_WAIT),
        }
    }

    /// Takes fetched records into their lanes.
    pub(super) fn fill(&mut self) -> Result<(), AssignmentError> {
        let (records_max, patience) = self.patience();
        let source = self.assignments.source();
        source.consume(&mut self.records, records_max, patience);
        let records = std::mem::replace(&mut self.records, S::buffer(0));
        let mut gap = false;
        for record in records.iter() {
            if record.is_end() {
                self.note_end(record);
            } else if let Some(error) = record.error() {
                warn!(
                    log = F::LOG.as_str(),
                    lane = record.partition(),
                    %error,
                    "fetch failed: reopening all lanes"
                );
                // Later records of its lane do not follow the last one taken, and all are read again.
                gap = true;
                if planted!(ReadOnAfterError) {
                    continue;
                }
                break;
            } else {
                self.take(record);
            }
        }
        self.records = records;
        self.release_schemas();
        if gap { self.find_out_what_is_left() } else { Ok(()) }
    }

    fn note_end<'a>(&mut self, record: impl Record<'a>) {
        let lane = self.assignments.lane(record.partition());
        if let Some(lane) = lane.filter(|lane| lane.paused.is_none()) {
            lane.end = record.offset();
        }
    }

    /// Takes a record into its lane, unless the lane is not open, or paused: records that were fetched before the pause
    /// are fetched again after it.
    fn take<'a>(&mut self, record: impl Record<'a>) {
        let partition = record.partition();
        let Some(lane) = self.assignments.lane(partition) else {
            return;
        };
        if lane.paused.is_some() && !planted!(TakeWhilePaused) {
            return;
        }
        let (received, _) = record.received();
        let taken = Taken {
            partition,
            offset: received.offset,
            append_ms: received.appended_ms,
            value: received.value,
        };
        let was_rebuilding = lane.is_rebuilding();
        if let Err(needs) = lane.take(&taken) {
            self.feed.resolve(needs.0);
            self.pause(partition, Paused::Schema(needs.0));
            return;
        }
        let is_rebuilt = was_rebuilding && !lane.is_rebuilding();
        // One event can have thousands of readings: a lane that waits for its write takes at most twice the limit.
        let is_over = lane.writing.is_some() && lane.rows() >= self.config.batch.rows_max * 2;
        if is_rebuilt {
            self.assignments.health().release(partition);
        }
        if is_over {
            self.pause(partition, Paused::Database);
        }
    }
}
