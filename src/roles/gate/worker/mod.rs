//! The worker loop: one thread, one consumer, one settler.
//!
//! ```text
//! serve rebalances ─▶ open lanes ─▶ collect the last settlement ─▶ fill the batch ─▶ hand it over
//! ```
//!
//! While one batch settles, the next is filled. Only this thread touches lanes.

mod lanes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rdkafka::error::KafkaError;
use thiserror::Error;
use tracing::{info, warn};

use super::filling::{Filling, Size};
use super::live::Live;
use super::opening::{OpenError, Opened};
use super::services::{Services, Settle};
use super::shared::Gate;
use super::slot::Slot;
use crate::io::kafka::consumer::Rebalance;
use crate::io::kafka::settle::{Job, SettleError, Settled, Timings};
use crate::io::kafka::source::Source;
use crate::telemetry::health::WorkerHealth;
use crate::telemetry::metrics::{self, AbortCause, Service, Stage};
use pulsegate_core::crypto::envelope::TooLong;
use pulsegate_core::gate::seal::{SealError, SealedBatch};
use pulsegate_ledger::entry::Stamp;
use pulsegate_ledger::outcome::Outcome;

/// How long an idle worker waits for the first record of a batch.
const IDLE_WAIT: Duration = Duration::from_millis(20);
/// How long one call may wait for the records of a batch before the group protocol is served again.
const TAKE_WAIT_MAX: Duration = Duration::from_millis(100);
/// How long a full or due batch waits for the settler before the group protocol is served again.
const SETTLE_STEP: Duration = Duration::from_millis(5);
/// Pause before a failed operation is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Aborted transactions in a row after which a lane pauses before it retries. A single abort is what a restarting
/// broker costs, and not worth a pause.
const ABORTS_REFUSED: u32 = 2;
/// How often a lane that waits for a schema checks whether the registry has answered.
const SCHEMA_PAUSE: Duration = Duration::from_millis(20);

/// Why a worker stopped before `stop` was set.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The Kafka client cannot continue.
    #[error("the Kafka client failed: {0}")]
    Kafka(#[from] KafkaError),
    /// Another worker took over this worker's transactional id.
    #[error("{0}")]
    Fenced(SettleError),
    /// A lane cannot be opened, and retrying does not help: an operator has to decide.
    #[error("{0}")]
    Refused(OpenError),
    /// A record's timestamp is its producer's: no freshness, replay or rate decision can rest on it.
    #[error(
        "lane {partition}, offset {offset}: the record's timestamp is its producer's, since the raw topic was not set \
         to message.timestamp.type=LogAppendTime. Set it (pulsegate topology apply). Records appended before keep \
         their timestamps: move the group's offset in this lane behind the last of them, and start with --rewind so \
         that the ledger records the move"
    )]
    Timestamps {
        /// Partition of the raw topic.
        partition: i32,
        /// Offset of the record.
        offset: i64,
    },
    /// The raw topic has gained partitions; home partitions are computed from their number.
    #[error("the raw topic has more than the {known} partitions it had at the start: restart the gate")]
    Partitions {
        /// Number of partitions when the gate started.
        known: usize,
    },
    /// A record cannot be sealed.
    #[error("failed to seal a record: {0}")]
    Seal(SealError),
    /// A name is too long to be bound into ciphertexts.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The worker panicked, which is a defect.
    #[error("the worker panicked; this is a defect, please report it")]
    Panicked,
    /// Without random bytes there are no IVs.
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
}

/// The batch that is being settled.
struct InFlight {
    lanes: Vec<i32>,
    outcomes: [u64; Outcome::COUNT],
    size: Size,
}

/// One worker.
pub struct Worker<S: Services = Live> {
    gate: Arc<Gate<S>>,
    health: WorkerHealth,
    index: usize,
    transactional_id: String,
    // Declared, hence dropped, before the consumer, which does not close while its messages are held.
    filling: Filling<S>,
    consumer: S::Consumer,
    settler: Option<S::Settler>,
    settler_at: Instant,
    slots: Vec<Slot>,
    spare: Option<SealedBatch>,
    in_flight: Option<InFlight>,
    openings: (Sender<Opened>, Receiver<Opened>),
    openings_begun: u64,
}

impl InFlight {
    fn into_metrics(self, timings: &Timings) -> metrics::Batch {
        let mut stages = self.size.stages;
        stages[Stage::Produce as usize] = timings.produce + timings.deliver;
        stages[Stage::Commit as usize] = timings.commit;
        let transaction = timings.produce + timings.deliver + timings.commit;
        metrics::Batch {
            outcomes: self.outcomes,
            bytes: self.size.bytes as u64,
            stages,
            transaction,
        }
    }
}

impl<S: Services> Worker<S> {
    /// Joins the group as worker `index`.
    ///
    /// # Errors
    ///
    /// When librdkafka refuses the configuration.
    pub fn new(gate: Arc<Gate<S>>, index: usize) -> Result<Self, WorkerError> {
        let consumer = gate.services.subscribe(index, &gate.config.topics.raw)?;
        Ok(Self {
            health: gate.health.worker(index),
            index,
            transactional_id: gate.services.transactional_id(index),
            consumer,
            settler: None,
            settler_at: gate.services.now(),
            slots: (0..gate.partitions()).map(|_| Slot::Absent).collect(),
            filling: Filling::new(&gate)?,
            spare: Some(SealedBatch::default()),
            in_flight: None,
            openings: unbounded(),
            openings_begun: 0,
            gate,
        })
    }

    /// Works until `stop` is set, then drains.
    ///
    /// # Errors
    ///
    /// [`WorkerError`]: the process should report it and exit.
    pub fn run(mut self, stop: &AtomicBool) -> Result<(), WorkerError> {
        while !stop.load(Ordering::Relaxed) {
            self.step()?;
        }
        self.drain()
    }

    /// One round of the loop.
    pub(super) fn step(&mut self) -> Result<(), WorkerError> {
        self.serve()?;
        if self.consumer.take_gap() && !planted!(GapIgnored) {
            self.find_out_what_is_left()?;
        }
        self.ensure_settler();
        self.open_lanes()?;
        self.release_holds();
        self.collect(Duration::ZERO)?;
        self.fill()?;
        self.report_lag();
        Ok(())
    }

    /// Serves the group protocol and answers rebalances.
    fn serve(&mut self) -> Result<(), WorkerError> {
        if let Some(error) = self.consumer.serve() {
            return Err(error.into());
        }
        while let Some(rebalance) = self.consumer.rebalance() {
            match rebalance {
                Rebalance::Assign(partitions) => {
                    info!(worker = self.index, ?partitions, "lanes assigned");
                    if partitions
                        .iter()
                        .any(|&partition| self.slots.len() <= partition as usize)
                    {
                        return Err(WorkerError::Partitions {
                            known: self.slots.len(),
                        });
                    }
                    self.consumer.assign(&partitions)?;
                    let now = self.gate.services.now();
                    for partition in partitions {
                        self.slots[partition as usize] = Slot::Closed(now);
                        self.health.assigned(partition);
                    }
                    // After its lanes are registered: a worker that has joined without lanes counts as ready.
                    self.health.joined();
                }
                Rebalance::Revoke { partitions, lost } => {
                    info!(worker = self.index, ?partitions, lost, "lanes revoked");
                    self.revoke(&partitions, lost)?;
                }
            }
        }
        Ok(())
    }

    /// Commits what was consumed from lanes that are still ours before giving them up. What was consumed from lost
    /// lanes is dropped, since their new owner consumes it again.
    fn revoke(&mut self, partitions: &[i32], lost: bool) -> Result<(), WorkerError> {
        if lost {
            self.settle_in_flight()?;
            if self.is_dirty() {
                self.gate.metrics.aborted(AbortCause::LostAssignment);
            }
        } else {
            self.finish()?;
        }
        // Nothing of a revoked lane may stay in the open batch.
        if self.is_dirty() && !planted!(RevokedLaneStaysInBatch) {
            self.rewind();
        }
        for &partition in partitions {
            let now = self.gate.services.now();
            let slot = self.slot(partition);
            slot.close(now);
            *slot = Slot::Absent;
            self.health.revoked(partition);
        }
        self.consumer.unassign(partitions)?;
        Ok(())
    }

    /// Creates the producer if there is none. Lanes stay closed until there is one.
    fn ensure_settler(&mut self) {
        if self.settler.is_some() || self.gate.services.now() < self.settler_at {
            return;
        }
        match self.gate.services.start_settler(self.index) {
            Ok(settler) => self.settler = Some(settler),
            Err(error) => {
                self.gate.metrics.failed(Service::Kafka);
                warn!(worker = self.index, %error, "failed to create the transactional producer: retrying");
                self.settler_at = self.gate.services.now() + RETRY_PAUSE;
            }
        }
    }

    /// Fills the batch, and hands it over when it is due.
    fn fill(&mut self) -> Result<(), WorkerError> {
        let Some(settler) = &self.settler else {
            // Without a settler no lane stays open for long.
            self.gate.services.rest(SETTLE_STEP);
            return Ok(());
        };
        let settling = settler.is_busy();
        let patience = self.filling.patience(&self.gate);
        let due = patience.is_some_and(|left| left.is_zero());
        if self.filling.is_full(&self.gate) || (due && !settling) {
            self.collect(SETTLE_STEP)?;
            self.hand_over();
            return Ok(());
        }
        if self.filling.take(
            &self.consumer,
            &self.gate,
            patience.unwrap_or(IDLE_WAIT).min(TAKE_WAIT_MAX),
        ) > 0
        {
            for cut in self.filling.process(&self.gate, &mut self.slots)? {
                self.hold(cut)?;
            }
        } else if due {
            self.collect(SETTLE_STEP)?;
        }
        Ok(())
    }

    /// Closes the batch and gives it to the settler, if the settler is free.
    fn hand_over(&mut self) {
        let group = self.gate.services.group(&self.consumer);
        let (Some(settler), Some(group)) = (&mut self.settler, group) else {
            return;
        };
        if settler.is_busy() {
            return;
        }
        let (mut batch, size) = self.filling.close(self.spare.take().unwrap_or_default());
        let stamp = Stamp {
            worker: &self.transactional_id,
            schema_rev: &self.gate.schema_rev,
            key_rev: size.key_rev,
        };
        let mut offsets = Vec::new();
        let mut in_flight = InFlight {
            lanes: Vec::new(),
            outcomes: [0; Outcome::COUNT],
            size,
        };
        for (partition, slot) in (0..).zip(&mut self.slots) {
            let Some(lane) = slot.lane().filter(|lane| lane.is_dirty()) else {
                continue;
            };
            let counts = lane.hand_over(&stamp, &mut batch);
            in_flight
                .outcomes
                .iter_mut()
                .zip(counts)
                .for_each(|(sum, count)| *sum += count);
            in_flight.lanes.push(partition);
            if !planted!(OffsetsNotAdded) {
                offsets.push((partition, lane.position()));
            }
        }
        if in_flight.lanes.is_empty() {
            batch.clear();
            self.spare = Some(batch);
            return;
        }
        settler.begin(Job {
            batch,
            offsets,
            group,
        });
        self.in_flight = Some(in_flight);
    }

    /// Takes the result of the current settlement, waiting at most for `patience`.
    fn collect(&mut self, patience: Duration) -> Result<(), WorkerError> {
        let Some(done) = self.settler.as_mut().and_then(|settler| settler.wait(patience)) else {
            return Ok(());
        };
        let in_flight = self.in_flight.take();
        let result = match done {
            Ok(Settled { mut batch, result }) => {
                batch.clear();
                self.spare = Some(batch);
                result
            }
            Err(hung) => Err(hung),
        };
        match result {
            Ok(timings) => {
                let Some(in_flight) = in_flight else { return Ok(()) };
                for &partition in &in_flight.lanes {
                    self.commit(partition);
                }
                self.gate.metrics.committed(&in_flight.into_metrics(&timings));
                Ok(())
            }
            Err(fenced @ SettleError::Fenced(_)) if !planted!(FencedTakenForAborted) => {
                self.gate.metrics.aborted(AbortCause::Fenced);
                Err(WorkerError::Fenced(fenced))
            }
            Err(SettleError::Aborted(error) | SettleError::Fenced(error)) => {
                warn!(worker = self.index, %error, "transaction aborted: rewinding the lanes to their last commit");
                self.gate.metrics.aborted(AbortCause::Kafka);
                self.rewind();
                Ok(())
            }
            Err(SettleError::Unknown(_)) if planted!(UnknownTakenForAborted) => {
                self.rewind();
                Ok(())
            }
            Err(error @ (SettleError::Unknown(_) | SettleError::Hung)) => {
                warn!(
                    worker = self.index,
                    %error,
                    "outcome of a transaction unknown: replacing the producer and reopening the lanes"
                );
                self.gate.metrics.aborted(AbortCause::Kafka);
                self.reopen();
                Ok(())
            }
        }
    }

    /// Waits until nothing is being settled.
    fn settle_in_flight(&mut self) -> Result<(), WorkerError> {
        while self.settler.as_ref().is_some_and(Settle::is_busy) {
            self.collect(Duration::from_secs(1))?;
        }
        Ok(())
    }

    /// Commits everything that was consumed.
    fn finish(&mut self) -> Result<(), WorkerError> {
        self.settle_in_flight()?;
        if self.is_dirty() {
            self.hand_over();
            self.settle_in_flight()?;
        }
        Ok(())
    }

    fn report_lag(&mut self) {
        let Some(stable) = self.consumer.take_stable_offsets() else {
            return;
        };
        for (partition, stable) in stable {
            if let Some(lane) = self.slots.get_mut(partition as usize).and_then(Slot::lane) {
                let records = (stable - lane.settled()).max(0).cast_unsigned();
                let appended_ms = self.filling.last_appended_ms(partition);
                self.health.lag(partition, records, appended_ms);
            }
        }
    }

    /// Commits what was consumed, gives the lanes back and leaves the group.
    pub(super) fn drain(mut self) -> Result<(), WorkerError> {
        self.finish()?;
        let now = self.gate.services.now();
        for partition in 0..self.slots.len() as i32 {
            self.slot(partition).close(now);
            self.health.revoked(partition);
        }
        let Self {
            filling,
            consumer,
            health,
            ..
        } = self;
        drop(filling);
        drop(consumer);
        health.stopped();
        Ok(())
    }

    /// Whether a lane has accounted for records that are neither committed nor being committed.
    fn is_dirty(&mut self) -> bool {
        self.slots
            .iter_mut()
            .filter_map(Slot::lane)
            .any(|lane| lane.is_dirty())
    }

    fn slot(&mut self, partition: i32) -> &mut Slot {
        &mut self.slots[partition as usize]
    }
}
