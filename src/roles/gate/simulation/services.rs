//! The simulated services: producer, openings, vault, registry and clock.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::consumer::{SimConsumer, SimRecord, SimRecords};
use super::fixture::{SCHEMAS, Tenants, fixture};
use super::group::Token;
use super::log::Answer;
use super::world::Shared;
use crate::io::kafka::settle::{Job, SettleError, Settled, Timings};
use crate::io::registry::RegistryFault;
use crate::roles::assignments::Opening;
use crate::roles::gate::knowledge::Knowledge;
use crate::roles::gate::opening::{LaneLog, OpenError, Opened, Opener};
use crate::roles::gate::services::{Services, Settle};
use crate::roles::gate::shared::Gate;
use pulsegate_core::crypto::keys::SubjectKey;
use pulsegate_core::event::{Ids, Verdict};
use pulsegate_core::gate::lane::Lane;
use pulsegate_core::gate::seal::SealedBatch;
use pulsegate_ledger::entry::Head;

/// Upper bound on the time of one settlement.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(400);
/// Time that passes between two looks at a settlement.
const LOOK: Duration = Duration::from_millis(5);
/// How often a pending offset is asked for before the request fails.
const ASKED_MAX: usize = 20;

/// The services of one process.
pub struct Sim {
    pub world: Shared,
    /// Number of the process, which its transactional id is made of.
    process: usize,
    /// Number of this start of the process in the group.
    member: usize,
    openings: Mutex<Vec<UnderWay>>,
}

/// An opening under way.
struct UnderWay {
    partition: i32,
    opening: Opening,
    outbox: Sender<Opened>,
    result: Option<Result<Lane, OpenError>>,
}

impl Sim {
    pub fn new(world: &Shared, process: usize, member: usize) -> Self {
        Self {
            world: world.clone(),
            process,
            member,
            openings: Mutex::default(),
        }
    }

    /// Takes the opening at a random place a step further: it runs, and later its result arrives.
    pub fn further_an_opening(gate: &Gate<Self>) {
        let sim = &gate.services;
        let mut openings = std::mem::take(&mut *sim.openings.lock().unwrap_or_else(PoisonError::into_inner));
        if openings.is_empty() {
            return;
        }
        let at = sim.world.lock().random.usize(0..openings.len());
        let mut under_way = openings.swap_remove(at);
        if let Some(result) = under_way.result.take() {
            // Sending fails only when the worker has ended.
            let _ = under_way.outbox.send(Opened {
                partition: under_way.partition,
                opening: under_way.opening,
                result,
            });
        } else {
            let log = SimLog {
                world: sim.world.clone(),
                partition: under_way.partition,
            };
            let run = Opener::new(gate, under_way.partition, &under_way.opening, log).run();
            under_way.result = Some(run);
            openings.push(under_way);
        }
        sim.openings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(openings);
    }
}

impl Services for Sim {
    type Consumer = SimConsumer;
    type Group = Token;
    type Settler = SimSettler;
    type Keys = Tenants;

    fn now(&self) -> Instant {
        fixture().began + self.world.lock().now
    }

    fn rest(&self, pause: Duration) {
        self.world.lock().pass(pause);
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), getrandom::Error> {
        bytes.fill(7);
        Ok(())
    }

    fn transactional_id(&self, worker: usize) -> String {
        format!("gate-{}-{worker}", self.process)
    }

    fn subscribe(&self, _: usize, _: &str) -> KafkaResult<SimConsumer> {
        Ok(SimConsumer::new(&self.world, self.member))
    }

    fn group(&self, _: &SimConsumer) -> Option<Token> {
        let mut world = self.world.lock();
        let unknown = world.fails(40);
        world.group.token(self.member).filter(|_| !unknown)
    }

    fn start_settler(&self, worker: usize) -> Result<SimSettler, KafkaError> {
        let mut world = self.world.lock();
        if world.fails(100) {
            return Err(failed());
        }
        let producer = self.transactional_id(worker);
        Ok(SimSettler {
            epoch: world.log.start_producer(&producer),
            producer,
            world: self.world.clone(),
            job: None,
        })
    }

    fn begin_opening(
        gate: &Arc<Gate<Self>>,
        partition: i32,
        opening: Opening,
        outbox: Sender<Opened>,
    ) -> io::Result<()> {
        if gate.services.world.lock().fails(20) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let under_way = UnderWay {
            partition,
            opening,
            outbox,
            result: None,
        };
        let mut openings = gate
            .services
            .openings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        openings.push(under_way);
        Ok(())
    }

    fn knowledge(&self) -> Knowledge<Tenants> {
        let known = self.world.lock().schemas;
        let known = SCHEMAS.iter().zip(known).filter(|(_, known)| *known);
        let ids = known.fold(Ids::default(), |ids, (&id, _)| ids.with(id, Verdict::Denied));
        Knowledge {
            keyring: Arc::clone(&fixture().keyring),
            revision: 1,
            tenants: Arc::clone(&fixture().tenants),
            ids: Some(Arc::new(ids)),
        }
    }

    fn subject_key(&self, _: u16, subject: &[u8]) -> Option<Arc<SubjectKey>> {
        let (number, key) = fixture().subjects.get(subject)?;
        self.world.lock().subjects[*number].then(|| Arc::clone(key))
    }

    fn subject_keys(&self) -> usize {
        0
    }

    fn fetch_subject_keys(gate: &Gate<Self>, subjects: &[(u16, &[u8])]) {
        let mut world = gate.services.world.lock();
        for (_, subject) in subjects {
            if let Some((number, _)) = fixture().subjects.get(*subject)
                && world.vault_is_up
            {
                world.subjects[*number] = true;
            }
        }
    }

    fn knows_schema(&self, id: u32) -> bool {
        let known = self.world.lock().schemas;
        SCHEMAS
            .iter()
            .zip(known)
            .any(|(&schema, known)| schema == id && known)
    }

    fn resolve_schemas(gate: &Arc<Gate<Self>>, ids: Vec<u32>) {
        for id in ids {
            // It answers later, or fails.
            if gate.services.world.lock().random.bool() {
                let _ = Self::ask_about_schema(gate, id);
            }
        }
    }

    fn ask_about_schema(gate: &Gate<Self>, id: u32) -> Result<Verdict, RegistryFault> {
        let mut world = gate.services.world.lock();
        if !world.registry_is_up {
            return Err(RegistryFault::Unreachable("simulated".to_owned()));
        }
        for (schema, known) in SCHEMAS.into_iter().zip(&mut world.schemas) {
            *known |= schema == id;
        }
        Ok(Verdict::Denied)
    }
}

fn failed() -> KafkaError {
    KafkaError::Global(RDKafkaErrorCode::OperationTimedOut)
}

/// A producer's client.
pub struct SimSettler {
    world: Shared,
    producer: String,
    epoch: u64,
    job: Option<(usize, SealedBatch, Duration)>,
}

impl Settle<Token> for SimSettler {
    fn is_busy(&self) -> bool {
        self.job.is_some()
    }

    fn begin(&mut self, job: Job<Token>) {
        let mut world = self.world.lock();
        let now = world.now;
        let id = world.log.begin(&self.producer, self.epoch, &job, now);
        if world.log.is_fenced(id) {
            world.log.abort(id, Answer::Fenced);
        }
        self.job = Some((id, job.batch, now + SETTLE_TIMEOUT));
    }

    fn wait(&mut self, patience: Duration) -> Option<Result<Settled, SettleError>> {
        let (id, _, deadline) = self.job.as_ref()?;
        let mut world = self.world.lock();
        let until = world.now + patience;
        let answer = loop {
            world.pass(LOOK.min(patience));
            match world.log.transactions[*id].answer {
                Some(answer) if answer != Answer::Hangs => break answer,
                _ if world.now >= *deadline => break Answer::Hangs,
                _ if world.now >= until => return None,
                _ => {}
            }
        };
        let (_, batch, _) = self.job.take()?;
        let result = match answer {
            Answer::Hangs => return Some(Err(SettleError::Hung)),
            Answer::Committed => Ok(Timings {
                produce: LOOK,
                deliver: LOOK,
                commit: LOOK,
            }),
            Answer::Aborted => Err(SettleError::Aborted(failed())),
            Answer::Fenced => Err(SettleError::Fenced(failed())),
            Answer::Unknown => Err(SettleError::Unknown(failed())),
        };
        Some(Ok(Settled { batch, result }))
    }
}

/// One lane of the log in memory.
struct SimLog {
    world: Shared,
    partition: i32,
}

impl SimLog {
    fn ask(&self) -> Result<(), OpenError> {
        let mut world = self.world.lock();
        world.pass(LOOK);
        if world.fails(10) {
            return Err(self.failed());
        }
        Ok(())
    }

    fn failed(&self) -> OpenError {
        OpenError::Kafka {
            partition: self.partition,
            error: failed(),
        }
    }
}

impl LaneLog for SimLog {
    type Records = SimRecords;

    fn committed(&self) -> Result<Option<i64>, OpenError> {
        for _ in 0..ASKED_MAX {
            self.ask()?;
            let world = self.world.lock();
            if !world.log.is_pending(self.partition) {
                return Ok(world.log.partition(self.partition).committed);
            }
        }
        Err(self.failed())
    }

    fn head(&self) -> Result<Option<Head>, OpenError> {
        self.ask()?;
        let world = self.world.lock();
        let head = world.log.last_ledger(self.partition).map(Head::after);
        head.transpose().map_err(|error| OpenError::Ledger {
            partition: self.partition,
            error,
        })
    }

    fn watermarks(&self) -> Result<(i64, i64), OpenError> {
        self.ask()?;
        let world = self.world.lock();
        let log = world.log.partition(self.partition);
        Ok((log.low, log.high))
    }

    fn timestamp(&self, offset: i64) -> Result<Option<(i64, bool)>, OpenError> {
        self.ask()?;
        let world = self.world.lock();
        let raw = world.log.partition(self.partition).records(offset).first();
        Ok(raw.map(|raw| (raw.appended_ms, true)))
    }

    fn offset_at(&self, time_ms: i64) -> Result<Option<i64>, OpenError> {
        self.ask()?;
        let world = self.world.lock();
        let mut raw = world.log.partition(self.partition).records(0).iter();
        let found = raw.find(|raw| raw.appended_ms >= time_ms);
        Ok(found.map(|raw| raw.offset))
    }

    fn read(
        &self,
        offset: i64,
        mut visit: impl FnMut(&SimRecords) -> Result<bool, OpenError>,
    ) -> Result<(), OpenError> {
        self.ask()?;
        let raw = self
            .world
            .lock()
            .log
            .partition(self.partition)
            .records(offset)
            .to_vec();
        let records = raw.into_iter().map(|raw| SimRecord::Raw(self.partition, raw));
        let ended = visit(&SimRecords(records.collect()))?
            || visit(&SimRecords(vec![SimRecord::End(self.partition)]))?;
        assert!(ended, "a rescan ends with the log");
        Ok(())
    }
}
