//! A worker's lanes: each is opened on a thread of its own, held while a key, a schema or a broker is missing, and
//! rewound to its last commit when a transaction fails.

use std::time::Instant;

use tracing::{debug, warn};

use super::{ABORTS_REFUSED, RETRY_PAUSE, SCHEMA_PAUSE, Worker};
use crate::io::kafka::source::Source as _;
use crate::roles::assignments::Opening;
use crate::roles::gate::error::WorkerError;
use crate::roles::gate::filling::Cut;
use crate::roles::gate::lane::{Hold, Need, OpenLane};
use crate::roles::gate::opening::{self, OpenError, Opened};
use crate::roles::gate::services::Services;
use crate::telemetry::health::HoldCause;
use pulsegate_core::gate::lane::Lane;
use pulsegate_core::gate::pipeline::Missing;

impl<S: Services> Worker<S> {
    /// Takes over the lanes that have been opened, and starts to open closed ones.
    pub(super) fn open_lanes(&mut self) -> Result<(), WorkerError> {
        while let Ok(opened) = self.openings.1.try_recv() {
            self.opened(opened)?;
        }
        if self.settler.is_some() {
            self.begin_openings();
        }
        Ok(())
    }

    fn opened(&mut self, opened: Opened) -> Result<(), WorkerError> {
        let Opened {
            partition,
            opening,
            result,
        } = opened;
        let is_it = |awaited: &Opening| *awaited == opening || planted!(StaleOpeningTaken);
        // Revoked meanwhile, or revoked and reassigned: another opening is or will be under way.
        if !self.assignments.awaited(partition).is_some_and(is_it) {
            return Ok(());
        }
        match result {
            Ok(lane) => {
                self.assignments
                    .open(partition, opening, OpenLane { lane, hold: None });
                self.start(partition);
            }
            Err(refused) if refused.is_final() => return Err(WorkerError::Refused(refused)),
            Err(error) => self.retry(partition, &error),
        }
        Ok(())
    }

    fn retry(&mut self, partition: i32, error: &OpenError) {
        opening::report(error);
        if let Some(cause) = error.cause() {
            self.assignments.health().hold(partition, cause);
        }
        let retry_at = self.retry_at();
        self.assignments.close(partition, retry_at);
    }

    fn begin_openings(&mut self) {
        for (partition, opening) in self.assignments.begin_openings(self.gate.services.now()) {
            let outbox = self.openings.0.clone();
            if let Err(error) = S::begin_opening(&self.gate, partition, opening, outbox) {
                warn!(lane = partition, %error, "failed to start a thread to open the lane: retrying");
                let retry_at = self.retry_at();
                self.assignments.close(partition, retry_at);
            }
        }
    }

    fn retry_at(&self) -> Instant {
        self.gate.services.now() + RETRY_PAUSE
    }

    /// Starts to fetch from an open lane's position.
    fn start(&mut self, partition: i32) {
        // As the seek discards what librdkafka has fetched.
        if !planted!(SeekKeepsBuffered) {
            self.filling.forget(partition);
        }
        let Some(OpenLane { lane, .. }) = self.assignments.lane(partition) else {
            return;
        };
        let (position, is_dirty, is_refused) = (lane.position(), lane.is_dirty(), is_refused(lane));
        if let Err(error) = self.assignments.source().start(partition, position) {
            warn!(lane = partition, %error, "failed to seek to the lane's position: retrying");
            self.assignments.health().hold(partition, HoldCause::Kafka);
            let retry_at = self.retry_at();
            if planted!(FailedSeekClosesLane) {
                self.assignments.close(partition, retry_at);
                return;
            }
            // Not closed: what it has accounted for may be in the open batch.
            let need = Need::Log;
            self.set_hold(partition, Some(Hold { need, retry_at }));
            return;
        }
        if is_refused {
            // It retries, and is reported as held until a transaction has committed.
            self.assignments.health().hold(partition, HoldCause::Kafka);
        } else {
            self.assignments.health().release(partition);
        }
        if is_dirty && !planted!(NoticeAwaitsRecord) {
            // A notice is written even when no record follows it.
            self.filling.begin(&self.gate);
        }
        self.set_hold(partition, None);
    }

    fn set_hold(&mut self, partition: i32, hold: Option<Hold>) {
        if let Some(open) = self.assignments.lane(partition) {
            open.hold = hold;
        }
    }

    /// Resumes held lanes whose pause is over and whose schema, if they wait for one, is resolved.
    pub(super) fn release_holds(&mut self) {
        let now = self.gate.services.now();
        for partition in 0..self.assignments.partitions() {
            let open = self.assignments.lane(partition);
            let Some(hold) = open.and_then(|open| open.hold.as_mut()) else {
                continue;
            };
            if hold.retry_at > now {
                continue;
            }
            if let Need::Piece(Missing::Schema(id)) = hold.need
                && !self.gate.services.knows_schema(id)
            {
                hold.retry_at = now + SCHEMA_PAUSE;
                S::resolve_schemas(&self.gate, vec![id]);
                continue;
            }
            self.start(partition);
        }
    }

    /// Stops reading a lane until what it needs is available.
    pub(super) fn hold(&mut self, Cut { partition, need }: Cut) -> Result<(), WorkerError> {
        if matches!(need, Need::Log) {
            if planted!(FetchErrorIgnored) {
                return Ok(());
            }
            return self.find_out_what_is_left();
        }
        let lane = self.assignments.lane(partition);
        let Some(open) = lane.filter(|open| open.hold.is_none()) else {
            return Ok(());
        };
        let (cause, offset) = (need.cause().as_str(), open.lane.position());
        match need {
            // The registry usually answers at once, and a failed request is logged where it is made.
            Need::Piece(Missing::Schema(_)) => debug!(
                lane = partition,
                cause, offset, "lane held until its schema is resolved"
            ),
            Need::Piece(Missing::SubjectKeys) | Need::Log | Need::Output => {
                warn!(
                    lane = partition,
                    cause, offset, "lane held: retrying until its cause is gone"
                );
            }
        }
        self.wait(partition, need);
        Ok(())
    }

    fn wait(&mut self, partition: i32, need: Need) {
        self.assignments.pause(partition);
        self.assignments.health().hold(partition, need.cause());
        let pause = match need {
            Need::Piece(Missing::SubjectKeys) | Need::Log | Need::Output => RETRY_PAUSE,
            Need::Piece(Missing::Schema(_)) => SCHEMA_PAUSE,
        };
        let retry_at = self.gate.services.now() + pause;
        self.set_hold(partition, Some(Hold { need, retry_at }));
    }

    /// Notes that the transaction with the lane's records is committed.
    pub(super) fn commit(&mut self, partition: i32) {
        let Some(OpenLane { lane, hold }) = self.assignments.lane(partition) else {
            return;
        };
        let is_released = is_refused(lane) && hold.is_none();
        lane.commit();
        if is_released {
            self.assignments.health().release(partition);
        }
    }

    /// Rewinds every lane to its last commit.
    pub(super) fn rewind(&mut self) {
        if !planted!(RewindKeepsBatch) {
            self.filling.clear();
        }
        for partition in 0..self.assignments.partitions() {
            self.rewind_lane(partition);
        }
    }

    fn rewind_lane(&mut self, partition: i32) {
        let Some(OpenLane { lane, hold }) = self.assignments.lane(partition) else {
            return;
        };
        if hold.is_some() {
            if !planted!(HeldLaneNotRewound) {
                lane.abort();
            }
            return;
        }
        lane.abort();
        if is_refused(lane) {
            self.wait(partition, Need::Output);
        } else {
            self.start(partition);
        }
    }

    /// Drops the producer and closes all lanes: what was committed is unknown, and opening the lanes again, with a new
    /// producer, finds out.
    pub(super) fn reopen(&mut self) {
        if !planted!(UnknownKeepsProducer) {
            self.settler = None;
        }
        self.filling.clear();
        self.close_lanes();
    }

    /// Reopens all lanes after a gap in a log: opening finds out what is left, and notes in the ledger what is lost.
    pub(super) fn find_out_what_is_left(&mut self) -> Result<(), WorkerError> {
        self.finish()?;
        // What could not be committed is consumed again.
        if !planted!(GapKeepsBatch) {
            self.filling.clear();
        }
        self.close_lanes();
        Ok(self.assignments.reassign()?)
    }

    /// Closes all open lanes; `open_lanes` opens them again.
    fn close_lanes(&mut self) {
        for partition in 0..self.assignments.partitions() {
            if self.assignments.lane(partition).is_none() {
                continue;
            }
            self.assignments.pause(partition);
            self.assignments.close(partition, self.gate.services.now());
            self.assignments.health().hold(partition, HoldCause::Kafka);
        }
    }
}

/// Whether Kafka keeps refusing what the lane produces, possibly until an operator fixes the cause.
fn is_refused(lane: &Lane) -> bool {
    lane.aborts() >= ABORTS_REFUSED
}
