//! The simulated source of a worker: a member of the simulated group.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pulsegate_ledger::record::{Received, SignatureHeaders};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::group::{Fetch, Message};
use super::limits::CHUNK_MAX;
use super::world::Shared;
use crate::io::kafka::consumer::Rebalance;
use crate::io::kafka::source::{Record, Records, Source};
use crate::roles::watch::tasks::Tasks;

/// How long a busy runtime may keep a task waiting, in ms.
const BUSY_MS: u64 = 500;

/// A member of the group, as its worker sees it.
pub struct SimulatedSource {
    /// The world.
    pub world: Shared,
    /// Number of the member.
    pub member: usize,
    /// Where time passes.
    pub runtime: Rc<Runtime>,
    /// Held by the records that were delivered.
    pub held: Arc<()>,
}

/// Records that were delivered together.
#[derive(Default)]
pub struct SimulatedRecords {
    messages: Vec<Message>,
    held: Option<Arc<()>>,
}

impl SimulatedSource {
    fn seek_refused<T>() -> KafkaResult<T> {
        Err(KafkaError::Seek("not now".to_owned()))
    }

    fn fetch(&self) {
        let world = &mut *self.world.lock();
        let count = world.rng.usize(..=CHUNK_MAX);
        if let Some(member) = world.group.members.get_mut(&self.member) {
            member.fetch(&world.log, &mut world.rng, count, world.faults);
        }
    }
}

impl Source for SimulatedSource {
    type Records = SimulatedRecords;

    fn buffer(_records_max: usize) -> SimulatedRecords {
        SimulatedRecords::default()
    }

    fn serve(&self) -> Option<KafkaError> {
        None
    }

    fn rebalance(&self) -> Option<Rebalance> {
        let mut world = self.world.lock();
        let rebalance = world.group.rebalance(self.member);
        if let Some(rebalance) = &rebalance {
            world.trace(|| format!("  member {} hears {rebalance:?}", self.member));
        }
        rebalance
    }

    fn take_gap(&self) -> bool {
        let mut world = self.world.lock();
        let member = world.group.members.get_mut(&self.member);
        member.is_some_and(|member| std::mem::take(&mut member.gap))
    }

    fn assign(&self, partitions: &[i32]) -> KafkaResult<()> {
        let mut world = self.world.lock();
        if let Some(member) = world.group.members.get_mut(&self.member) {
            let taken = partitions.iter().map(|partition| (*partition, Fetch::default()));
            member.assigned.extend(taken);
        }
        Ok(())
    }

    fn unassign(&self, partitions: &[i32]) -> KafkaResult<()> {
        let mut world = self.world.lock();
        for &partition in partitions {
            world.group.unassign(self.member, partition);
        }
        Ok(())
    }

    fn pause(&self, partition: i32) -> KafkaResult<()> {
        let mut world = self.world.lock();
        let member = world.group.members.get_mut(&self.member);
        match member.and_then(|member| member.assigned.get_mut(&partition)) {
            Some(fetch) => {
                // What was fetched is still delivered.
                fetch.position = None;
                Ok(())
            }
            None => Self::seek_refused(),
        }
    }

    fn start(&self, partition: i32, offset: i64) -> KafkaResult<()> {
        let world = &mut *self.world.lock();
        world.trace(|| format!("  member {} starts lane {partition} at {offset}", self.member));
        let refuses = world.faults && world.rng.u32(..100) < 3;
        let Some(member) = world.group.members.get_mut(&self.member) else {
            return Self::seek_refused();
        };
        match member.assigned.get(&partition) {
            Some(fetch) if !fetch.stopped && !refuses => {
                member.seek(partition, offset);
                Ok(())
            }
            Some(_) => {
                // As the consumer does: reassigned, it takes the next seek.
                member.discard(partition);
                member.assigned.insert(partition, Fetch::default());
                Self::seek_refused()
            }
            None => Self::seek_refused(),
        }
    }

    fn consume(&self, records: &mut SimulatedRecords, records_max: usize, patience: Duration) {
        records.messages.clear();
        records.held = None;
        self.fetch();
        let pause = {
            let limit_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            Duration::from_millis(self.world.lock().rng.u64(..=limit_ms))
        };
        self.runtime.block_on(tokio::time::sleep(pause));
        self.fetch();
        let world = &mut *self.world.lock();
        let count = world.rng.usize(1..=CHUNK_MAX).min(records_max);
        let Some(member) = world.group.members.get_mut(&self.member) else {
            return;
        };
        let count = count.min(member.queue.len());
        records.messages.extend(member.queue.drain(..count));
        if count > 0 {
            records.held = Some(Arc::clone(&self.held));
        }
    }

    fn take_stable_offsets(&self) -> Option<BTreeMap<i32, i64>> {
        let world = self.world.lock();
        let ends = world.log.iter().map(|log| log.offsets().end);
        Some((0..).zip(ends).collect())
    }
}

impl Drop for SimulatedSource {
    fn drop(&mut self) {
        let mut world = self.world.lock();
        if Arc::strong_count(&self.held) > 1 {
            world.violate(
                "the source is closed while its records are held, and would wait for ever".to_owned(),
            );
        }
        world.group.leave(self.member);
    }
}

impl Records for SimulatedRecords {
    type Record<'a> = &'a Message;

    fn len(&self) -> usize {
        self.messages.len()
    }

    fn iter(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter()
    }

    fn release(&mut self, count: usize) {
        self.messages.drain(..count);
    }

    fn forget(&mut self, partition: i32) {
        self.messages.retain(|message| message.partition != partition);
    }
}

impl<'a> Record<'a> for &'a Message {
    fn partition(self) -> i32 {
        self.partition
    }

    fn offset(self) -> i64 {
        self.offset
    }

    fn bytes(self) -> usize {
        self.content.map_or(0, |value| value.len())
    }

    fn error(self) -> Option<RDKafkaErrorCode> {
        self.content.err()
    }

    fn received(self) -> (Received<'a>, bool) {
        let received = Received {
            partition: self.partition,
            offset: self.offset,
            appended_ms: 1,
            key: None,
            value: self.content.as_ref().map_or(&[], |value| &value[..]),
            signature: SignatureHeaders::default(),
        };
        (received, true)
    }
}

/// The tasks of one worker, which end with its process.
pub struct SimulatedTasks {
    /// The world.
    pub world: Shared,
    /// Where they run.
    pub runtime: Rc<Runtime>,
    /// How they are ended.
    pub running: Rc<std::cell::RefCell<Vec<AbortHandle>>>,
}

impl Tasks for SimulatedTasks {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let world = self.world.clone();
        let task = self.runtime.spawn(async move {
            // A runtime does not start a task at once when it is busy.
            if world.is_busy() {
                world.wait(BUSY_MS).await;
            }
            task.await;
        });
        self.running.borrow_mut().push(task.abort_handle());
    }

    fn receive<T>(&self, inbox: &mut UnboundedReceiver<T>, patience: Duration) -> Option<T> {
        self.runtime
            .block_on(async { timeout(patience, inbox.recv()).await.ok().flatten() })
    }
}
