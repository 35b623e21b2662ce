//! The topics and the transaction coordinator, in memory.
//!
//! A transaction passes through the steps of the real one: records are produced, offsets are sent (refused if the group
//! has moved on), the commit is decided, and its markers reach each partition later. Until then its offsets are pending
//! and what follows it in the ledger is invisible.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::fixture::{PARTITIONS, SIGNED_S, Signed, fixture};
use super::group::Token;
use crate::io::kafka::settle::Job;
use pulsegate_core::gate::seal::SealedBatch;

/// A raw record.
#[derive(Clone, Copy)]
pub struct Raw {
    pub offset: i64,
    pub appended_ms: i64,
    pub signed: &'static Signed,
}

/// One partition of the raw topic and of the ledger.
#[derive(Default)]
pub struct Partition {
    /// Every raw record, also those that retention has deleted.
    pub raw: Vec<Raw>,
    pub low: i64,
    pub high: i64,
    pub committed: Option<i64>,
    /// The ledger's records, each with the transaction that wrote it.
    ledger: Vec<(usize, Arc<[u8]>)>,
    /// How many of the fixture's records were appended.
    used: usize,
}

/// How far a transaction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Produced,
    OffsetsSent,
    Committed,
    Aborted,
}

/// What the client answers about its transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Committed,
    Aborted,
    Fenced,
    Unknown,
    /// Never.
    Hangs,
}

/// A transaction.
pub struct Transaction {
    pub producer: String,
    epoch: u64,
    group: Token,
    pub stage: Stage,
    pub answer: Option<Answer>,
    began: Duration,
    pub offsets: Vec<(i32, i64)>,
    /// Event of each clean record.
    pub clean: Vec<(i32, usize)>,
    /// Raw offset of each deadletter.
    pub letters: Vec<(i32, i64)>,
    pub ledger: Vec<(i32, Arc<[u8]>)>,
    /// Whether the client's thread still runs.
    pub alive: bool,
    /// Whether the markers have reached the group's offsets, and the ledger.
    offsets_marked: bool,
    ledger_marked: bool,
}

/// All topics and transactions.
pub struct Log {
    pub partitions: Vec<Partition>,
    pub transactions: Vec<Transaction>,
    epochs: BTreeMap<String, u64>,
    appended: i64,
}

impl Log {
    pub fn new() -> Self {
        Self {
            partitions: (0..PARTITIONS.get()).map(|_| Partition::default()).collect(),
            transactions: Vec::new(),
            epochs: BTreeMap::new(),
            appended: 0,
        }
    }

    pub fn partition(&self, partition: i32) -> &Partition {
        &self.partitions[partition as usize]
    }

    /// Appends the fixture's next record, or one of the last ones again; `skipped` offsets go to markers.
    pub fn append(&mut self, partition: i32, skipped: i64, repeat: Option<usize>) {
        self.appended += 1;
        let appended_ms = SIGNED_S * 1_000 + self.appended;
        let lane = &mut self.partitions[partition as usize];
        let records = &fixture().records[partition as usize];
        let again = repeat.and_then(|back| lane.used.checked_sub(back + 1));
        let Some(signed) = records.get(again.unwrap_or(lane.used)) else {
            return;
        };
        lane.used += usize::from(again.is_none());
        let offset = lane.high + skipped;
        lane.high = offset + 1;
        lane.raw.push(Raw {
            offset,
            appended_ms,
            signed,
        });
    }

    /// Deletes the records before `low`.
    pub fn delete(&mut self, partition: i32, low: i64) {
        let lane = &mut self.partitions[partition as usize];
        lane.low = low.clamp(lane.low, lane.high);
    }

    /// Fences the producer's earlier transactions, and returns its epoch.
    pub fn start_producer(&mut self, producer: &str) -> u64 {
        let epoch = self.epochs.entry(producer.to_owned()).or_default();
        *epoch += 1;
        let epoch = *epoch;
        for id in 0..self.transactions.len() {
            let transaction = &mut self.transactions[id];
            if transaction.producer != producer {
                continue;
            }
            if transaction.is_open() {
                transaction.stage = Stage::Aborted;
            }
            self.mark(id, true, true);
        }
        epoch
    }

    pub fn begin(&mut self, producer: &str, epoch: u64, job: &Job<Token>, now: Duration) -> usize {
        let batch = &job.batch;
        let id = self.transactions.len();
        let ledger: Vec<_> = batch
            .ledger()
            .map(|(lane, _, value)| (lane, Arc::from(value)))
            .collect();
        for (lane, value) in &ledger {
            self.partitions[*lane as usize]
                .ledger
                .push((id, Arc::clone(value)));
        }
        self.transactions.push(Transaction {
            producer: producer.to_owned(),
            epoch,
            group: job.group,
            stage: Stage::Produced,
            answer: None,
            began: now,
            offsets: job.offsets.clone(),
            clean: clean(batch),
            letters: letters(batch),
            ledger,
            alive: true,
            offsets_marked: false,
            ledger_marked: false,
        });
        id
    }

    pub fn is_fenced(&self, id: usize) -> bool {
        let transaction = &self.transactions[id];
        self.epochs.get(&transaction.producer) != Some(&transaction.epoch)
    }

    pub fn group(&self, id: usize) -> Token {
        self.transactions[id].group
    }

    pub fn abort(&mut self, id: usize, answer: Answer) {
        self.transactions[id].stage = Stage::Aborted;
        self.transactions[id].answer = Some(answer);
        self.mark(id, true, true);
    }

    /// Another producer takes over the transactional id.
    pub fn fence(&mut self, id: usize) {
        if let Some(epoch) = self.epochs.get_mut(&self.transactions[id].producer) {
            *epoch += 1;
        }
        self.abort(id, Answer::Fenced);
    }

    /// Writes the markers of a transaction whose end is decided.
    pub fn mark(&mut self, id: usize, offsets: bool, ledger: bool) {
        let transaction = &mut self.transactions[id];
        if transaction.is_open() {
            return;
        }
        if offsets && !transaction.offsets_marked {
            transaction.offsets_marked = true;
            if transaction.stage == Stage::Committed {
                for &(lane, next) in &transaction.offsets {
                    self.partitions[lane as usize].committed = Some(next);
                }
            }
        }
        transaction.ledger_marked |= ledger;
    }

    /// Aborts transactions that are open for longer than `limit`; their producers are fenced.
    pub fn expire(&mut self, now: Duration, limit: Duration) {
        for id in 0..self.transactions.len() {
            let transaction = &mut self.transactions[id];
            if transaction.is_open() && now.saturating_sub(transaction.began) > limit {
                transaction.stage = Stage::Aborted;
                if let Some(epoch) = self.epochs.get_mut(&transaction.producer)
                    && *epoch == transaction.epoch
                {
                    *epoch += 1;
                }
                self.mark(id, true, true);
            }
        }
    }

    /// Whether a transaction has offsets pending in the partition.
    pub fn is_pending(&self, partition: i32) -> bool {
        self.transactions.iter().any(|transaction| {
            let sent = transaction.stage == Stage::OffsetsSent
                || transaction.stage == Stage::Committed && !transaction.offsets_marked;
            sent && transaction.offsets.iter().any(|&(lane, _)| lane == partition)
        })
    }

    /// The last ledger record that a reader of committed records sees.
    pub fn last_ledger(&self, partition: i32) -> Option<&[u8]> {
        let entries = self.partition(partition).ledger.iter();
        let stable = entries.take_while(|(id, _)| self.transactions[*id].ledger_marked);
        stable
            .filter(|(id, _)| self.transactions[*id].stage == Stage::Committed)
            .last()
            .map(|(_, value)| &**value)
    }
}

impl Partition {
    /// The raw records from `offset` on that retention has kept.
    pub fn records(&self, offset: i64) -> &[Raw] {
        let from = self.raw.partition_point(|raw| raw.offset < offset.max(self.low));
        &self.raw[from..]
    }

    /// The offset that everything is settled at.
    pub fn end(&self) -> i64 {
        self.raw
            .last()
            .map_or(self.low, |raw| self.low.max(raw.offset + 1))
    }
}

impl Transaction {
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Produced | Stage::OffsetsSent)
    }

    pub fn is_marked(&self) -> bool {
        self.offsets_marked && self.ledger_marked
    }
}

fn clean(batch: &SealedBatch) -> Vec<(i32, usize)> {
    const BEFORE: &[u8] = b"0192f0c1-2f5e-7c11-9f3a-";
    let event = |value: &[u8]| {
        let at = value.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
        std::str::from_utf8(value.get(at..at + 12)?).ok()?.parse().ok()
    };
    let event = |value| event(value).expect("a clean event has its id in clear");
    batch
        .clean()
        .map(|(lane, _, value)| (lane, event(value)))
        .collect()
}

fn letters(batch: &SealedBatch) -> Vec<(i32, i64)> {
    let letters = batch.deadletters().map(|letter| {
        let headers = letter.headers();
        let origin = headers
            .iter()
            .find(|(name, _)| *name == "pg-origin")
            .expect("an origin")
            .1;
        let offset = std::str::from_utf8(origin)
            .ok()
            .and_then(|text| text.rsplit('/').next()?.parse().ok());
        (letter.partition, offset.expect("an offset"))
    });
    letters.collect()
}
