//! The group coordinator: who owns which partition, and what its members have not been told yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::fixture::PARTITIONS;
use crate::io::kafka::consumer::Rebalance;

/// A membership, as a transaction states it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    pub member: usize,
    generation: u64,
}

/// A member of the group.
#[derive(Default)]
struct Member {
    /// The generation that it is in, while it is.
    generation: Option<u64>,
    events: VecDeque<Rebalance>,
    /// Partitions that it was asked to give back, once it has read that.
    leaving: BTreeSet<i32>,
}

/// The group.
#[derive(Default)]
pub struct Group {
    members: BTreeMap<usize, Member>,
    owners: BTreeMap<i32, usize>,
    /// Partitions that are on their way from their owner.
    moving: BTreeSet<i32>,
    generation: u64,
}

impl Group {
    pub fn join(&mut self, member: usize) {
        self.generation += 1;
        let joined = Member {
            generation: Some(self.generation),
            ..Member::default()
        };
        self.members.insert(member, joined);
    }

    /// The member is gone: its partitions are free.
    pub fn leave(&mut self, member: usize) {
        self.members.remove(&member);
        self.free(member);
    }

    fn free(&mut self, member: usize) -> Vec<i32> {
        let owned: Vec<_> = self.owned(member);
        for partition in &owned {
            self.owners.remove(partition);
            self.moving.remove(partition);
        }
        owned
    }

    fn owned(&self, member: usize) -> Vec<i32> {
        let owned = self.owners.iter().filter(|(_, owner)| **owner == member);
        owned.map(|(&partition, _)| partition).collect()
    }

    pub fn free_partitions(&self) -> Vec<i32> {
        let all = 0..PARTITIONS.get() as i32;
        all.filter(|partition| !self.owners.contains_key(partition))
            .collect()
    }

    /// Assigns free partitions.
    pub fn assign(&mut self, partitions: &[i32], member: usize) {
        let Some(joined) = self
            .members
            .get_mut(&member)
            .filter(|joined| joined.generation.is_some())
        else {
            return;
        };
        joined.events.push_back(Rebalance::Assign(partitions.to_vec()));
        self.owners
            .extend(partitions.iter().map(|&partition| (partition, member)));
    }

    /// Asks the owner to give a partition back.
    pub fn revoke(&mut self, partition: i32) {
        let owner = self
            .owners
            .get(&partition)
            .and_then(|owner| self.members.get_mut(owner));
        if let Some(owner) = owner
            && self.moving.insert(partition)
        {
            owner.events.push_back(Rebalance::Revoke {
                partitions: vec![partition],
                lost: false,
            });
        }
    }

    /// The member was silent for too long: its partitions are free at once, and it finds out later.
    pub fn expel(&mut self, member: usize) {
        if self
            .members
            .get(&member)
            .is_none_or(|member| member.generation.is_none())
        {
            return;
        }
        let partitions = self.free(member);
        if let Some(expelled) = self.members.get_mut(&member) {
            expelled.generation = None;
            expelled.leaving.clear();
            // What it has not read yet never happened.
            let unread: Vec<_> = expelled.events.drain(..).collect();
            let assigned: BTreeSet<_> = unread.iter().flat_map(assigned).collect();
            let known = partitions
                .into_iter()
                .filter(|partition| !assigned.contains(partition));
            expelled.events.push_back(Rebalance::Revoke {
                partitions: known.collect(),
                lost: true,
            });
        }
    }

    /// A rebalance that leaves the partitions where they are: transactions of the generation before are refused.
    pub fn next_generation(&mut self) {
        self.generation += 1;
        for member in self.members.values_mut() {
            member.generation = member.generation.map(|_| self.generation);
        }
    }

    pub fn read(&mut self, member: usize) -> Option<Rebalance> {
        let member = self.members.get_mut(&member)?;
        let event = member.events.pop_front()?;
        if let Rebalance::Revoke { partitions, .. } = &event {
            member.leaving.extend(partitions);
            if partitions.is_empty() {
                self.generation += 1;
                member.generation.get_or_insert(self.generation);
            }
        }
        Some(event)
    }

    /// The member gives back partitions; those that it was not asked for it only assigns itself again.
    pub fn give_back(&mut self, member: usize, partitions: &[i32]) {
        let Some(giver) = self.members.get_mut(&member) else {
            return;
        };
        for partition in partitions {
            if giver.leaving.remove(partition) && self.owners.get(partition) == Some(&member) {
                self.owners.remove(partition);
                self.moving.remove(partition);
            }
        }
        if giver.generation.is_none() && giver.events.is_empty() && giver.leaving.is_empty() {
            self.generation += 1;
            giver.generation = Some(self.generation);
        }
    }

    pub fn token(&self, member: usize) -> Option<Token> {
        let generation = self.members.get(&member)?.generation.unwrap_or_default();
        Some(Token { member, generation })
    }

    pub fn accepts(&self, token: Token) -> bool {
        let member = self.members.get(&token.member);
        member.is_some_and(|member| member.generation == Some(token.generation))
    }
}

fn assigned(event: &Rebalance) -> Vec<i32> {
    match event {
        Rebalance::Assign(partitions) => partitions.clone(),
        Rebalance::Revoke { .. } => Vec::new(),
    }
}
