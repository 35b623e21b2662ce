//! Everything outside the workers: the log, the group, the database, and what goes wrong.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::database::Sink;
use super::group::Group;
use super::log::{Entry, PARTITIONS, Partition};

/// The world, as the workers of a simulation share it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

/// The world.
pub struct World {
    /// The only source of chance.
    pub rng: fastrand::Rng,
    /// The topic.
    pub log: [Partition; PARTITIONS],
    /// Its consumers.
    pub group: Group,
    /// The database.
    pub sinks: [Sink; PARTITIONS],
    /// Schema ids that are resolved.
    pub schemas: BTreeSet<u32>,
    /// Schema ids that are being resolved.
    pub asked: BTreeSet<u32>,
    /// Claims that were not released: member, partition, epoch.
    pub claims: BTreeSet<(usize, i32, i64)>,
    /// Writes under way: partition, epoch.
    pub writes: BTreeSet<(i32, i64)>,
    /// Whether anything goes wrong.
    pub faults: bool,
    /// Whether records may have a schema that is not resolved.
    pub has_schemas: bool,
    /// The first invariant that was violated.
    pub violation: Option<String>,
    /// Whether what happens is printed.
    pub is_traced: bool,
    ids: u64,
}

/// What becomes of a request to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done and confirmed.
    Done,
    /// It is not done.
    Failed,
    /// The database refuses it.
    Refused,
    /// It is done, but the confirmation is lost.
    Unconfirmed,
    /// It is done later, after the client has given up on it.
    Late,
}

impl Shared {
    /// A world in which nothing has happened.
    pub fn new(seed: u64, is_traced: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let has_schemas = rng.bool();
        Self(Arc::new(Mutex::new(World {
            rng,
            log: Default::default(),
            group: Group::default(),
            sinks: Default::default(),
            schemas: BTreeSet::new(),
            asked: BTreeSet::new(),
            claims: BTreeSet::new(),
            writes: BTreeSet::new(),
            faults: true,
            has_schemas,
            violation: None,
            is_traced,
            ids: 0,
        })))
    }

    /// The world, until the guard is dropped: never across an await.
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a task does not start at once.
    pub fn is_busy(&self) -> bool {
        let mut world = self.lock();
        world.faults && world.rng.u32(..100) < 10
    }

    /// Waits for a random time of at most `limit_ms`.
    pub async fn wait(&self, limit_ms: u64) {
        let pause = self.lock().rng.u64(..=limit_ms);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

impl World {
    /// Notes that an invariant is violated.
    pub fn violate(&mut self, what: String) {
        self.trace(|| format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    /// Prints what happens, when a seed is replayed.
    pub fn trace(&self, what: impl FnOnce() -> String) {
        if self.is_traced {
            eprintln!("{}", what());
        }
    }

    /// Chooses what becomes of a request, and the time that it takes, in ms.
    pub fn fate(&mut self) -> (Fate, u64) {
        if !self.faults {
            return (Fate::Done, 10);
        }
        let slow = self.rng.u32(..100) < 8;
        let limit_ms = if slow { 4_000 } else { 20 };
        let fate = match self.rng.u32(..100) {
            0..5 => Fate::Failed,
            5..7 => Fate::Refused,
            7..12 => Fate::Unconfirmed,
            12..16 => Fate::Late,
            _ => Fate::Done,
        };
        (fate, limit_ms)
    }

    /// Appends a few records and transaction markers to a partition, unless its log has just lost its end: no watch
    /// could see that it did if it grew past what is stored before a watch looked at it.
    pub fn append(&mut self, partition: usize) {
        let log = &self.log[partition];
        let lacks = |next| next > log.offsets().end;
        if log.truncated && !log.is_seen_truncated && self.sinks[partition].next().is_some_and(lacks) {
            return;
        }
        for _ in 0..self.rng.u32(1..=8) {
            self.ids += 1;
            let schema = if self.has_schemas && self.rng.u32(..20) == 0 {
                self.rng.u32(1..=6)
            } else {
                0
            };
            let entry = Entry { id: self.ids, schema };
            self.log[partition].append(Some(entry));
        }
        if self.rng.bool() {
            self.log[partition].append(None);
        }
    }

    /// Deletes the beginning of a partition.
    pub fn expire(&mut self, partition: usize) {
        let offsets = self.log[partition].offsets();
        self.log[partition].expire(self.rng.i64(offsets.start..=offsets.end));
        self.sinks[partition].is_state_unknown = true;
    }

    /// Deletes the end of a partition, some of which is stored.
    pub fn truncate(&mut self, partition: usize) {
        let Some(next) = self.sinks[partition].next() else {
            return;
        };
        let offsets = self.log[partition].offsets();
        if self.log[partition].truncated || next <= offsets.start + 1 || next > offsets.end {
            return;
        }
        let end = self.rng.i64(offsets.start..next);
        self.log[partition].truncate(end);
        self.sinks[partition].is_state_unknown = true;
    }

    /// The first record in the log that is not stored.
    pub fn missing(&self) -> Option<(usize, i64)> {
        (0..PARTITIONS).find_map(|partition| {
            let (log, sink) = (&self.log[partition], &self.sinks[partition]);
            let missing = log.within(log.offsets()).find(|(_, entry)| !sink.has(entry.id));
            missing.map(|(offset, _)| (partition, offset))
        })
    }

    /// A claim that no open lane can stand for.
    pub fn stale_claim(&self) -> Option<(usize, i32, i64)> {
        let is_stale = |&&(member, partition, epoch): &&(usize, i32, i64)| {
            let newer = (member, partition, epoch + 1)..=(member, partition, i64::MAX);
            self.group.holders[partition as usize] != Some(member)
                || self.claims.range(newer).next().is_some()
        };
        self.claims.iter().find(is_stale).copied()
    }
}
