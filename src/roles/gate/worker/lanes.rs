//! A worker's lanes: each is opened on a thread of its own, held while a key, a schema or a broker is missing, and
//! rewound to its last commit when a transaction fails.

use tracing::{debug, warn};

use super::{ABORTS_REFUSED, RETRY_PAUSE, SCHEMA_PAUSE, Worker};
use crate::io::kafka::source::Source as _;
use crate::roles::gate::error::WorkerError;
use crate::roles::gate::filling::Cut;
use crate::roles::gate::opening::{self, Opened};
use crate::roles::gate::services::Services;
use crate::roles::gate::slot::{Need, Slot, Ticket};
use crate::telemetry::health::HoldCause;
use pulsegate_core::gate::lane::Lane;
use pulsegate_core::gate::pipeline::Missing;

impl<S: Services> Worker<S> {
    /// Takes over the lanes that have been opened, and starts to open closed ones.
    pub(super) fn open_lanes(&mut self) -> Result<(), WorkerError> {
        while let Ok(Opened {
            partition,
            ticket,
            result,
        }) = self.openings.1.try_recv()
        {
            // Revoked meanwhile, or revoked and reassigned: another opening is or will be under way.
            if !self.slot(partition).awaits(&ticket) {
                continue;
            }
            *self.slot(partition) = match result {
                Ok(lane) => self.start(partition, Box::new(lane)),
                Err(refused) if refused.is_final() => return Err(WorkerError::Refused(refused)),
                Err(error) => {
                    opening::report(&error);
                    if let Some(cause) = error.cause() {
                        self.health.hold(partition, cause);
                    }
                    Slot::Closed(self.gate.services.now() + RETRY_PAUSE)
                }
            };
        }
        if self.settler.is_none() {
            return Ok(());
        }
        let now = self.gate.services.now();
        for partition in 0..self.slots.len() as i32 {
            if matches!(self.slot(partition), Slot::Closed(at) if *at <= now) {
                *self.slot(partition) = self.begin_opening(partition);
            }
        }
        Ok(())
    }

    fn begin_opening(&mut self, partition: i32) -> Slot {
        self.openings_begun += 1;
        let ticket = Ticket::new(self.openings_begun);
        match S::begin_opening(&self.gate, partition, ticket.clone(), self.openings.0.clone()) {
            Ok(()) => Slot::Opening(ticket),
            Err(error) => {
                warn!(lane = partition, %error, "failed to start a thread to open the lane: retrying");
                Slot::Closed(self.gate.services.now() + RETRY_PAUSE)
            }
        }
    }

    /// Starts to fetch from the lane's position.
    fn start(&mut self, partition: i32, lane: Box<Lane>) -> Slot {
        // As the seek discards what librdkafka has fetched.
        if !planted!(SeekKeepsBuffered) {
            self.filling.forget(partition);
        }
        match self.consumer.start(partition, lane.position()) {
            Ok(()) => {
                if is_refused(&lane) {
                    // It retries, and is reported as held until a transaction has committed.
                    self.health.hold(partition, HoldCause::Kafka);
                } else {
                    self.health.release(partition);
                }
                if lane.is_dirty() && !planted!(NoticeAwaitsRecord) {
                    // A notice is written even when no record follows it.
                    self.filling.begin(&self.gate);
                }
                Slot::Open(lane)
            }
            Err(error) => {
                warn!(lane = partition, %error, "failed to seek to the lane's position: retrying");
                self.health.hold(partition, HoldCause::Kafka);
                if planted!(FailedSeekClosesLane) {
                    return Slot::Closed(self.gate.services.now() + RETRY_PAUSE);
                }
                // Not closed: what it has accounted for may be in the open batch.
                Slot::Held {
                    lane,
                    need: Need::Log,
                    retry_at: self.gate.services.now() + RETRY_PAUSE,
                }
            }
        }
    }

    /// Resumes held lanes whose pause is over and whose schema, if they wait for one, is resolved.
    pub(super) fn release_holds(&mut self) {
        let now = self.gate.services.now();
        for partition in 0..self.slots.len() as i32 {
            let Slot::Held { need, retry_at, .. } = &mut self.slots[partition as usize] else {
                continue;
            };
            if *retry_at > now {
                continue;
            }
            if let Need::Piece(Missing::Schema(id)) = *need
                && !self.gate.services.knows_schema(id)
            {
                *retry_at = now + SCHEMA_PAUSE;
                S::resolve_schemas(&self.gate, vec![id]);
                continue;
            }
            if let Slot::Held { lane, .. } = std::mem::replace(self.slot(partition), Slot::Absent) {
                *self.slot(partition) = self.start(partition, lane);
            }
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
        let slot = std::mem::replace(self.slot(partition), Slot::Absent);
        let Slot::Open(lane) = slot else {
            *self.slot(partition) = slot;
            return Ok(());
        };
        let (cause, offset) = (need.cause().as_str(), lane.position());
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
        *self.slot(partition) = self.wait(partition, lane, need);
        Ok(())
    }

    fn wait(&self, partition: i32, lane: Box<Lane>, need: Need) -> Slot {
        if let Err(error) = self.consumer.pause(partition) {
            warn!(lane = partition, %error, "failed to pause fetching: records are discarded and read again later");
        }
        self.health.hold(partition, need.cause());
        let pause = match need {
            Need::Piece(Missing::SubjectKeys) | Need::Log | Need::Output => RETRY_PAUSE,
            Need::Piece(Missing::Schema(_)) => SCHEMA_PAUSE,
        };
        Slot::Held {
            lane,
            need,
            retry_at: self.gate.services.now() + pause,
        }
    }

    /// Notes that the transaction with the lane's records is committed.
    pub(super) fn commit(&mut self, partition: i32) {
        let slot = self.slot(partition);
        let is_open = matches!(slot, Slot::Open(_));
        let Some(lane) = slot.lane() else { return };
        let was_refused = is_refused(lane);
        lane.commit();
        if was_refused && is_open {
            self.health.release(partition);
        }
    }

    /// Rewinds every lane to its last commit.
    pub(super) fn rewind(&mut self) {
        if !planted!(RewindKeepsBatch) {
            self.filling.clear();
        }
        for partition in 0..self.slots.len() as i32 {
            let slot = std::mem::replace(self.slot(partition), Slot::Absent);
            *self.slot(partition) = match slot {
                Slot::Open(mut lane) => {
                    lane.abort();
                    if is_refused(&lane) {
                        self.wait(partition, lane, Need::Output)
                    } else {
                        self.start(partition, lane)
                    }
                }
                Slot::Held {
                    mut lane,
                    need,
                    retry_at,
                } => {
                    if !planted!(HeldLaneNotRewound) {
                        lane.abort();
                    }
                    Slot::Held { lane, need, retry_at }
                }
                other => other,
            };
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
        let ours = |slot: &Slot| !matches!(slot, Slot::Absent);
        let lanes: Vec<_> = (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| ours(slot))
            .map(|(lane, _)| lane)
            .collect();
        // What could not be committed is consumed again.
        if !planted!(GapKeepsBatch) {
            self.filling.clear();
        }
        self.close_lanes();
        // librdkafka has stopped fetching the partition, and refuses to seek in it until it is reassigned. This is
        // local: the group does not notice.
        self.consumer.unassign(&lanes)?;
        self.consumer.assign(&lanes)?;
        Ok(())
    }

    /// Closes all open lanes; `open_lanes` opens them again.
    fn close_lanes(&mut self) {
        for partition in 0..self.slots.len() as i32 {
            if self.slot(partition).lane().is_none() {
                continue;
            }
            if let Err(error) = self.consumer.pause(partition) {
                warn!(lane = partition, %error, "failed to pause fetching: records are discarded and read again later");
            }
            let now = self.gate.services.now();
            self.slot(partition).close(now);
            self.health.hold(partition, HoldCause::Kafka);
        }
    }
}

/// Whether Kafka keeps refusing what the lane produces, possibly until an operator fixes the cause.
fn is_refused(lane: &Lane) -> bool {
    lane.aborts() >= ABORTS_REFUSED
}
