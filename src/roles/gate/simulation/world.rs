//! The world around the workers: one clock, one log, one group, and the faults that a seed decides on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::fixture::{SCHEMAS, SUBJECTS};
use super::group::Group;
use super::log::{Answer, Log, Stage};
use super::model::Model;

/// How long a transaction may stay open.
const TRANSACTION_TIMEOUT: Duration = Duration::from_millis(1_000);

/// The world.
pub struct World {
    pub random: fastrand::Rng,
    /// Time since the run began.
    pub now: Duration,
    /// Whether anything may fail.
    pub faults: bool,
    pub log: Log,
    pub group: Group,
    pub model: Model,
    pub vault_is_up: bool,
    /// Subjects whose keys are in memory.
    pub subjects: [bool; SUBJECTS],
    pub registry_is_up: bool,
    /// Schema ids that the registry has answered about.
    pub schemas: [bool; SCHEMAS.len()],
}

/// The world as everything in it shares it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            random: fastrand::Rng::with_seed(seed),
            now: Duration::ZERO,
            faults: true,
            log: Log::new(),
            group: Group::default(),
            model: Model::new(),
            vault_is_up: true,
            subjects: [false; SUBJECTS],
            registry_is_up: true,
            schemas: [false; SCHEMAS.len()],
        })))
    }

    /// The world. A panic under the lock leaves it as it was found.
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// Whether something that happens so often in a thousand times happens now.
    pub fn happens(&mut self, per_mille: u32) -> bool {
        self.random.u32(0..1_000) < per_mille
    }

    /// Whether a fault happens.
    pub fn fails(&mut self, per_mille: u32) -> bool {
        self.faults && self.happens(per_mille)
    }

    /// Lets time pass, and everything that is under way go on.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.log.expire(self.now, TRANSACTION_TIMEOUT);
        for id in 0..self.log.transactions.len() {
            if self.log.transactions[id].is_open() {
                self.proceed(id);
            } else if !self.log.transactions[id].is_marked() {
                let (offsets, ledger) = (self.happens(500), self.happens(300));
                self.log.mark(id, offsets, ledger);
            } else if self.log.transactions[id].answer.is_none() {
                self.answer(id, Answer::Fenced);
            }
        }
        // A member that is expelled in the middle of a wait.
        if self.fails(3) {
            let member = self.random.usize(0..8);
            self.group.expel(member);
        }
    }

    fn proceed(&mut self, id: usize) {
        let transaction = &self.log.transactions[id];
        let gave_up = matches!(
            transaction.answer,
            Some(Answer::Committed | Answer::Aborted | Answer::Fenced | Answer::Unknown)
        );
        if gave_up || !transaction.alive || !self.happens(500) {
            return;
        }
        let stage = self.log.transactions[id].stage;
        match stage {
            // The coordinator is not done with the producer's last transaction.
            Stage::Produced if self.has_earlier(id) => {}
            Stage::Produced if self.fails(40) => self.log.abort(id, Answer::Aborted),
            Stage::Produced if !self.group.accepts(self.log.group(id)) => {
                self.log.abort(id, Answer::Aborted);
            }
            Stage::Produced if self.fails(8) => self.log.fence(id),
            Stage::Produced if self.fails(15) => self.answer(id, Answer::Unknown),
            Stage::Produced if self.fails(15) => self.answer(id, Answer::Hangs),
            Stage::Produced => self.log.transactions[id].stage = Stage::OffsetsSent,
            Stage::OffsetsSent if self.fails(30) => self.log.abort(id, Answer::Aborted),
            Stage::OffsetsSent if self.fails(20) => self.answer(id, Answer::Unknown),
            Stage::OffsetsSent if self.fails(20) => self.answer(id, Answer::Hangs),
            Stage::OffsetsSent => {
                self.log.transactions[id].stage = Stage::Committed;
                self.model.commit(&self.log, id);
                let answer = match self.faults.then(|| self.random.u32(0..100)) {
                    Some(0..5) => Answer::Unknown,
                    Some(5..8) => Answer::Hangs,
                    _ => Answer::Committed,
                };
                self.answer(id, answer);
            }
            Stage::Committed | Stage::Aborted => {}
        }
    }

    fn answer(&mut self, id: usize, answer: Answer) {
        self.log.transactions[id].answer.get_or_insert(answer);
    }

    /// Whether the producer has an earlier transaction whose markers are not written.
    fn has_earlier(&self, id: usize) -> bool {
        let (earlier, from) = self.log.transactions.split_at(id);
        earlier
            .iter()
            .any(|other| other.producer == from[0].producer && !other.is_marked())
    }
}
