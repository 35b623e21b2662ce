//! The worker loop: one thread, one consumer, the lanes that the group gives it.
//!
//! ```text
//! serve rebalances ─▶ collect results ─▶ open lanes ─▶ hand batches over ─▶ take records
//! ```
//!
//! While a lane's batch is being written its next one is filled. Only this thread touches lanes; opening and writing
//! are tasks of the runtime, which send it their results.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use thiserror::Error;
use tokio::runtime::Handle;
use tracing::{error, info, warn};

use super::feed::{Feed, OpenFault, Opened, Taken};
use super::lane::{Lane, Paused, Slot};
use super::log::Log;
use super::write::{self, Ended};
use crate::config::watch::Config;
use crate::io::kafka::consumer::{Consumer, Rebalance};
use crate::io::kafka::raw::Messages;
use crate::telemetry::health::{HoldCause, WorkerHealth};

/// Maximum number of records taken at once.
pub const CHUNK_RECORDS: usize = 1024;
/// How long an idle worker waits for a record.
const IDLE_WAIT: Duration = Duration::from_millis(20);
/// How long a worker that must not take more waits for a write to end.
const WRITE_STEP: Duration = Duration::from_millis(5);
/// How long a full lane may hold up the others of its worker before it is paused.
const PRESSED_MAX: Duration = Duration::from_millis(500);
/// Pause before a failed operation is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a fenced lane is claimed again.
const FENCED_PAUSE: Duration = Duration::from_secs(10);
/// How long a lane that is closed or revoked may take to store what it holds.
const REVOKE_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a worker stopped before `stop` was set.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The Kafka client cannot continue.
    #[error("the Kafka client failed: {0}")]
    Kafka(#[from] KafkaError),
    /// The topic has gained partitions.
    #[error("the topic has more than the {known} partitions it had at the start: restart the watch")]
    Partitions {
        /// Number of partitions when the watch started.
        known: usize,
    },
}

/// A task's message to the worker.
pub(super) enum News<F: Feed> {
    /// Opening a lane succeeded or failed.
    Opened(i32, Arc<AtomicBool>, Result<Opened<F::Lane>, OpenFault>),
    /// Writing a batch has succeeded, or was given up.
    Ended(i32, Arc<AtomicBool>, F::Batch, Ended),
    /// Writing a batch failed and is retried.
    Waiting(i32, Arc<AtomicBool>),
}

/// One worker.
pub struct Worker<F: Feed> {
    feed: Arc<F>,
    config: Arc<Config>,
    health: WorkerHealth,
    // Declared, hence dropped, before the consumer, which does not close while its messages are held.
    messages: Messages,
    consumer: Consumer,
    log: Log,
    slots: Vec<Slot<F>>,
    /// Lanes that were fenced since the group assigned them to this worker.
    fenced: HashSet<i32>,
    news: (Sender<News<F>>, Receiver<News<F>>),
    runtime: Handle,
}

/// The arguments of a worker, which is created on its own thread.
pub struct Setup<F: Feed> {
    /// How the records are processed.
    pub feed: Arc<F>,
    /// The watch's settings.
    pub config: Arc<Config>,
    /// Health that the worker reports.
    pub health: WorkerHealth,
    /// Settings of its consumer.
    pub client: ClientConfig,
    /// The topic that it reads.
    pub log: Log,
    /// Runtime of its tasks.
    pub runtime: Handle,
}

impl<F: Feed> Worker<F> {
    /// Joins the group.
    ///
    /// # Errors
    ///
    /// When librdkafka refuses the configuration.
    pub fn new(setup: Setup<F>) -> Result<Self, WorkerError> {
        let Setup {
            feed,
            config,
            health,
            client,
            log,
            runtime,
        } = setup;
        Ok(Self {
            consumer: Consumer::subscribe(&client, feed.topic())?,
            slots: (0..log.partitions()).map(|_| Slot::Absent).collect(),
            fenced: HashSet::new(),
            messages: Messages::with_capacity(CHUNK_RECORDS),
            news: unbounded(),
            feed,
            config,
            health,
            log,
            runtime,
        })
    }

    /// Works until `stop` is set, then drains.
    ///
    /// # Errors
    ///
    /// [`WorkerError`]: the process should report it and exit.
    pub fn run(mut self, stop: &AtomicBool) -> Result<(), WorkerError> {
        while !stop.load(Ordering::Relaxed) {
            self.serve()?;
            if self.consumer.take_gap() {
                self.find_out_what_is_left()?;
            }
            self.hear(Duration::ZERO);
            self.open_lanes();
            self.hand_over(false);
            if self.is_pressed() {
                self.hear(WRITE_STEP);
            } else {
                self.fill()?;
            }
            self.report_lag();
        }
        self.drain();
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
                    info!(log = F::LOG.as_str(), ?partitions, "lanes assigned");
                    let known = self.slots.len();
                    if partitions.iter().any(|&partition| known <= partition as usize) {
                        return Err(WorkerError::Partitions { known });
                    }
                    self.consumer.assign(&partitions)?;
                    for partition in partitions {
                        self.replace(partition, Slot::Closed(Instant::now()));
                        self.fenced.remove(&partition);
                        self.health.assigned(partition);
                    }
                    self.health.joined();
                }
                Rebalance::Revoke { partitions, lost } => {
                    info!(log = F::LOG.as_str(), ?partitions, lost, "lanes revoked");
                    if !lost {
                        self.finish(&partitions, REVOKE_TIME_MAX);
                    }
                    // What is not stored now is read again by the lane's next owner; a write still under way either
                    // commits before that owner's claim or is refused.
                    for &partition in &partitions {
                        self.replace(partition, Slot::Absent);
                        self.health.revoked(partition);
                    }
                    self.consumer.unassign(&partitions)?;
                }
            }
        }
        Ok(())
    }

    /// Processes the messages of tasks, waiting at most for `patience` for the first.
    fn hear(&mut self, patience: Duration) {
        let mut next = if patience.is_zero() {
            self.news.1.try_recv().ok()
        } else {
            self.news.1.recv_timeout(patience).ok()
        };
        while let Some(news) = next {
            match news {
                News::Opened(partition, cancelled, opened) => self.opened(partition, &cancelled, opened),
                News::Ended(partition, cancelled, batch, ended) => {
                    self.ended(partition, &cancelled, batch, &ended);
                }
                News::Waiting(partition, cancelled) => {
                    if self.current(partition, &cancelled).is_some() {
                        self.pause(partition, Paused::Database);
                    }
                }
            }
            next = self.news.1.try_recv().ok();
        }
    }

    /// The open lane that a task was started for; `None` when it was given back meanwhile.
    fn current(&mut self, partition: i32, cancelled: &Arc<AtomicBool>) -> Option<&mut Lane<F>> {
        self.slot(partition)
            .open()
            .filter(|lane| Arc::ptr_eq(&lane.cancelled, cancelled))
    }

    fn opened(
        &mut self,
        partition: i32,
        cancelled: &Arc<AtomicBool>,
        opened: Result<Opened<F::Lane>, OpenFault>,
    ) {
        if !matches!(self.slot(partition), Slot::Opening(current) if Arc::ptr_eq(current, cancelled)) {
            // The lane was given back while it was being claimed.
            if let Ok(opened) = opened {
                self.feed.release(partition, opened.epoch);
            }
            return;
        }
        let slot = match opened {
            Ok(opened) => {
                let lane = Lane::new(opened);
                match self.consumer.start(partition, lane.position) {
                    Ok(()) => {
                        if !lane.is_rebuilding() {
                            self.health.release(partition);
                        }
                        info!(
                            log = F::LOG.as_str(),
                            lane = partition,
                            offset = lane.position,
                            "lane opened"
                        );
                        Slot::Open(Box::new(lane))
                    }
                    Err(error) => {
                        warn!(log = F::LOG.as_str(), lane = partition, %error, "failed to seek: reopening the lane");
                        self.feed.release(partition, lane.epoch);
                        Slot::Closed(Instant::now() + RETRY_PAUSE)
                    }
                }
            }
            Err(fault) => {
                let log = F::LOG.as_str();
                match fault.cause {
                    HoldCause::Tampered | HoldCause::Truncated => {
                        error!(log, lane = partition, %fault, "lane held until an operator has acted");
                    }
                    _ => warn!(log, lane = partition, %fault, "failed to open the lane: retrying"),
                }
                self.health.hold(partition, fault.cause);
                Slot::Closed(Instant::now() + RETRY_PAUSE)
            }
        };
        *self.slot(partition) = slot;
    }

    fn ended(&mut self, partition: i32, cancelled: &Arc<AtomicBool>, batch: F::Batch, ended: &Ended) {
        let Some(lane) = self.current(partition, cancelled) else {
            return;
        };
        match ended {
            Ended::Written => {
                lane.written(batch);
                if lane.paused == Some(Paused::Database) {
                    self.resume(partition);
                }
            }
            Ended::Fenced(error) => {
                warn!(log = F::LOG.as_str(), lane = partition, %error, "lane fenced: giving it up for now");
                self.stop_fetching(partition);
                // A process that has just lost the lane may have been about to claim it, which happens once. A process
                // that fences twice is working on it.
                let slot = if self.fenced.insert(partition) {
                    Slot::Closed(Instant::now() + FENCED_PAUSE)
                } else {
                    Slot::Fenced
                };
                self.replace(partition, slot);
                self.health.hold(partition, HoldCause::Fenced);
            }
            Ended::Lost => {
                // The sink's offset is unknown: claiming the lane again finds out.
                self.stop_fetching(partition);
                self.replace(partition, Slot::Closed(Instant::now() + RETRY_PAUSE));
                self.health.hold(partition, HoldCause::Database);
            }
            Ended::Cancelled => {}
        }
    }

    /// Starts to open the closed lanes that are due.
    fn open_lanes(&mut self) {
        let now = Instant::now();
        for partition in 0..self.slots.len() as i32 {
            if !matches!(self.slot(partition), Slot::Closed(at) if *at <= now) {
                continue;
            }
            let cancelled = Arc::new(AtomicBool::new(false));
            *self.slot(partition) = Slot::Opening(Arc::clone(&cancelled));
            let (feed, log, outbox) = (Arc::clone(&self.feed), self.log.clone(), self.news.0.clone());
            self.runtime.spawn(async move {
                // Given back meanwhile: a claim now would fence the lane's new owner.
                if cancelled.load(Ordering::Relaxed) {
                    return;
                }
                let opened = feed.open(partition, &log).await;
                // Sending fails only when the worker has ended.
                let _ = outbox.send(News::Opened(partition, cancelled, opened));
            });
        }
    }

    /// Starts to write the batches that are due, or all of them.
    fn hand_over(&mut self, all: bool) {
        for (partition, slot) in (0..).zip(&mut self.slots) {
            let Some(lane) = slot.open() else { continue };
            let limits = &self.config.batch;
            let due = lane.is_full(limits) || lane.patience(limits).is_some_and(|left| left.is_zero());
            if !all && !due {
                continue;
            }
            let Some((stretch, batch)) = lane.hand_over(&self.feed, partition) else {
                continue;
            };
            self.runtime.spawn(write::until_done(
                Arc::clone(&self.feed),
                stretch,
                batch,
                Arc::clone(&lane.cancelled),
                self.news.0.clone(),
            ));
        }
    }

    /// Whether a lane is full while its last batch is still being written: then taking more has to wait. A lane that
    /// makes the others wait for longer than [`PRESSED_MAX`] is paused.
    fn is_pressed(&mut self) -> bool {
        let mut pressed = false;
        let mut slow = Vec::new();
        for (partition, slot) in (0..).zip(&mut self.slots) {
            let Some(lane) = slot.open() else { continue };
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
        for lane in self.slots.iter_mut().filter_map(Slot::open) {
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
    fn fill(&mut self) -> Result<(), WorkerError> {
        let (records, patience) = self.patience();
        self.consumer.consume(&mut self.messages, records, patience);
        let messages = std::mem::replace(&mut self.messages, Messages::with_capacity(0));
        let mut gap = false;
        for message in messages.iter() {
            let partition = message.partition();
            if message.is_end() {
                if let Some(lane) = self.slot(partition).open().filter(|lane| lane.paused.is_none()) {
                    lane.end = message.offset();
                }
                continue;
            }
            if let Some(error) = message.error() {
                warn!(log = F::LOG.as_str(), lane = partition, %error, "fetch failed: reopening all lanes");
                // Later records of its lane do not follow the last one taken, and all are read again.
                gap = true;
                break;
            }
            let (feed, rows_max) = (&self.feed, self.config.batch.rows_max);
            let Some(lane) = self.slots.get_mut(partition as usize).and_then(Slot::open) else {
                continue;
            };
            // Records that were fetched before the pause are fetched again after it.
            if lane.paused.is_some() {
                continue;
            }
            let (received, _) = message.received();
            let taken = Taken {
                partition,
                offset: received.offset,
                append_ms: received.appended_ms,
                value: received.value,
            };
            let was_rebuilding = lane.is_rebuilding();
            if let Err(needs) = lane.take(feed, &taken) {
                self.feed.resolve(needs.0);
                self.pause(partition, Paused::Schema(needs.0));
                continue;
            }
            if was_rebuilding && !lane.is_rebuilding() {
                self.health.release(partition);
            }
            // One event can have thousands of readings: a lane that waits for its write takes at most twice the limit.
            if lane.writing.is_some() && lane.rows() >= rows_max * 2 {
                self.pause(partition, Paused::Database);
            }
        }
        self.messages = messages;
        self.release_schemas();
        if gap { self.find_out_what_is_left() } else { Ok(()) }
    }

    /// Reopens all lanes after a gap in a log, for example after retention deleted a lane's next offset. Opening finds
    /// out what is left and reports what is lost. librdkafka does not always say which lane it is; with only the lanes
    /// that it named reopened, another one of the same consumer once missed a record after a broker's restart.
    fn find_out_what_is_left(&mut self) -> Result<(), WorkerError> {
        let ours = |slot: &Slot<F>| !matches!(slot, Slot::Absent);
        let lanes: Vec<_> = (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| ours(slot))
            .map(|(lane, _)| lane)
            .collect();
        self.reopen(&lanes);
        // librdkafka has stopped fetching the partition, and refuses to seek in it until it is reassigned. This is
        // local: the group does not notice.
        self.consumer.unassign(&lanes)?;
        self.consumer.assign(&lanes)?;
        Ok(())
    }

    /// Reopens lanes whose log cannot be read from their position.
    fn reopen(&mut self, partitions: &[i32]) {
        self.finish(partitions, REVOKE_TIME_MAX);
        for &partition in partitions {
            if self.slot(partition).open().is_none() {
                continue;
            }
            self.stop_fetching(partition);
            self.replace(partition, Slot::Closed(Instant::now() + RETRY_PAUSE));
            self.health.hold(partition, HoldCause::Kafka);
        }
    }

    /// Resumes lanes whose schema has been resolved, and asks again for the others.
    fn release_schemas(&mut self) {
        for partition in 0..self.slots.len() as i32 {
            let waits = |lane: &mut Lane<F>| match lane.paused {
                Some(Paused::Schema(id)) => Some(id),
                _ => None,
            };
            let Some(id) = self.slot(partition).open().and_then(waits) else {
                continue;
            };
            if self.feed.knows(id) {
                self.resume(partition);
            } else {
                self.feed.resolve(id);
            }
        }
    }

    fn pause(&mut self, partition: i32, why: Paused) {
        let Some(lane) = self.slot(partition).open().filter(|lane| lane.paused.is_none()) else {
            return;
        };
        lane.paused = Some(why);
        self.stop_fetching(partition);
        self.health.hold(
            partition,
            match why {
                Paused::Database => HoldCause::Database,
                Paused::Schema(_) => HoldCause::SchemaRegistry,
            },
        );
    }

    fn resume(&mut self, partition: i32) {
        let Some(position) = self.slot(partition).open().map(|lane| lane.position) else {
            return;
        };
        match self.consumer.start(partition, position) {
            Ok(()) => {
                if let Some(lane) = self.slot(partition).open() {
                    lane.paused = None;
                }
                self.health.release(partition);
            }
            Err(error) => {
                warn!(log = F::LOG.as_str(), lane = partition, %error, "failed to resume the lane: reopening it");
                self.reopen(&[partition]);
            }
        }
    }

    fn stop_fetching(&mut self, partition: i32) {
        if let Err(error) = self.consumer.pause(partition) {
            warn!(
                log = F::LOG.as_str(),
                lane = partition,
                %error,
                "failed to pause fetching: records are discarded and read again later"
            );
        }
    }

    /// Stores what these lanes hold, as far as that is possible within `limit`.
    fn finish(&mut self, partitions: &[i32], limit: Duration) {
        let begun = Instant::now();
        loop {
            self.hand_over(true);
            let dirty = partitions
                .iter()
                .any(|&partition| self.slot(partition).open().is_some_and(|lane| lane.is_dirty()));
            if !dirty || begun.elapsed() >= limit {
                return;
            }
            self.hear(WRITE_STEP);
        }
    }

    fn report_lag(&mut self) {
        let Some(stable) = self.consumer.take_stable_offsets() else {
            return;
        };
        for (partition, stable) in stable {
            if let Some(lane) = self.slots.get_mut(partition as usize).and_then(Slot::open) {
                // The offsets behind the last record are transaction markers, which readers never see.
                let records = (stable - lane.position.max(lane.end)).max(0).cast_unsigned();
                self.health.lag(partition, records, lane.appended_ms);
            }
        }
    }

    /// Stores what was read, gives the lanes back and leaves the group.
    fn drain(mut self) {
        let all: Vec<_> = (0..self.slots.len() as i32).collect();
        self.finish(&all, Duration::from_millis(self.config.drain_timeout_ms));
        for partition in all {
            self.replace(partition, Slot::Absent);
            self.health.revoked(partition);
        }
        let Self {
            messages,
            consumer,
            health,
            ..
        } = self;
        drop(messages);
        drop(consumer);
        health.stopped();
    }

    /// Replaces a slot, giving its lane back if it was open.
    fn replace(&mut self, partition: i32, by: Slot<F>) {
        if let Some(epoch) = self.slot(partition).open().map(|lane| lane.epoch) {
            self.feed.release(partition, epoch);
        }
        self.slot(partition).replace(by);
    }

    fn slot(&mut self, partition: i32) -> &mut Slot<F> {
        &mut self.slots[partition as usize]
    }
}
