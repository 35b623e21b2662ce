//! The simulated consumer: records from the log in memory, and everything that a real one may do instead.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::fixture::PARTITIONS;
use super::log::Raw;
use super::world::Shared;
use crate::io::kafka::consumer::Rebalance;
use crate::io::kafka::source::{Record, Records, Source};
use pulsegate_ledger::record::{Received, SignatureHeaders};

/// Where a partition is fetched.
#[derive(Clone, Copy, Default)]
struct Fetch {
    /// The next offset, if the partition is fetched at all.
    next: Option<i64>,
    paused: bool,
}

/// A member of the group.
pub struct SimConsumer {
    world: Shared,
    member: usize,
    fetches: RefCell<BTreeMap<i32, Fetch>>,
    gap: Cell<bool>,
}

impl SimConsumer {
    pub fn new(world: &Shared, member: usize) -> Self {
        world.lock().group.join(member);
        Self {
            world: world.clone(),
            member,
            fetches: RefCell::default(),
            gap: Cell::new(false),
        }
    }

    fn with<T>(&self, partition: i32, change: impl FnOnce(&mut Fetch) -> T) -> KafkaResult<T> {
        let mut fetches = self.fetches.borrow_mut();
        let fetch = fetches.get_mut(&partition);
        fetch
            .map(change)
            .ok_or_else(|| KafkaError::Seek("not assigned".to_owned()))
    }

    /// The next record of a partition, or what comes in its place.
    fn fetch(&self, partition: i32) -> Option<SimRecord> {
        let mut world = self.world.lock();
        let mut fetches = self.fetches.borrow_mut();
        let fetch = fetches.get_mut(&partition).filter(|fetch| !fetch.paused)?;
        let next = fetch.next?;
        let log = world.log.partition(partition);
        let overtaken = next < log.low;
        let raw = log.records(next).first().copied();
        if overtaken || world.fails(8) {
            // The client fetches it no more, and says so in one of two ways.
            fetch.next = None;
            if overtaken && world.happens(500) {
                self.gap.set(true);
                return None;
            }
            return Some(SimRecord::Error(partition));
        }
        fetch.next = Some(raw?.offset + 1);
        Some(SimRecord::Raw(partition, raw?))
    }
}

impl Drop for SimConsumer {
    fn drop(&mut self) {
        self.world.lock().group.leave(self.member);
    }
}

impl Source for SimConsumer {
    type Records = SimRecords;

    fn buffer(_: usize) -> SimRecords {
        SimRecords::default()
    }

    fn serve(&self) -> Option<KafkaError> {
        let fatal = self.world.lock().fails(1);
        fatal.then_some(KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::Fatal))
    }

    fn rebalance(&self) -> Option<Rebalance> {
        self.world.lock().group.read(self.member)
    }

    fn take_gap(&self) -> bool {
        self.gap.take()
    }

    fn assign(&self, partitions: &[i32]) -> KafkaResult<()> {
        let assigned = partitions.iter().map(|&partition| (partition, Fetch::default()));
        self.fetches.borrow_mut().extend(assigned);
        Ok(())
    }

    fn unassign(&self, partitions: &[i32]) -> KafkaResult<()> {
        self.fetches
            .borrow_mut()
            .retain(|partition, _| !partitions.contains(partition));
        self.world.lock().group.give_back(self.member, partitions);
        Ok(())
    }

    fn pause(&self, partition: i32) -> KafkaResult<()> {
        if self.world.lock().fails(20) {
            return Err(KafkaError::PauseResume("failed".to_owned()));
        }
        self.with(partition, |fetch| fetch.paused = true)
    }

    fn start(&self, partition: i32, offset: i64) -> KafkaResult<()> {
        if self.world.lock().fails(90) {
            self.with(partition, |fetch| *fetch = Fetch::default())?;
            return Err(KafkaError::Seek("the assignment is not applied yet".to_owned()));
        }
        self.with(partition, |fetch| {
            *fetch = Fetch {
                next: Some(offset),
                paused: false,
            };
        })
    }

    fn consume(&self, records: &mut SimRecords, records_max: usize, timeout: Duration) {
        records.0.clear();
        let first = self.world.lock().random.i32(0..PARTITIONS.get() as i32);
        for turn in 0..PARTITIONS.get() as i32 {
            let partition = (first + turn) % PARTITIONS.get() as i32;
            let most = self.world.lock().random.usize(1..4);
            for _ in 0..most {
                if records.0.len() == records_max {
                    return;
                }
                records.0.extend(self.fetch(partition));
            }
        }
        if records.0.is_empty() {
            self.world.lock().pass(timeout);
        }
    }

    fn take_stable_offsets(&self) -> Option<BTreeMap<i32, i64>> {
        let mut world = self.world.lock();
        let ends = (0..)
            .zip(&world.log.partitions)
            .map(|(partition, log)| (partition, log.high));
        let ends = ends.collect();
        world.happens(50).then_some(ends)
    }
}

/// Records that were fetched together.
#[derive(Default)]
pub struct SimRecords(pub Vec<SimRecord>);

/// A record, or what came in its place.
#[derive(Clone, Copy)]
pub enum SimRecord {
    Raw(i32, Raw),
    Error(i32),
    End(i32),
}

impl Records for SimRecords {
    type Record<'a> = SimRecord;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn iter(&self) -> impl Iterator<Item = SimRecord> {
        self.0.iter().copied()
    }

    fn release(&mut self, count: usize) {
        self.0.drain(..count);
    }

    fn forget(&mut self, partition: i32) {
        self.0.retain(|record| record.partition() != partition);
    }
}

impl<'a> Record<'a> for SimRecord {
    fn partition(self) -> i32 {
        match self {
            Self::Raw(partition, _) | Self::Error(partition) | Self::End(partition) => partition,
        }
    }

    fn offset(self) -> i64 {
        match self {
            Self::Raw(_, raw) => raw.offset,
            Self::Error(_) | Self::End(_) => -1,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Raw(_, raw) => raw.signed.value.len() + raw.signed.key.len(),
            Self::Error(_) | Self::End(_) => 0,
        }
    }

    fn error(self) -> Option<RDKafkaErrorCode> {
        match self {
            Self::Raw(..) => None,
            Self::Error(_) => Some(RDKafkaErrorCode::AutoOffsetReset),
            Self::End(_) => Some(RDKafkaErrorCode::PartitionEOF),
        }
    }

    fn received(self) -> (Received<'a>, bool) {
        let Self::Raw(partition, raw) = self else {
            panic!("only a record is received");
        };
        let mut signature = SignatureHeaders::default();
        signature.take(b"x-jws-signature", Some(&raw.signed.signature));
        let record = Received {
            partition,
            offset: raw.offset,
            appended_ms: raw.appended_ms,
            key: Some(&raw.signed.key),
            value: &raw.signed.value,
            signature,
        };
        (record, true)
    }
}
