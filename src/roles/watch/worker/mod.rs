//! The worker loop: one thread, one consumer, the lanes that the group gives it.
//!
//! ```text
//! serve rebalances ─▶ collect results ─▶ open lanes ─▶ hand batches over ─▶ take records
//! ```
//!
//! While a lane's batch is being written its next one is filled. Only this thread touches lanes; opening and writing
//! are tasks of the runtime, which send it their results.

mod fill;
mod lanes;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::feed::Feed;
use super::lane::{OpenLane, Paused};
use super::news::News;
use super::tasks::Tasks;
use crate::config::watch::Config;
use crate::io::kafka::source::Source;
use crate::roles::assignments::{AssignmentError, Assignments, Change};
use crate::telemetry::health::WorkerHealth;

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

/// The present time, by the runtime's clock.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// One worker.
pub struct Worker<F: Feed, S: Source, T: Tasks> {
    feed: Arc<F>,
    config: Arc<Config>,
    // Declared, hence dropped, before the source, which does not close while its records are held.
    records: S::Records,
    assignments: Assignments<S, OpenLane<F>>,
    /// Lanes that were fenced since the group assigned them to this worker.
    fenced: HashSet<i32>,
    outbox: UnboundedSender<News<F>>,
    inbox: UnboundedReceiver<News<F>>,
    tasks: T,
}

/// The arguments of a worker, which is created on its own thread.
pub struct Setup<F: Feed, T: Tasks> {
    /// How the records are processed.
    pub feed: Arc<F>,
    /// The watch's settings.
    pub config: Arc<Config>,
    /// Health that the worker reports.
    pub health: WorkerHealth,
    /// Number of partitions of the topic that it reads.
    pub partitions: usize,
    /// Where its tasks run.
    pub tasks: T,
}

impl<F: Feed, S: Source, T: Tasks> Worker<F, S, T> {
    /// A worker that takes its lanes and records from `source`.
    pub fn new(setup: Setup<F, T>, source: S) -> Self {
        let (outbox, inbox) = unbounded_channel();
        Self {
            assignments: Assignments::new(source, setup.partitions, setup.health, F::LOG.as_str()),
            fenced: HashSet::new(),
            records: S::buffer(CHUNK_RECORDS),
            outbox,
            inbox,
            feed: setup.feed,
            config: setup.config,
            tasks: setup.tasks,
        }
    }

    /// Works until `stop` is set, then drains.
    ///
    /// # Errors
    ///
    /// [`AssignmentError`]: the process should report it and exit.
    pub fn run(mut self, stop: &AtomicBool) -> Result<(), AssignmentError> {
        while !stop.load(Ordering::Relaxed) {
            self.step()?;
        }
        self.drain();
        Ok(())
    }

    /// One pass of the loop.
    pub(super) fn step(&mut self) -> Result<(), AssignmentError> {
        self.serve()?;
        if self.assignments.take_gap() && !planted!(IgnoreGap) {
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
        self.assignments.report_lag(|_, lane| lane.reached());
        Ok(())
    }

    /// Serves the group protocol and answers rebalances.
    fn serve(&mut self) -> Result<(), AssignmentError> {
        self.assignments.serve()?;
        while let Some(change) = self.assignments.change(now())? {
            match change {
                Change::Assigned(partitions) => {
                    for partition in partitions {
                        self.fenced.remove(&partition);
                    }
                }
                Change::Revoked { partitions, lost } => {
                    if !lost {
                        self.finish(&partitions, REVOKE_TIME_MAX);
                    }
                    // What is not stored now is read again by the lane's next owner; a write still under way either
                    // commits before that owner's claim or is refused.
                    self.assignments.give_back(&partitions)?;
                }
            }
        }
        Ok(())
    }

    /// Processes the messages of tasks, waiting at most for `patience` for the first.
    fn hear(&mut self, patience: Duration) {
        let mut next = if patience.is_zero() {
            self.inbox.try_recv().ok()
        } else {
            self.tasks.receive(&mut self.inbox, patience)
        };
        while let Some(news) = next {
            match news {
                News::Opened(partition, opening, opened) => self.opened(partition, opening, opened),
                News::Ended(partition, opening, batch, ended) => {
                    self.ended(partition, &opening, batch, &ended);
                }
                News::Waiting(partition, opening) => {
                    if self.assignments.lane_of(partition, &opening).is_some() {
                        self.pause(partition, Paused::Database);
                    }
                }
            }
            next = self.inbox.try_recv().ok();
        }
    }

    /// Stores what these lanes hold, as far as that is possible within `limit`.
    fn finish(&mut self, partitions: &[i32], limit: Duration) {
        let begun = Instant::now();
        loop {
            self.hand_over(true);
            let is_dirty = |lane: &mut OpenLane<F>| lane.is_dirty();
            let dirty = partitions
                .iter()
                .any(|&partition| self.assignments.lane(partition).is_some_and(is_dirty));
            if !dirty || begun.elapsed() >= limit {
                return;
            }
            self.hear(WRITE_STEP);
        }
    }

    /// Stores what was read, gives the lanes back and leaves the group.
    pub(super) fn drain(mut self) {
        let all = self.assignments.assigned();
        self.finish(&all, Duration::from_millis(self.config.drain_timeout_ms));
        let Self {
            records, assignments, ..
        } = self;
        if planted!(RecordsOutliveSource) {
            assignments.leave();
            return;
        }
        drop(records);
        assignments.leave();
    }
}
