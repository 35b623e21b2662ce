//! A database in memory, with the semantics of `io/postgres/offsets.rs`, and the invariants of what is stored in it.

use std::collections::BTreeSet;

use super::limits::{BATCH_ROWS_MAX, CHUNK_MAX};
use super::log::Partition;
use crate::io::postgres::offsets::{Position, Step, Stepped};

/// Maximum number of rows of one write: while one is under way, the next is filled up to twice the limit of a batch,
/// and one chunk more.
const ROWS_MAX: usize = 2 * BATCH_ROWS_MAX + CHUNK_MAX;

/// The rows of one write.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The records.
    pub rows: Vec<Stored>,
    /// State of the lane up to an offset.
    pub snapshot: Option<(i64, u64)>,
    /// Epoch of the claim under which the records were taken.
    pub epoch: i64,
}

/// A record as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// Its offset.
    pub offset: i64,
    /// Its id.
    pub id: u64,
    /// State of the lane after it.
    pub state: u64,
}

/// State of a lane after one more record.
pub fn fold(state: u64, id: u64) -> u64 {
    (state ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

/// What is stored of one partition.
#[derive(Debug, Default)]
pub struct Sink {
    /// The row of `sink_offset`.
    pub row: Option<Position>,
    stored: BTreeSet<u64>,
    snapshots: Vec<(i64, u64)>,
    state: u64,
    /// Records were lost before a lane had read them, so that its state is no function of what is stored.
    pub is_state_unknown: bool,
}

impl Sink {
    /// The first offset that is not stored.
    pub fn next(&self) -> Option<i64> {
        self.row.and_then(|row| row.next)
    }

    /// Whether the record is stored.
    pub fn has(&self, id: u64) -> bool {
        self.stored.contains(&id)
    }

    /// Claims the partition. Returns its position and the newest snapshot.
    pub fn claim(&mut self) -> (Position, Option<(i64, u64)>) {
        let row = self.row.get_or_insert(Position {
            next: None,
            epoch: 0,
            log_end: None,
        });
        row.epoch += 1;
        let row = *row;
        let usable = |of: &&(i64, u64)| row.next.is_some_and(|next| of.0 <= next);
        (row, self.snapshots.iter().rev().find(usable).copied())
    }

    /// Notes that the log ends before what is stored.
    pub fn note_log_end(&mut self, end: i64) {
        if let Some(row) = &mut self.row
            && row.log_end.is_none()
            && row.next.is_some_and(|next| next > end)
        {
            row.log_end = Some(end);
        }
    }

    /// An operator decides to resume where the log ended.
    pub fn resolve_log_end(&mut self) {
        if let Some(row) = &mut self.row
            && let Some(end) = row.log_end.take()
        {
            row.next = Some(end);
        }
    }

    /// Writes a batch, all of it or nothing.
    ///
    /// # Errors
    /// The invariant that the batch violates.
    pub fn write(&mut self, step: &Step<'_>, batch: &Batch, log: &Partition) -> Result<Stepped, String> {
        let Some(row) = &mut self.row else {
            return Ok(Stepped::Fenced);
        };
        if row.epoch != step.epoch {
            return Ok(Stepped::Fenced);
        }
        if row.next != step.expected {
            return Ok(match row.next {
                Some(next) if next == step.next => Stepped::TakenBefore,
                next => Stepped::Elsewhere(next),
            });
        }
        row.next = Some(step.next);
        self.check(step, batch, log)?;
        for row in &batch.rows {
            if !self.stored.insert(row.id) {
                return Err(format!("offset {} is stored twice", row.offset));
            }
            self.state = fold(self.state, row.id);
            if row.state != self.state && !self.is_state_unknown {
                return Err(format!(
                    "the state after offset {} is not that of the log",
                    row.offset
                ));
            }
        }
        self.snapshots.extend(batch.snapshot);
        Ok(Stepped::Taken)
    }

    fn check(&self, step: &Step<'_>, batch: &Batch, log: &Partition) -> Result<(), String> {
        let range = step.expected.unwrap_or(0)..step.next;
        if range.is_empty() {
            return Err(format!("a write goes from {} to {}", range.start, range.end));
        }
        if batch.epoch != step.epoch {
            return Err("records of another claim are written".to_owned());
        }
        if batch.rows.len() > ROWS_MAX {
            return Err(format!("{} rows are written at once", batch.rows.len()));
        }
        let mut last = range.start - 1;
        for row in &batch.rows {
            if row.offset <= last || row.offset >= range.end {
                return Err(format!(
                    "offset {} is out of order or out of {range:?}",
                    row.offset
                ));
            }
            if !log.ever_held(row.offset, row.id) {
                return Err(format!("offset {} never held the record", row.offset));
            }
            last = row.offset;
        }
        let is_missing = |id| batch.rows.iter().all(|row| row.id != id);
        match log.within(range).find(|(_, entry)| is_missing(entry.id)) {
            Some((offset, _)) => Err(format!("offset {offset} is skipped")),
            None => Ok(()),
        }
    }
}
