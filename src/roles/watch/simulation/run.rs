//! One run: what happens in which order, and what must be true at its end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::feed::{PAST, SimulatedFeed};
use super::limits::BATCH_ROWS_MAX;
use super::log::PARTITIONS;
use super::source::{SimulatedSource, SimulatedTasks};
use super::world::Shared;
use crate::config::watch::{BatchLimits, Config};
use crate::roles::watch::worker::{Setup, Worker};
use crate::telemetry::health::{Health, Log};

/// Number of things that happen while there are faults.
const EVENTS: usize = 120;
/// Time within which everything is stored once there are no more faults: a fenced lane pauses for 10 s, and a write
/// that failed often for up to 10 s.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// Pause of each worker between two passes of its loop while nothing goes wrong: less to simulate.
const CALM_PAUSE: Duration = Duration::from_millis(150);

/// Processes at once.
const PROCESSES: usize = 2;

/// A process with one worker.
struct Process {
    member: usize,
    worker: Worker<SimulatedFeed, SimulatedSource, SimulatedTasks>,
    tasks: Rc<RefCell<Vec<AbortHandle>>>,
}

/// A run of the simulation.
struct Run {
    world: Shared,
    runtime: Rc<Runtime>,
    health: Arc<Health>,
    config: Arc<Config>,
    processes: [Option<Process>; PROCESSES],
    members: usize,
    has_retention: bool,
    has_truncation: bool,
}

/// Runs one seed.
///
/// # Errors
/// The first violation of an invariant.
pub fn run(seed: u64, is_traced: bool) -> Result<(), String> {
    // The pauses between two attempts are drawn from this thread's generator.
    fastrand::seed(seed);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let runtime = Rc::new(runtime.map_err(|error| error.to_string())?);
    let _entered = runtime.enter();
    let world = Shared::new(seed, is_traced);
    let (has_retention, has_truncation) = {
        let rng = &mut world.lock().rng;
        (rng.bool(), rng.u32(..4) == 0)
    };
    let config = Config {
        batch: BatchLimits {
            rows_max: BATCH_ROWS_MAX,
            time_max_ms: 100,
        },
        drain_timeout_ms: 1_000,
        ..Config::default()
    };
    let run = Run {
        world,
        runtime: Rc::clone(&runtime),
        health: Health::new(PROCESSES),
        config: Arc::new(config),
        processes: [None, None],
        members: 0,
        has_retention,
        has_truncation,
    };
    run.through()
}

impl Run {
    fn through(mut self) -> Result<(), String> {
        self.start(0);
        for _ in 0..EVENTS {
            self.event()?;
            self.check()?;
        }
        self.recover()?;
        for index in 0..PROCESSES {
            self.stop(index);
            self.check()?;
        }
        Ok(())
    }

    fn below(&self, limit: u32) -> u32 {
        self.world.lock().rng.u32(..limit)
    }

    /// Something happens.
    fn event(&mut self) -> Result<(), String> {
        let index = self.below(PROCESSES as u32) as usize;
        let partition = self.below(PARTITIONS as u32) as usize;
        match self.below(100) {
            0..12 => self.world.lock().append(partition),
            12..17 => self.reassign(partition, index),
            17..19 => self.crash(index),
            19..21 => self.stop(index),
            21..26 => self.start(index),
            26..28 if self.has_retention => self.world.lock().expire(partition),
            28..30 if self.has_truncation => self.world.lock().truncate(partition),
            30..34 => self.pass(Duration::from_millis(u64::from(self.below(3_000)))),
            _ => return self.step(index),
        }
        Ok(())
    }

    /// One pass of a worker's loop.
    fn step(&mut self, index: usize) -> Result<(), String> {
        let Some(process) = &mut self.processes[index] else {
            return Ok(());
        };
        self.world
            .lock()
            .trace(|| format!("member {} steps", process.member));
        process.worker.step().map_err(|error| error.to_string())
    }

    fn start(&mut self, index: usize) {
        if self.processes[index].is_some() {
            return;
        }
        let member = self.members;
        self.members += 1;
        self.world.lock().trace(|| format!("member {member} starts"));
        self.world.lock().group.join(member);
        let tasks = Rc::default();
        let setup = Setup {
            feed: Arc::new(SimulatedFeed {
                world: self.world.clone(),
                member,
            }),
            config: Arc::clone(&self.config),
            health: self.health.worker_of(index, Log::Clean),
            partitions: PARTITIONS,
            tasks: SimulatedTasks {
                world: self.world.clone(),
                runtime: Rc::clone(&self.runtime),
                running: Rc::clone(&tasks),
            },
        };
        let source = SimulatedSource {
            world: self.world.clone(),
            member,
            runtime: Rc::clone(&self.runtime),
            held: Arc::default(),
        };
        self.processes[index] = Some(Process {
            member,
            worker: Worker::new(setup, source),
            tasks,
        });
    }

    /// A process is killed: whatever its tasks are doing ends where they stand.
    fn crash(&mut self, index: usize) {
        if let Some(process) = self.processes[index].take() {
            self.world
                .lock()
                .trace(|| format!("member {} crashes", process.member));
            let Process {
                worker,
                tasks,
                member,
            } = process;
            for task in tasks.borrow().iter() {
                task.abort();
            }
            drop(worker);
            self.forget(member);
        }
    }

    /// A process is told to stop, and drains.
    fn stop(&mut self, index: usize) {
        if let Some(process) = self.processes[index].take() {
            self.world
                .lock()
                .trace(|| format!("member {} stops", process.member));
            let Process {
                worker,
                tasks,
                member,
            } = process;
            worker.drain();
            for task in tasks.borrow().iter() {
                task.abort();
            }
            self.forget(member);
        }
    }

    /// The claims of a process end with it.
    fn forget(&self, member: usize) {
        let mut world = self.world.lock();
        world.claims.retain(|claim| claim.0 != member);
    }

    fn reassign(&self, partition: usize, index: usize) {
        let Some(process) = &self.processes[index] else {
            return;
        };
        let mut world = self.world.lock();
        let delay = Duration::from_millis(world.rng.u64(..2_000));
        let lost = world.rng.bool().then_some(delay);
        world.trace(|| {
            format!(
                "lane {partition} goes to member {}, lost: {lost:?}",
                process.member
            )
        });
        world.group.reassign(partition, process.member, lost);
    }

    fn pass(&self, time: Duration) {
        self.runtime.block_on(tokio::time::sleep(time));
    }

    fn check(&self) -> Result<(), String> {
        self.world.lock().violation.clone().map_or(Ok(()), Err)
    }

    /// Nothing goes wrong any more: everything in the log is stored within [`RECOVERY_MAX`].
    fn recover(&mut self) -> Result<(), String> {
        self.world.lock().faults = false;
        self.world.lock().trace(|| "no more faults".to_owned());
        self.start(0);
        let begun = Instant::now();
        loop {
            for index in 0..PROCESSES {
                self.step(index)?;
                self.pass(CALM_PAUSE);
                self.check()?;
            }
            for sink in &mut self.world.lock().sinks {
                sink.resolve_log_end();
            }
            let missing = self.world.lock().missing();
            match missing {
                None if begun.elapsed() >= PAST => return self.check_claims(),
                Some((partition, offset)) if begun.elapsed() >= RECOVERY_MAX => {
                    return Err(format!(
                        "lane {partition} stands still: offset {offset} is not stored"
                    ));
                }
                _ => {}
            }
        }
    }

    fn check_claims(&self) -> Result<(), String> {
        match self.world.lock().stale_claim() {
            Some((member, partition, _)) => Err(format!(
                "member {member} never releases a claim of lane {partition}"
            )),
            None => Ok(()),
        }
    }
}
