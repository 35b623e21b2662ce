//! The simulated feed: stores each record in the simulated database, with the state of its lane.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::database::{Batch, Stored, fold};
use super::log::Entry;
use super::world::{Fate, Shared, World};
use crate::io::postgres::offsets::{Position, Step, verdict};
use crate::io::postgres::{DatabaseError, WriteError};
use crate::roles::watch::feed::{
    Claiming, Feed, Found, NeedsSchema, OpenFault, Opened, Stretch, Taken, claim,
};
use crate::telemetry::health::{HoldCause, Log};

const TOPIC: &str = "simulated";
/// How long a request that its client has given up may still take effect, in ms.
const LATE_MS: u64 = 3_000;

/// The feed of one worker's process.
pub struct SimulatedFeed {
    /// The world.
    pub world: Shared,
    /// Number of the member.
    pub member: usize,
}

/// State of a lane.
pub struct State {
    /// The first offset that was not taken.
    position: i64,
    fold: u64,
    epoch: i64,
}

impl SimulatedFeed {
    /// Makes a request to the database, with whatever becomes of it.
    async fn ask<R: Send + 'static>(
        &self,
        what: impl FnOnce(&mut World) -> R + Send + 'static,
    ) -> Result<R, DatabaseError> {
        let (fate, limit_ms) = self.world.lock().fate();
        let unreachable = || DatabaseError::Unreachable {
            database: "simulated",
            action: "ask",
            reason: format!("{fate:?}"),
            sqlstate: None,
        };
        self.world.wait(limit_ms).await;
        match fate {
            Fate::Failed => Err(unreachable()),
            Fate::Refused => Err(DatabaseError::Refused {
                database: "simulated",
                action: "ask",
                reason: "out of sorts".to_owned(),
                sqlstate: None,
            }),
            Fate::Late => {
                let world = self.world.clone();
                // The server goes on, also when the client's process has ended.
                tokio::spawn(async move {
                    world.wait(LATE_MS).await;
                    what(&mut world.lock());
                });
                Err(unreachable())
            }
            Fate::Done | Fate::Unconfirmed => {
                let done = what(&mut self.world.lock());
                self.world.wait(limit_ms).await;
                if fate == Fate::Done {
                    Ok(done)
                } else {
                    Err(unreachable())
                }
            }
        }
    }

    async fn offsets(&self, partition: i32) -> KafkaResult<Range<i64>> {
        let (fate, limit_ms) = self.world.lock().fate();
        let offsets = self.world.lock().log[partition as usize].offsets();
        self.world.wait(limit_ms).await;
        match fate {
            Fate::Failed => Err(KafkaError::MetadataFetch(
                RDKafkaErrorCode::BrokerTransportFailure,
            )),
            _ => Ok(offsets),
        }
    }

    /// A claim fences the partition's owner, so only its owner may begin one.
    fn check_assigned(&self, partition: i32) {
        let mut world = self.world.lock();
        let member = world.group.members.get(&self.member);
        if !member.is_some_and(|member| member.assigned.contains_key(&partition)) {
            world.violate(format!(
                "member {} claims lane {partition}, which it has given back",
                self.member
            ));
        }
    }

    async fn claim(&self, partition: i32) -> Result<(Position, Option<(i64, u64)>), OpenFault> {
        let member = self.member;
        let claimed = self.ask(move |world| {
            let claimed = world.sinks[partition as usize].claim();
            world.trace(|| format!("  member {member} claims lane {partition}: {claimed:?}"));
            claimed
        });
        claimed.await.map_err(fault)
    }
}

fn fault(error: DatabaseError) -> OpenFault {
    OpenFault {
        cause: HoldCause::Database,
        reason: error.to_string(),
    }
}

impl Feed for SimulatedFeed {
    type State = State;
    type Batch = Batch;

    const LOG: Log = Log::Clean;

    fn topic(&self) -> &str {
        TOPIC
    }

    async fn open(&self, partition: i32) -> Result<Opened<State>, OpenFault> {
        let what = Claiming {
            database: "simulated",
            topic: TOPIC,
            partition,
        };
        let claiming = async {
            let (position, snapshot) = self.claim(partition).await?;
            let (next, log_end) = (position.next, position.log_end);
            Ok((Found { next, log_end }, (position, snapshot)))
        };
        let note = |end| async move {
            let noted = self.ask(move |world| {
                if !world.log[partition as usize].truncated {
                    world.violate(format!(
                        "lane {partition} is held as truncated, and its log is complete"
                    ));
                }
                world.sinks[partition as usize].note_log_end(end);
            });
            noted.await.map_err(fault)
        };
        self.check_assigned(partition);
        let claimed = claim(what, claiming, self.offsets(partition), note).await;
        if matches!(&claimed, Err(fault) if fault.cause == HoldCause::Truncated) {
            self.world.lock().log[partition as usize].is_seen_truncated = true;
        }
        let ((claimed, snapshot), log) = claimed?;
        let (position, fold) = snapshot.unwrap_or((log.start, 0));
        let position = position.max(log.start);
        let mut world = self.world.lock();
        world.claims.insert((self.member, partition, claimed.epoch));
        Ok(Opened {
            state: State {
                position,
                fold,
                epoch: claimed.epoch,
            },
            epoch: claimed.epoch,
            stored: claimed.next,
            position,
        })
    }

    fn take(&self, state: &mut State, record: &Taken<'_>, batch: &mut Batch) -> Result<(), NeedsSchema> {
        let entry = Entry::parse(record.value);
        let mut world = self.world.lock();
        let skipped = world.log[record.partition as usize]
            .within(state.position..record.offset)
            .next();
        if let Some((offset, _)) = skipped {
            world.violate(format!(
                "lane {} takes offset {} before {offset}",
                record.partition, record.offset
            ));
        }
        if entry.schema != 0 && !world.schemas.contains(&entry.schema) {
            return Err(NeedsSchema(entry.schema));
        }
        state.position = record.offset + 1;
        state.fold = fold(state.fold, entry.id);
        batch.epoch = state.epoch;
        batch.rows.push(Stored {
            offset: record.offset,
            id: entry.id,
            state: state.fold,
        });
        Ok(())
    }

    fn rows(batch: &Batch) -> usize {
        batch.rows.len()
    }

    fn clear(batch: &mut Batch) {
        *batch = Batch::default();
    }

    fn seal(&self, state: &mut State, next: i64, batch: &mut Batch) {
        if self.world.lock().rng.u32(..3) == 0 {
            batch.snapshot = Some((next, state.fold));
        }
    }

    async fn write(&self, stretch: Stretch, batch: &Batch) -> Result<(), WriteError> {
        let Stretch {
            partition,
            epoch,
            expected,
            next,
        } = stretch;
        if !self.world.lock().writes.insert((partition, epoch)) {
            let mut world = self.world.lock();
            world.violate(format!("lane {partition} has two writes under way"));
        }
        let step = Step {
            topic: TOPIC,
            partition,
            epoch,
            expected,
            next,
        };
        let (batch, member) = (batch.clone(), self.member);
        let written = self.ask(move |world| {
            let sink = &mut world.sinks[partition as usize];
            let stepped = sink.write(&step, &batch, &world.log[partition as usize]);
            world.trace(|| format!("  member {member} writes {stretch:?}: {stepped:?}"));
            match stepped {
                Ok(stepped) => verdict("simulated", &step, stepped),
                Err(violation) => {
                    world.violate(format!("lane {partition}: {violation}"));
                    Ok(())
                }
            }
        });
        let written = written.await;
        self.world.lock().writes.remove(&(partition, epoch));
        written?
    }

    fn lighten(batch: &mut Batch) {
        batch.snapshot = None;
    }

    fn knows(&self, id: u32) -> bool {
        self.world.lock().schemas.contains(&id)
    }

    fn resolve(self: &Arc<Self>, id: u32) {
        if !self.world.lock().asked.insert(id) {
            return;
        }
        let world = self.world.clone();
        tokio::spawn(async move {
            world.wait(2_000).await;
            let mut world = world.lock();
            world.asked.remove(&id);
            if !world.faults || world.rng.bool() {
                world.schemas.insert(id);
            }
        });
    }

    fn release(&self, partition: i32, epoch: i64) {
        let mut world = self.world.lock();
        world.claims.remove(&(self.member, partition, epoch));
    }
}

/// The longest time for which the past can still reach a worker: slow requests, and those that take effect late.
pub const PAST: Duration = Duration::from_secs(12);
