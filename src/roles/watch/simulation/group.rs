//! A consumer group in memory: who holds which partition, and what its members have fetched.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

use super::log::{PARTITIONS, Partition};
use crate::io::kafka::consumer::Rebalance;

/// A record, or the error that was delivered in its place.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its value.
    pub content: Result<[u8; 12], RDKafkaErrorCode>,
}

/// How a member fetches a partition.
#[derive(Debug, Default)]
pub struct Fetch {
    /// The next offset, while it is fetched.
    pub position: Option<i64>,
    /// The client has given it up: it takes no seek until it is reassigned.
    pub stopped: bool,
    at_end: bool,
}

/// A member of the group.
#[derive(Debug, Default)]
pub struct Member {
    rebalances: VecDeque<(Instant, Rebalance)>,
    /// Partitions that it has been asked to give back, and whether they are lost.
    revoking: BTreeMap<i32, bool>,
    /// Partitions that it will be asked to give back.
    leaving: BTreeSet<i32>,
    /// What it fetches.
    pub assigned: BTreeMap<i32, Fetch>,
    /// What it has fetched.
    pub queue: VecDeque<Message>,
    /// Whether a gap was found.
    pub gap: bool,
}

/// The group.
#[derive(Debug, Default)]
pub struct Group {
    /// Its members.
    pub members: BTreeMap<usize, Member>,
    /// The member that a partition is assigned to, or is about to be.
    pub holders: [Option<usize>; PARTITIONS],
    /// The member that a partition should go to.
    targets: [usize; PARTITIONS],
}

impl Group {
    /// A member joins.
    pub fn join(&mut self, member: usize) {
        self.members.insert(member, Member::default());
        self.balance();
    }

    /// A member leaves, or is found to be dead.
    pub fn leave(&mut self, member: usize) {
        self.members.remove(&member);
        for holder in &mut self.holders {
            *holder = holder.filter(|holder| *holder != member);
        }
        self.balance();
    }

    /// Assigns a partition to another member. When it is lost, its holder hears of that only after `delay`.
    pub fn reassign(&mut self, partition: usize, to: usize, lost: Option<Duration>) {
        let Some(from) = self.holders[partition] else {
            return;
        };
        let lane = partition as i32;
        let Some(member) = self.members.get_mut(&from) else {
            return;
        };
        if from == to || member.leaving.contains(&lane) {
            return;
        }
        self.targets[partition] = to;
        let revoke = Rebalance::Revoke {
            partitions: vec![lane],
            lost: lost.is_some(),
        };
        let due = Instant::now() + lost.unwrap_or_default();
        member.rebalances.push_back((due, revoke));
        if lost.is_some() {
            self.holders[partition] = None;
            self.balance();
        } else {
            member.leaving.insert(lane);
        }
    }

    /// The oldest rebalance that the member has not answered, if it has heard of it.
    pub fn rebalance(&mut self, member: usize) -> Option<Rebalance> {
        let member = self.members.get_mut(&member)?;
        if member.rebalances.front()?.0 > Instant::now() {
            return None;
        }
        let (_, rebalance) = member.rebalances.pop_front()?;
        if let Rebalance::Revoke { partitions, lost } = &rebalance {
            let revoked = partitions.iter().map(|partition| (*partition, *lost));
            member.revoking.extend(revoked);
        }
        Some(rebalance)
    }

    /// The member no longer fetches the partition, which may be its answer to a rebalance.
    pub fn unassign(&mut self, of: usize, partition: i32) {
        let Some(member) = self.members.get_mut(&of) else {
            return;
        };
        member.assigned.remove(&partition);
        member.discard(partition);
        if member.revoking.remove(&partition) == Some(false) {
            member.leaving.remove(&partition);
            self.holders[partition as usize] = None;
            self.balance();
        }
    }

    /// Assigns the partitions that no member holds.
    fn balance(&mut self) {
        let Some(&any) = self.members.keys().next() else {
            return;
        };
        let mut assigned: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
        for partition in 0..PARTITIONS {
            if self.holders[partition].is_some() {
                continue;
            }
            let target = Some(self.targets[partition]).filter(|target| self.members.contains_key(target));
            let target = target.unwrap_or(any);
            self.holders[partition] = Some(target);
            assigned.entry(target).or_default().push(partition as i32);
        }
        for (target, partitions) in assigned {
            if let Some(member) = self.members.get_mut(&target) {
                let assign = Rebalance::Assign(partitions);
                member.rebalances.push_back((Instant::now(), assign));
            }
        }
    }
}

impl Member {
    /// Discards what was fetched of a partition. The errors of a broker stay: they stand for other partitions too.
    pub fn discard(&mut self, partition: i32) {
        let of_broker = |message: &Message| message.content == Err(RDKafkaErrorCode::BrokerTransportFailure);
        self.queue
            .retain(|message| message.partition != partition || of_broker(message));
    }

    /// Fetches from `offset` on; what was fetched before is never delivered.
    pub fn seek(&mut self, partition: i32, offset: i64) {
        self.discard(partition);
        let fetch = Fetch {
            position: Some(offset),
            ..Fetch::default()
        };
        self.assigned.insert(partition, fetch);
    }

    /// Fetches up to `count` messages. With `faults` an error may come in place of a record; then records are missing
    /// behind it, as from a broker that has restarted.
    pub fn fetch(
        &mut self,
        log: &[Partition; PARTITIONS],
        rng: &mut fastrand::Rng,
        count: usize,
        faults: bool,
    ) {
        for _ in 0..count {
            let fetching = |(partition, fetch): (&i32, &Fetch)| fetch.position.map(|_| *partition);
            let lanes: Vec<i32> = self.assigned.iter().filter_map(fetching).collect();
            if lanes.is_empty() {
                return;
            }
            let lane = lanes[rng.usize(..lanes.len())];
            let of = &log[lane as usize];
            if faults && rng.u32(..100) < 2 {
                self.fail(lane, of.offsets().end, rng);
                // What comes next from another lane of the same broker may lack a record too.
                let other = lanes[rng.usize(..lanes.len())];
                self.skip(other, log[other as usize].offsets().end);
            } else {
                self.fetch_one(lane, of, rng);
            }
        }
    }

    fn fetch_one(&mut self, partition: i32, log: &Partition, rng: &mut fastrand::Rng) {
        let Some(fetch) = self.assigned.get_mut(&partition) else {
            return;
        };
        let Some(position) = fetch.position else { return };
        let offsets = log.offsets();
        if position < offsets.start || position > offsets.end {
            fetch.position = None;
            fetch.stopped = true;
            // The client reports it through one of two ways, or both.
            let ways = rng.u32(..3);
            self.gap |= ways != 0;
            if ways != 1 {
                self.push(partition, position, Err(RDKafkaErrorCode::AutoOffsetReset));
            }
        } else if position == offsets.end {
            if !std::mem::replace(&mut fetch.at_end, true) {
                self.push(partition, position, Err(RDKafkaErrorCode::PartitionEOF));
            }
        } else {
            fetch.position = Some(position + 1);
            fetch.at_end = false;
            if let Some(entry) = log.get(position) {
                self.push(partition, position, Ok(entry.value()));
            }
        }
    }

    fn fail(&mut self, partition: i32, end: i64, rng: &mut fastrand::Rng) {
        let position = self.assigned.get(&partition).and_then(|fetch| fetch.position);
        self.push(
            partition,
            position.unwrap_or_default(),
            Err(RDKafkaErrorCode::BrokerTransportFailure),
        );
        if rng.bool() {
            self.skip(partition, end);
        }
    }

    fn skip(&mut self, partition: i32, end: i64) {
        if let Some(fetch) = self.assigned.get_mut(&partition)
            && let Some(position) = &mut fetch.position
            && *position < end
        {
            *position += 1;
        }
    }

    fn push(&mut self, partition: i32, offset: i64, content: Result<[u8; 12], RDKafkaErrorCode>) {
        self.queue.push_back(Message {
            partition,
            offset,
            content,
        });
    }
}
