//! One run: a random script for one or two processes, then a time without faults in which everything must settle.

use std::sync::Arc;
use std::time::Duration;

use super::bug::{self, Bug};
use super::fixture::{PARTITIONS, fixture};
use super::services::Sim;
use super::world::{Shared, World};
use crate::roles::gate::Gate;
use crate::roles::gate::worker::{Worker, WorkerError};
use crate::telemetry::health::Health;

/// Steps of a script.
const STEPS: usize = 140;
/// Rounds in which everything must settle once faults have stopped.
const ROUNDS_MAX: usize = 1_500;
/// A round of the loop that neither waits nor fails.
const ROUND: Duration = Duration::from_millis(1);

/// A process with one worker, which is started again when it has ended.
struct Process {
    gate: Arc<Gate<Sim>>,
    worker: Worker<Sim>,
    member: usize,
}

/// A run.
struct Run {
    world: Shared,
    random: fastrand::Rng,
    config: crate::config::Config,
    processes: Vec<Process>,
    members: usize,
    /// Retention and replays exclude each other: a replay of a record that is gone cannot be recognised.
    replays: bool,
}

/// What a run came to.
#[derive(Debug)]
pub struct Came {
    pub commits: usize,
}

/// Plays a seed.
///
/// # Errors
///
/// The first violation of an invariant.
pub fn run(seed: u64, planted: Option<Bug>) -> Result<Came, String> {
    bug::plant(planted);
    let mut run = Run::new(seed)?;
    for _ in 0..STEPS {
        run.act()?;
        run.check()?;
    }
    run.settle()?;
    let commits = run.world.lock().model.commits();
    Ok(Came { commits })
}

impl Run {
    fn new(seed: u64) -> Result<Self, String> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut config = fixture().config.clone();
        config.gate.batch.records_max = random.usize(1..8);
        config.gate.batch.bytes_max = random.usize(200..2_500);
        // Often so long that a batch stays open while its lanes are held, revoked and reassigned.
        config.gate.batch.time_max_ms = if random.bool() { random.u64(1..60) } else { 900 };
        let mut run = Self {
            world: Shared::new(random.u64(..)),
            processes: Vec::new(),
            config,
            members: 0,
            replays: random.bool(),
            random,
        };
        for process in 0..run.random.usize(1..3) {
            let started = run.start(process)?;
            run.processes.push(started);
        }
        Ok(run)
    }

    fn start(&mut self, process: usize) -> Result<Process, String> {
        let member = self.members;
        self.members += 1;
        let shared = fixture();
        let gate = Arc::new(Gate::new(
            &self.config,
            PARTITIONS,
            (Arc::clone(&shared.catalog), "rev".to_owned()),
            (Health::new(1), Arc::clone(&shared.metrics)),
            Sim::new(&self.world, process, member),
        ));
        let worker = Worker::new(Arc::clone(&gate), 0).map_err(|error| error.to_string())?;
        Ok(Process { gate, worker, member })
    }

    /// Replaces a process that has ended, however it has ended.
    fn replace(&mut self, at: usize) -> Result<(), String> {
        let started = self.start(at)?;
        let ended = std::mem::replace(&mut self.processes[at], started);
        drop(ended);
        Ok(())
    }

    fn act(&mut self) -> Result<(), String> {
        match self.random.u32(0..1_000) {
            0..430 => self.step_any()?,
            430..630 => self.further_any(),
            630..770 => self.append(),
            770..830 => self.assign(),
            830..860 => self.with_partition(|world, partition| world.group.revoke(partition)),
            860..870 => {
                let at = self.random.usize(0..self.processes.len());
                let member = self.processes[at].member;
                self.world.lock().group.expel(member);
            }
            870..880 => self.world.lock().group.next_generation(),
            880..895 => self.crash()?,
            895..905 => self.drain()?,
            905..930 => self.retain(),
            930..965 => self.toggle(),
            _ => self.world.lock().pass(Duration::from_millis(30)),
        }
        Ok(())
    }

    fn step_any(&mut self) -> Result<(), String> {
        let at = self.random.usize(0..self.processes.len());
        self.step(at)
    }

    fn step(&mut self, at: usize) -> Result<(), String> {
        self.world.lock().pass(ROUND);
        match self.processes[at].worker.step() {
            Ok(()) => Ok(()),
            // It ends, and is started again.
            Err(WorkerError::Fenced(_) | WorkerError::Kafka(_)) => {
                self.abandon(at);
                self.replace(at)
            }
            Err(error) => Err(format!("a worker has ended: {error}")),
        }
    }

    /// The transactions of an ended process go no further.
    fn abandon(&self, at: usize) {
        let mut world = self.world.lock();
        let group = self.processes[at].member;
        for id in 0..world.log.transactions.len() {
            if world.log.group(id).member == group {
                world.log.transactions[id].alive = false;
            }
        }
    }

    fn crash(&mut self) -> Result<(), String> {
        let at = self.random.usize(0..self.processes.len());
        // What was on its way may still arrive.
        if self.random.bool() {
            self.world.lock().pass(ROUND);
        }
        self.abandon(at);
        self.replace(at)
    }

    fn drain(&mut self) -> Result<(), String> {
        let at = self.random.usize(0..self.processes.len());
        let started = self.start(at)?;
        let ended = std::mem::replace(&mut self.processes[at], started);
        match ended.worker.drain() {
            Ok(()) | Err(WorkerError::Fenced(_)) => Ok(()),
            Err(error) => Err(format!("a worker did not drain: {error}")),
        }
    }

    fn further_any(&mut self) {
        let at = self.random.usize(0..self.processes.len());
        Sim::further_an_opening(&self.processes[at].gate);
    }

    fn append(&mut self) {
        for _ in 0..self.random.usize(1..4) {
            let partition = self.random.i32(0..PARTITIONS.get() as i32);
            let skipped = if self.random.u32(0..6) == 0 { 2 } else { 0 };
            let back = self.random.usize(0..4);
            let repeat = (self.replays && self.random.u32(0..4) == 0).then_some(back);
            self.world.lock().log.append(partition, skipped, repeat);
        }
    }

    /// Assigns some free partitions.
    fn assign(&mut self) {
        let at = self.random.usize(0..self.processes.len());
        let member = self.processes[at].member;
        let mut world = self.world.lock();
        let mut free = world.group.free_partitions();
        free.truncate(self.random.usize(1..4));
        if !free.is_empty() {
            world.group.assign(&free, member);
        }
    }

    fn with_partition(&mut self, act: impl FnOnce(&mut World, i32)) {
        let partition = self.random.i32(0..PARTITIONS.get() as i32);
        act(&mut self.world.lock(), partition);
    }

    /// Retention deletes what is old, read or not.
    fn retain(&mut self) {
        if self.replays {
            return;
        }
        let share = self.random.i64(1..4);
        self.with_partition(|world, partition| {
            let log = world.log.partition(partition);
            let low = log.low + (log.high - log.low) * share / 3;
            world.log.delete(partition, low);
        });
    }

    fn toggle(&mut self) {
        let (what, up) = (self.random.u32(0..3), self.random.bool());
        let mut world = self.world.lock();
        match what {
            0 => world.vault_is_up = up,
            1 => world.registry_is_up = up,
            _ => {
                world.subjects = [false; _];
                world.schemas = [false; _];
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        let world = self.world.lock();
        if let Some(violation) = world.model.violation() {
            return Err(violation.clone());
        }
        for partition in 0..PARTITIONS.get() as i32 {
            let (next, committed) = (
                world.model.next(partition),
                world.log.partition(partition).committed,
            );
            if !world.log.is_pending(partition) && committed.unwrap_or_default() != next {
                return Err(format!(
                    "lane {partition}: committed offset {committed:?}, the ledger ends at {next}"
                ));
            }
        }
        Ok(())
    }

    /// Without faults, everything settles.
    fn settle(&mut self) -> Result<(), String> {
        {
            let mut world = self.world.lock();
            (world.faults, world.vault_is_up, world.registry_is_up) = (false, true, true);
        }
        for _ in 0..ROUNDS_MAX {
            let free = self.world.lock().group.free_partitions();
            if !free.is_empty() {
                self.assign();
            }
            for at in 0..self.processes.len() {
                self.step(at)?;
                Sim::further_an_opening(&self.processes[at].gate);
            }
            self.check()?;
            if self.is_settled() {
                return Ok(());
            }
        }
        Err(self.unsettled())
    }

    fn is_settled(&self) -> bool {
        let world = self.world.lock();
        world.log.partitions.iter().all(|log| match log.committed {
            Some(committed) => committed == log.end(),
            None => log.records(0).is_empty(),
        })
    }

    fn unsettled(&self) -> String {
        let world = self.world.lock();
        let lanes = world.log.partitions.iter().map(|log| (log.committed, log.end()));
        format!(
            "not settled after {ROUNDS_MAX} rounds: committed offsets and ends {:?}",
            lanes.collect::<Vec<_>>()
        )
    }
}
