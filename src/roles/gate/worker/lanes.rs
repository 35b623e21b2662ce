//! How lanes come, wait and go back: opened on a thread of their own, held while something of ours is missing, and put where
//! the last commit left them when a transaction fails.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

use tracing::{debug, warn};

use super::{ABORTS_REFUSED, RETRY_PAUSE, SCHEMA_PAUSE, Worker, WorkerError};
use crate::roles::gate::filling::Cut;
use crate::roles::gate::opening;
use crate::roles::gate::slot::{Need, Slot};
use crate::telemetry::health::HoldCause;
use pulsegate_core::gate::lane::Lane;

impl Worker {
    /// Starts to open closed lanes, and takes those that are open.
    pub(super) fn open_lanes(&mut self) -> Result<(), WorkerError> {
        while let Ok((partition, cancelled, opened)) = self.openings.1.try_recv() {
            // Revoked meanwhile, or revoked and assigned again: another opening is or will be under way.
            if !matches!(self.slot(partition), Slot::Opening(current) if Arc::ptr_eq(current, &cancelled)) {
                continue;
            }
            *self.slot(partition) = match opened {
                Ok(lane) => self.start(partition, Box::new(lane)),
                Err(refused) if refused.is_final() => return Err(WorkerError::Refused(refused)),
                Err(error) => {
                    opening::report(&error);
                    if let Some(cause) = error.cause() {
                        self.health.hold(partition, cause);
                    }
                    Slot::Closed(Instant::now() + RETRY_PAUSE)
                }
            };
        }
        if self.settler.is_none() {
            return Ok(());
        }
        let now = Instant::now();
        for partition in 0..self.slots.len() as i32 {
            if matches!(self.slot(partition), Slot::Closed(at) if *at <= now) {
                *self.slot(partition) = self.begin_opening(partition);
            }
        }
        Ok(())
    }

    fn begin_opening(&self, partition: i32) -> Slot {
        let cancelled = Arc::new(AtomicBool::new(false));
        let (gate, flag, outbox) = (
            Arc::clone(&self.gate),
            Arc::clone(&cancelled),
            self.openings.0.clone(),
        );
        let spawned = thread::Builder::new()
            .name(format!("open-{partition}"))
            .spawn(move || {
                let opened = opening::open(gate, partition, Arc::clone(&flag));
                // A worker that has ended does not listen.
                let _ = outbox.send((partition, flag, opened));
            });
        match spawned {
            Ok(_) => Slot::Opening(cancelled),
            Err(error) => {
                warn!(%error, "no thread to open a lane on");
                Slot::Closed(Instant::now() + RETRY_PAUSE)
            }
        }
    }

    /// Fetches from the lane's position on.
    fn start(&mut self, partition: i32, lane: Box<Lane>) -> Slot {
        // As a seek forgets what librdkafka has fetched.
        self.filling.forget(partition);
        match self.consumer.start(partition, lane.position()) {
            Ok(()) => {
                if is_refused(&lane) {
                    // It tries again, and is not well before that has led to something.
                    self.health.hold(partition, HoldCause::Kafka);
                } else {
                    self.health.release(partition);
                }
                if lane.is_dirty() {
                    // A notice is written even when no record follows it.
                    self.filling.begin();
                }
                Slot::Open(lane)
            }
            Err(error) => {
                warn!(lane = partition, %error, "cannot seek yet");
                self.health.hold(partition, HoldCause::Kafka);
                // Not closed: what it has accounted for may be in the open batch.
                Slot::Held {
                    lane,
                    need: Need::Log,
                    retry_at: Instant::now() + RETRY_PAUSE,
                }
            }
        }
    }

    /// Looks whether held lanes may go on.
    pub(super) fn release_holds(&mut self) {
        let now = Instant::now();
        for partition in 0..self.slots.len() as i32 {
            let Slot::Held { need, retry_at, .. } = &mut self.slots[partition as usize] else {
                continue;
            };
            if *retry_at > now {
                continue;
            }
            if let Need::Schema(id) = *need
                && !self.gate.knows_schema(id)
            {
                *retry_at = now + SCHEMA_PAUSE;
                self.gate.resolve_schemas([id]);
                continue;
            }
            if let Slot::Held { lane, .. } = std::mem::replace(self.slot(partition), Slot::Absent) {
                *self.slot(partition) = self.start(partition, lane);
            }
        }
    }

    /// Stops reading a lane until it has what it needs.
    pub(super) fn hold(&mut self, Cut { partition, need }: Cut) -> Result<(), WorkerError> {
        if matches!(need, Need::Log) {
            return self.find_out_what_is_left();
        }
        let slot = std::mem::replace(self.slot(partition), Slot::Absent);
        let Slot::Open(lane) = slot else {
            *self.slot(partition) = slot;
            return Ok(());
        };
        let (cause, offset) = (need.cause().as_str(), lane.position());
        match need {
            // The registry mostly answers at once, and whoever asked it says when it does not.
            Need::Schema(_) => debug!(lane = partition, cause, offset, "lane held"),
            Need::SubjectKeys | Need::Log | Need::Output => {
                warn!(lane = partition, cause, offset, "lane held");
            }
        }
        *self.slot(partition) = self.wait(partition, lane, need);
        Ok(())
    }

    fn wait(&self, partition: i32, lane: Box<Lane>, need: Need) -> Slot {
        if let Err(error) = self.consumer.pause(partition) {
            warn!(lane = partition, %error, "cannot pause");
        }
        self.health.hold(partition, need.cause());
        let pause = match need {
            Need::SubjectKeys | Need::Log | Need::Output => RETRY_PAUSE,
            Need::Schema(_) => SCHEMA_PAUSE,
        };
        Slot::Held {
            lane,
            need,
            retry_at: Instant::now() + pause,
        }
    }

    /// The transaction that the lane had a part in is committed.
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

    /// Goes back to the last commit in every lane.
    pub(super) fn rewind(&mut self) {
        self.filling.clear();
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
                    lane.abort();
                    Slot::Held { lane, need, retry_at }
                }
                other => other,
            };
        }
    }

    /// Nobody knows what was committed: everything is found out again, with a new producer.
    pub(super) fn reopen(&mut self) {
        self.settler = None;
        self.filling.clear();
        self.close_lanes();
    }

    /// A log has a gap where a lane wants to read on: opening finds out what is left, and has the ledger say what is lost.
    pub(super) fn find_out_what_is_left(&mut self) -> Result<(), WorkerError> {
        self.finish()?;
        let ours = |slot: &Slot| !matches!(slot, Slot::Absent);
        let lanes: Vec<_> = (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| ours(slot))
            .map(|(lane, _)| lane)
            .collect();
        // What could not be committed is consumed again.
        self.filling.clear();
        self.close_lanes();
        // librdkafka has given up the partition, and refuses a seek in it until it is assigned anew. The group does not
        // hear of this.
        self.consumer.unassign(&lanes)?;
        self.consumer.assign(&lanes)?;
        Ok(())
    }

    /// They open again by themselves.
    fn close_lanes(&mut self) {
        for partition in 0..self.slots.len() as i32 {
            if self.slot(partition).lane().is_none() {
                continue;
            }
            if let Err(error) = self.consumer.pause(partition) {
                warn!(lane = partition, %error, "cannot pause");
            }
            self.slot(partition).close();
            self.health.hold(partition, HoldCause::Kafka);
        }
    }
}

/// Kafka does not take what the lane produces, and may not for as long as nobody mends it.
fn is_refused(lane: &Lane) -> bool {
    lane.aborts() >= ABORTS_REFUSED
}
