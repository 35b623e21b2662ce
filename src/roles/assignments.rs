//! The partitions that the group has assigned to a worker: the group protocol, the state of each partition, its
//! openings and its lag. Both roles' workers stand on this; what they do with an open lane is their own.

use std::time::Instant;

use rdkafka::error::KafkaError;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::io::kafka::consumer::Rebalance;
use crate::io::kafka::source::Source;
use crate::telemetry::health::WorkerHealth;

/// Why a worker cannot keep up its assignments.
#[derive(Debug, Error)]
pub enum AssignmentError {
    /// The Kafka client cannot continue.
    #[error("the Kafka client failed: {0}")]
    Kafka(#[from] KafkaError),
    /// The topic has gained partitions.
    #[error("the topic has more than the {known} partitions it had at the start: restart the process")]
    Partitions {
        /// Number of partitions when the process started.
        known: usize,
    },
}

/// One attempt to open a lane, and the lane that came of it. Tasks carry it, so that their results are told from those
/// for an earlier opening of the same partition.
#[derive(Clone, Debug)]
pub struct Opening {
    id: u64,
    cancelled: CancellationToken,
}

impl Opening {
    /// Whether the lane was given back or closed meanwhile.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Waits until the lane is given back or closed.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }
}

impl PartialEq for Opening {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// State of one partition.
enum Slot<L> {
    /// Not assigned to this worker.
    Absent,
    /// Assigned, to be opened from this instant on.
    Closed(Instant),
    /// Being opened.
    Opening(Opening),
    /// Open.
    Open(Opening, Box<L>),
    /// Assigned, but left alone until the group assigns it again.
    Abandoned,
}

/// A change of the assignment that the worker takes part in.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// These partitions were assigned; they are closed, and due to be opened.
    Assigned(Vec<i32>),
    /// These partitions are to be given back, by [`Assignments::give_back`].
    Revoked {
        /// Partitions of the topic.
        partitions: Vec<i32>,
        /// The reassignment has already happened: what was consumed from them must not be committed.
        lost: bool,
    },
}

/// How far an open lane has read.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    /// The first offset that does not count as read.
    pub position: i64,
    /// Append time of the last record read, in ms since the Unix epoch; 0 if unknown.
    pub appended_ms: i64,
}

/// The partitions of one worker, whose open lanes are of type `L`.
pub struct Assignments<S: Source, L> {
    source: S,
    slots: Vec<Slot<L>>,
    openings: u64,
    health: WorkerHealth,
    /// Name of the log in log messages.
    log: &'static str,
}

impl<S: Source, L> Assignments<S, L> {
    /// The assignments of a worker that reads `log`, a topic of `partitions` partitions, through `source`.
    pub fn new(source: S, partitions: usize, health: WorkerHealth, log: &'static str) -> Self {
        Self {
            source,
            slots: (0..partitions).map(|_| Slot::Absent).collect(),
            openings: 0,
            health,
            log,
        }
    }

    /// The source, to take records from.
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// The health that the worker reports.
    pub const fn health(&self) -> &WorkerHealth {
        &self.health
    }

    /// Serves the group protocol; what it changes is then taken by [`Self::change`].
    ///
    /// # Errors
    ///
    /// [`AssignmentError`]: the worker cannot continue.
    pub fn serve(&self) -> Result<(), AssignmentError> {
        self.source.serve().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Takes the oldest change that the worker has not seen yet. Assigned partitions are due to be opened `now`.
    ///
    /// # Errors
    ///
    /// [`AssignmentError`]: the worker cannot continue.
    pub fn change(&mut self, now: Instant) -> Result<Option<Change>, AssignmentError> {
        let (log, worker) = (self.log, self.health.index());
        Ok(match self.source.rebalance() {
            None => None,
            Some(Rebalance::Assign(partitions)) => {
                info!(log, worker, ?partitions, "lanes assigned");
                self.take_over(&partitions, now)?;
                Some(Change::Assigned(partitions))
            }
            Some(Rebalance::Revoke { partitions, lost }) => {
                info!(log, worker, ?partitions, lost, "lanes revoked");
                Some(Change::Revoked { partitions, lost })
            }
        })
    }

    fn take_over(&mut self, partitions: &[i32], now: Instant) -> Result<(), AssignmentError> {
        let known = self.slots.len();
        if partitions.iter().any(|&partition| known <= partition as usize) {
            return Err(AssignmentError::Partitions { known });
        }
        self.source.assign(partitions)?;
        for &partition in partitions {
            self.replace(partition, Slot::Closed(now));
            self.health.assigned(partition);
        }
        // After its lanes are registered: a worker that has joined without lanes counts as ready.
        self.health.joined();
        Ok(())
    }

    /// Gives revoked partitions back, and drops the lanes that are still open.
    ///
    /// # Errors
    ///
    /// When the client does not know the partitions.
    pub fn give_back(&mut self, partitions: &[i32]) -> Result<(), AssignmentError> {
        for &partition in partitions {
            self.replace(partition, Slot::Absent);
            self.health.revoked(partition);
        }
        self.source.unassign(partitions)?;
        Ok(())
    }

    /// Whether, since the last call, the next offset of some partition was found not to be in the log.
    pub fn take_gap(&self) -> bool {
        self.source.take_gap()
    }

    /// Takes all assigned partitions anew after a gap: librdkafka has stopped fetching one of them, and refuses to seek
    /// in it until it is reassigned. This is local: the group does not notice. Open lanes must be closed before.
    ///
    /// # Errors
    ///
    /// When the client does not know the partitions.
    pub fn reassign(&self) -> Result<(), AssignmentError> {
        let assigned = self.assigned();
        self.source.unassign(&assigned)?;
        self.source.assign(&assigned)?;
        Ok(())
    }

    /// The partitions that are assigned to this worker.
    pub fn assigned(&self) -> Vec<i32> {
        let ours = |slot: &Slot<L>| !matches!(slot, Slot::Absent);
        (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| ours(slot))
            .map(|(partition, _)| partition)
            .collect()
    }

    /// Number of partitions of the topic.
    pub fn partitions(&self) -> i32 {
        self.slots.len() as i32
    }

    /// The lane, if it is open.
    pub fn lane(&mut self, partition: i32) -> Option<&mut L> {
        match self.slots.get_mut(partition as usize)? {
            Slot::Open(_, lane) => Some(lane),
            _ => None,
        }
    }

    /// The open lane that came of this opening; `None` when it was closed or given back since.
    pub fn lane_of(&mut self, partition: i32, of: &Opening) -> Option<&mut L> {
        match self.slots.get_mut(partition as usize)? {
            Slot::Open(opening, lane) if opening == of => Some(lane),
            _ => None,
        }
    }

    /// The open lanes with their partitions and openings.
    pub fn lanes(&mut self) -> impl Iterator<Item = (i32, &Opening, &mut L)> {
        (0..)
            .zip(&mut self.slots)
            .filter_map(|(partition, slot)| match slot {
                Slot::Open(opening, lane) => Some((partition, &*opening, &mut **lane)),
                _ => None,
            })
    }

    /// Marks the closed lanes that are due `now` as being opened, and returns their openings.
    pub fn begin_openings(&mut self, now: Instant) -> Vec<(i32, Opening)> {
        let mut begun = Vec::new();
        for (partition, slot) in (0..).zip(&mut self.slots) {
            if !matches!(slot, Slot::Closed(at) if *at <= now) {
                continue;
            }
            self.openings += 1;
            let opening = Opening {
                id: self.openings,
                cancelled: CancellationToken::new(),
            };
            *slot = Slot::Opening(opening.clone());
            begun.push((partition, opening));
        }
        begun
    }

    /// The opening whose result the partition waits for.
    pub fn awaited(&self, partition: i32) -> Option<&Opening> {
        match self.slots.get(partition as usize)? {
            Slot::Opening(opening) => Some(opening),
            _ => None,
        }
    }

    /// Makes a lane that was opened the partition's. It is not fetched yet.
    pub fn open(&mut self, partition: i32, opening: Opening, lane: L) {
        self.slots[partition as usize] = Slot::Open(opening, Box::new(lane));
    }

    /// Closes a lane, or ends its opening; it is due to be opened again from `at` on.
    pub fn close(&mut self, partition: i32, at: Instant) {
        self.replace(partition, Slot::Closed(at));
    }

    /// Closes a lane and leaves it alone until the group assigns it again.
    pub fn abandon(&mut self, partition: i32) {
        self.replace(partition, Slot::Abandoned);
    }

    /// Stops fetching a partition.
    pub fn pause(&self, partition: i32) {
        if let Err(error) = self.source.pause(partition) {
            warn!(
                log = self.log,
                lane = partition,
                %error,
                "failed to pause fetching: records are discarded and read again later"
            );
        }
    }

    /// Reports the lag of the open lanes, as far as the log's ends are known.
    pub fn report_lag(&mut self, reached: impl Fn(i32, &L) -> Reached) {
        let Some(stable) = self.source.take_stable_offsets() else {
            return;
        };
        for (partition, stable) in stable {
            let Some(Reached {
                position,
                appended_ms,
            }) = self.lane(partition).map(|lane| reached(partition, lane))
            else {
                continue;
            };
            let records = (stable - position).max(0).cast_unsigned();
            self.health.lag(partition, records, appended_ms);
        }
    }

    /// Drops all lanes and leaves the group. Nothing that the source has delivered may be held any more.
    pub fn leave(mut self) {
        for partition in 0..self.partitions() {
            self.replace(partition, Slot::Absent);
            self.health.revoked(partition);
        }
        drop(self.source);
        self.health.stopped();
    }

    /// Replaces the state of a partition, and cancels what is under way for the old one.
    fn replace(&mut self, partition: i32, by: Slot<L>) {
        let slot = &mut self.slots[partition as usize];
        if let Slot::Opening(opening) | Slot::Open(opening, _) = slot {
            opening.cancelled.cancel();
        }
        *slot = by;
    }
}
