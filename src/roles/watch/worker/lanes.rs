//! A worker's lanes: opened by tasks, paused while a database or a schema is missing, and reopened when their log
//! cannot be read from their position.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::{FENCED_PAUSE, RETRY_PAUSE, REVOKE_TIME_MAX, Worker, now};
use crate::io::kafka::source::Source;
use crate::roles::assignments::{AssignmentError, Opening};
use crate::roles::watch::feed::{Feed, OpenFault, Opened};
use crate::roles::watch::lane::{Claim, OpenLane, Paused};
use crate::roles::watch::news::{Ended, News};
use crate::roles::watch::tasks::Tasks;
use crate::telemetry::health::HoldCause;

impl<F: Feed, S: Source, T: Tasks> Worker<F, S, T> {
    /// Starts to open the closed lanes that are due.
    pub(super) fn open_lanes(&mut self) {
        for (partition, opening) in self.assignments.begin_openings(now()) {
            let (feed, outbox) = (Arc::clone(&self.feed), self.outbox.clone());
            self.tasks.spawn(async move {
                // Given back meanwhile: a claim now would fence the lane's new owner.
                if opening.is_cancelled() && !planted!(ClaimWhenGivenBack) {
                    return;
                }
                let opened = feed.open(partition).await;
                // Sending fails only when the worker has ended.
                let _ = outbox.send(News::Opened(partition, opening, opened));
            });
        }
    }

    pub(super) fn opened(
        &mut self,
        partition: i32,
        opening: Opening,
        opened: Result<Opened<F::State>, OpenFault>,
    ) {
        let opened = opened.map(|opened| (Claim::new(&self.feed, partition, opened.epoch), opened));
        if self.assignments.awaited(partition) != Some(&opening) {
            // The lane was given back while it was being claimed, and so is the claim.
            if planted!(KeepLateClaim) {
                std::mem::forget(opened);
            }
            return;
        }
        match opened {
            Ok((claim, opened)) => self.start(partition, opening, OpenLane::new(claim, opened)),
            Err(fault) => {
                let log = F::LOG.as_str();
                match fault.cause {
                    HoldCause::Tampered | HoldCause::Truncated => {
                        error!(log, lane = partition, %fault, "lane held until an operator has acted");
                    }
                    _ => warn!(log, lane = partition, %fault, "failed to open the lane: retrying"),
                }
                self.close(partition, RETRY_PAUSE, fault.cause);
            }
        }
    }

    fn start(&mut self, partition: i32, opening: Opening, lane: OpenLane<F>) {
        let (position, is_rebuilding) = (lane.position, lane.is_rebuilding());
        match self.assignments.source().start(partition, position) {
            Ok(()) => {
                self.assignments.open(partition, opening, lane);
                if !is_rebuilding {
                    self.assignments.health().release(partition);
                }
                info!(
                    log = F::LOG.as_str(),
                    lane = partition,
                    offset = position,
                    "lane opened"
                );
            }
            Err(error) => {
                warn!(log = F::LOG.as_str(), lane = partition, %error, "failed to seek: reopening the lane");
                self.assignments.close(partition, now() + RETRY_PAUSE);
            }
        }
    }

    pub(super) fn ended(&mut self, partition: i32, opening: &Opening, batch: F::Batch, ended: &Ended) {
        // A lane that was closed or given back meanwhile has no use for the result.
        let Some(lane) = self.assignments.lane_of(partition, opening) else {
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
                self.assignments.pause(partition);
                // A process that has just lost the lane may have been about to claim it, which happens once. A process
                // that fences twice is working on it.
                if self.fenced.insert(partition) && !planted!(FencedForGood) {
                    self.close(partition, FENCED_PAUSE, HoldCause::Fenced);
                } else {
                    self.assignments.abandon(partition);
                    self.assignments.health().hold(partition, HoldCause::Fenced);
                }
            }
            Ended::Lost => {
                // The sink's offset is unknown: claiming the lane again finds out.
                self.assignments.pause(partition);
                self.close(partition, RETRY_PAUSE, HoldCause::Database);
            }
            Ended::Cancelled => {}
        }
    }

    fn close(&mut self, partition: i32, pause: Duration, cause: HoldCause) {
        self.assignments.close(partition, now() + pause);
        self.assignments.health().hold(partition, cause);
    }

    /// Reopens all lanes after a gap in a log, for example after retention deleted a lane's next offset. Opening finds
    /// out what is left and reports what is lost. librdkafka does not always say which lane it is; with only the lanes
    /// that it named reopened, another one of the same consumer once missed a record after a broker's restart.
    pub(super) fn find_out_what_is_left(&mut self) -> Result<(), AssignmentError> {
        let lanes = self.assignments.assigned();
        self.reopen(&lanes);
        self.assignments.reassign()
    }

    /// Reopens lanes whose log cannot be read from their position.
    pub(super) fn reopen(&mut self, partitions: &[i32]) {
        self.finish(partitions, REVOKE_TIME_MAX);
        for &partition in partitions {
            if self.assignments.lane(partition).is_none() {
                continue;
            }
            self.assignments.pause(partition);
            self.close(partition, RETRY_PAUSE, HoldCause::Kafka);
        }
    }

    /// Resumes lanes whose schema has been resolved, and asks again for the others.
    pub(super) fn release_schemas(&mut self) {
        let mut resolved = Vec::new();
        for (partition, _, lane) in self.assignments.lanes() {
            let Some(Paused::Schema(id)) = lane.paused else {
                continue;
            };
            if self.feed.knows(id) {
                resolved.push(partition);
            } else {
                self.feed.resolve(id);
            }
        }
        for partition in resolved {
            self.resume(partition);
        }
    }

    /// Stops fetching an open lane until [`Self::resume`].
    pub(super) fn pause(&mut self, partition: i32, why: Paused) {
        let lane = self.assignments.lane(partition);
        let Some(lane) = lane.filter(|lane| lane.paused.is_none()) else {
            return;
        };
        lane.paused = Some(why);
        self.assignments.pause(partition);
        self.assignments.health().hold(partition, why.cause());
    }

    fn resume(&mut self, partition: i32) {
        let Some(position) = self.assignments.lane(partition).map(|lane| lane.position) else {
            return;
        };
        match self.assignments.source().start(partition, position) {
            Ok(()) => {
                if let Some(lane) = self.assignments.lane(partition) {
                    lane.paused = None;
                }
                self.assignments.health().release(partition);
            }
            Err(error) => {
                warn!(log = F::LOG.as_str(), lane = partition, %error, "failed to resume the lane: reopening it");
                self.reopen(&[partition]);
            }
        }
    }
}
