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
use tracing::warn;

use super::error::WorkerError;
use super::filling::{Filling, Size};
use super::lane::Lanes;
use super::live::Live;
use super::opening::Opened;
use super::services::{Services, Settle};
use super::shared::Gate;
use crate::io::kafka::settle::{Job, SettleError, Settled, Timings};
use crate::roles::assignments::{Assignments, Change, Reached};
use crate::telemetry::health::Log;
use crate::telemetry::metrics::{self, AbortCause, Service, Stage};
use pulsegate_core::gate::seal::SealedBatch;
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

/// The batch that is being settled.
struct InFlight {
    lanes: Vec<i32>,
    outcomes: [u64; Outcome::COUNT],
    size: Size,
}

/// One worker.
pub struct Worker<S: Services = Live> {
    gate: Arc<Gate<S>>,
    index: usize,
    transactional_id: String,
    // Declared, hence dropped, before the source, which does not close while its messages are held.
    filling: Filling<S>,
    assignments: Lanes<S::Consumer>,
    settler: Option<S::Settler>,
    settler_at: Instant,
    spare: Option<SealedBatch>,
    in_flight: Option<InFlight>,
    openings: (Sender<Opened>, Receiver<Opened>),
}

impl InFlight {
    fn into_metrics(self, timings: &Timings) -> metrics::Committed {
        let mut stages = self.size.stages;
        stages[Stage::Produce as usize] = timings.produce + timings.deliver;
        stages[Stage::Commit as usize] = timings.commit;
        let transaction = timings.produce + timings.deliver + timings.commit;
        metrics::Committed {
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
        let source = gate.services.subscribe(index, &gate.config.topics.raw)?;
        Ok(Self {
            index,
            transactional_id: gate.services.transactional_id(index),
            assignments: Assignments::new(
                source,
                gate.partitions(),
                gate.health.worker(index),
                Log::Raw.as_str(),
            ),
            settler: None,
            settler_at: gate.services.now(),
            filling: Filling::new(&gate)?,
            spare: Some(SealedBatch::default()),
            in_flight: None,
            openings: unbounded(),
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
        if self.assignments.take_gap() && !planted!(GapIgnored) {
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
        self.assignments.serve()?;
        while let Some(change) = self.assignments.change(self.gate.services.now())? {
            match change {
                Change::Assigned(_) => {}
                Change::Revoked { partitions, lost } => self.revoke(&partitions, lost)?,
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
        self.assignments.give_back(partitions)?;
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
            self.assignments.source(),
            &self.gate,
            patience.unwrap_or(IDLE_WAIT).min(TAKE_WAIT_MAX),
        ) > 0
        {
            for cut in self.filling.process(&self.gate, &mut self.assignments)? {
                self.hold(cut)?;
            }
        } else if due {
            self.collect(SETTLE_STEP)?;
        }
        Ok(())
    }

    /// Closes the batch and gives it to the settler, if the settler is free.
    fn hand_over(&mut self) {
        let group = self.gate.services.group(self.assignments.source());
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
        for (partition, _, open) in self.assignments.lanes() {
            let lane = &mut open.lane;
            if !lane.is_dirty() {
                continue;
            }
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
        let filling = &self.filling;
        self.assignments.report_lag(|partition, open| Reached {
            position: open.lane.settled(),
            appended_ms: filling.last_appended_ms(partition),
        });
    }

    /// Commits what was consumed, gives the lanes back and leaves the group.
    pub(super) fn drain(mut self) -> Result<(), WorkerError> {
        self.finish()?;
        let Self {
            filling, assignments, ..
        } = self;
        drop(filling);
        assignments.leave();
        Ok(())
    }

    /// Whether a lane has accounted for records that are neither committed nor being committed.
    fn is_dirty(&mut self) -> bool {
        self.assignments.lanes().any(|(_, _, open)| open.lane.is_dirty())
    }
}
