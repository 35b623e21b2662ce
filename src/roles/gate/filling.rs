//! Filling: the open batch, and the stages that records pass through on their way into it.
//!
//! Records are taken in chunks and go through the verbs of the [`Pipeline`] a chunk at a time, each verb over all records
//! of the chunk:
//!
//! ```text
//! take ─▶ verify ─▶ decode ─▶ key ─▶ cut ─▶ admit ─▶ seal ─▶ account
//! ```
//!
//! This module feeds the verbs with keys, schemas and random bytes, and measures them. Where a piece is missing the lane
//! is cut: the records before that point go on, the others are taken again when the lane resumes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::error::WorkerError;
use super::knowledge::Knowledge;
use super::lane::{Lanes, Need};
use super::services::Services;
use super::shared::Gate;
use crate::io::kafka::source::{Record, Records, Source};
use crate::telemetry::metrics::Stage;
use pulsegate_core::crypto::envelope::TooLong;
use pulsegate_core::crypto::keys::SubjectKey;
use pulsegate_core::event::Violation;
use pulsegate_core::gate::Rules;
use pulsegate_core::gate::keyring::Keyring;
use pulsegate_core::gate::lane::Lane;
use pulsegate_core::gate::pipeline::{
    self, Admissible, Item, Missing, Output, OutputError, Pipeline, Verdict,
};
use pulsegate_core::gate::seal::{SealError, SealedBatch};
use pulsegate_core::gate::verify::Verified;
use pulsegate_ledger::record::Received;

/// How many records go through the stages at once: few enough that they stay in the processor's cache between stages,
/// many enough that a round trip for missing subject keys is shared.
const CHUNK_RECORDS: usize = 256;
/// Minimum time between two warnings about invalid events of one lane.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// The open batch.
pub struct Filling<S: Services> {
    messages: <S::Consumer as Source>::Records,
    pipeline: Pipeline,
    output: Output,
    size: Size,
    begun: Option<Instant>,
    last_appended_ms: Vec<i64>,
    warnings: Warnings,
}

/// Size of the open batch, and the time it took.
#[derive(Clone, Debug, Default)]
pub struct Size {
    /// Number of records.
    pub records: usize,
    /// Received bytes of keys and values.
    pub bytes: usize,
    /// Revision of the device keys that the last chunk was checked with.
    pub key_rev: u64,
    /// Time in the stages, in the order of [`Stage::ALL`].
    pub stages: [Duration; Stage::ALL.len()],
}

/// Time of the last warning about an invalid event, by lane.
struct Warnings(Vec<Option<Instant>>);

impl Warnings {
    /// Warns once per [`WARNING_PAUSE`]: a firmware with a bad field makes every event of its devices invalid.
    fn violation(&mut self, record: &Received, violation: &Violation, now: Instant) {
        let Some(last) = self.0.get_mut(record.partition as usize) else {
            return;
        };
        if last.is_none_or(|last| now - last >= WARNING_PAUSE) {
            *last = Some(now);
            let (lane, offset) = (record.partition, record.offset);
            warn!(lane, offset, %violation, "invalid event rejected: no more warnings of this lane for a minute");
        }
    }
}

/// A lane that cannot continue from its present position.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Partition of the raw topic.
    pub partition: i32,
    /// What the lane waits for.
    pub need: Need,
}

/// A record that may be admitted, with the key of its subject.
type Keyed<'r, 'k> = Item<'r, 'k, Admissible<'k, Arc<SubjectKey>>>;

/// A record and the decision about it.
type Decided<'r, 'k> = (Received<'r>, Verdict<'k, Arc<SubjectKey>>);

impl<S: Services> Filling<S> {
    /// An empty batch.
    ///
    /// # Errors
    ///
    /// When a topic's name does not fit into an encryption context.
    pub fn new(gate: &Gate<S>) -> Result<Self, TooLong> {
        Ok(Self {
            messages: S::Consumer::buffer(CHUNK_RECORDS),
            pipeline: Pipeline::default(),
            output: Output::new(gate.sealer()?),
            size: Size::default(),
            begun: None,
            last_appended_ms: vec![0; gate.partitions()],
            warnings: Warnings(vec![None; gate.partitions()]),
        })
    }

    /// Starts the batch's clock, unless it is running.
    pub fn begin(&mut self, gate: &Gate<S>) {
        self.begun.get_or_insert_with(|| gate.services.now());
    }

    /// Whether the batch has reached its limit of records or bytes.
    #[must_use]
    pub fn is_full(&self, gate: &Gate<S>) -> bool {
        let limits = &gate.config.gate.batch;
        self.size.records >= limits.records_max || self.size.bytes >= limits.bytes_max
    }

    /// Time left until the batch is due; `None` when it is empty.
    #[must_use]
    pub fn patience(&self, gate: &Gate<S>) -> Option<Duration> {
        let limit = Duration::from_millis(gate.config.gate.batch.time_max_ms);
        self.begun
            .map(|begun| limit.saturating_sub(gate.services.now() - begun))
    }

    /// Append time of the last record accounted for in a partition, in ms since the Unix epoch; 0 before the first.
    #[must_use]
    pub fn last_appended_ms(&self, partition: i32) -> i64 {
        usize::try_from(partition)
            .ok()
            .and_then(|index| self.last_appended_ms.get(index))
            .copied()
            .unwrap_or_default()
    }

    /// Returns the batch and opens the next one, which reuses the memory of `spare`.
    pub fn close(&mut self, spare: SealedBatch) -> (SealedBatch, Size) {
        self.begun = None;
        (self.output.close(spare), std::mem::take(&mut self.size))
    }

    /// Discards the open batch.
    pub fn clear(&mut self) {
        self.output.clear();
        self.size = Size::default();
        self.begun = None;
    }

    /// Takes the next chunk and returns its number of records. An empty batch waits for a single record, so that its
    /// clock starts with it. Records that the last batch had no room for come first.
    pub fn take(&mut self, consumer: &S::Consumer, gate: &Gate<S>, patience: Duration) -> usize {
        if self.messages.is_empty() {
            self.consume(consumer, gate, patience);
        }
        if !self.messages.is_empty() {
            self.begin(gate);
        }
        self.messages.len()
    }

    fn consume(&mut self, consumer: &S::Consumer, gate: &Gate<S>, patience: Duration) {
        let left = gate
            .config
            .gate
            .batch
            .records_max
            .saturating_sub(self.size.records)
            .clamp(1, CHUNK_RECORDS);
        consumer.consume(
            &mut self.messages,
            if self.begun.is_none() { 1 } else { left },
            patience,
        );
    }

    /// Discards records of a lane that were taken but had no room yet: they are taken again when the lane starts.
    pub fn forget(&mut self, partition: i32) {
        self.messages.forget(partition);
    }

    /// Sends the taken chunk through the pipeline, as far as the batch has room. Returns the lanes that were cut.
    ///
    /// # Errors
    ///
    /// [`WorkerError`] when a record carries its producer's timestamp or cannot be sealed: the batch must not commit.
    pub fn process(
        &mut self,
        gate: &Arc<Gate<S>>,
        lanes: &mut Lanes<S::Consumer>,
    ) -> Result<Vec<Cut>, WorkerError> {
        let knowledge = gate.services.knowledge();
        self.size.key_rev = knowledge.revision;
        // Borrowed by the items, while the other fields change.
        let mut messages = std::mem::replace(&mut self.messages, S::Consumer::buffer(0));
        let room = gate.config.gate.batch.bytes_max.saturating_sub(self.size.bytes);
        let count = fitting(messages.iter().map(Record::bytes), room);
        let result = self.verbs(gate, &knowledge, lanes, messages.iter().take(count));
        messages.release(count);
        self.messages = messages;
        result
    }

    fn verbs<'r>(
        &mut self,
        gate: &Arc<Gate<S>>,
        knowledge: &Knowledge<S::Keys>,
        lanes: &mut Lanes<S::Consumer>,
        messages: impl Iterator<Item = impl Record<'r>>,
    ) -> Result<Vec<Cut>, WorkerError> {
        let rules = gate.rules(knowledge);
        self.pipeline.clear();
        let mut since = gate.services.now();
        let mut cuts = Vec::new();
        let verified = self.verify(messages, &rules, lanes, &mut cuts)?;
        self.spent(gate, Stage::Verify, &mut since);
        let decoded = self.decode(gate, &rules, verified);
        self.spent(gate, Stage::Decode, &mut since);
        let keyed = self.find_keys(gate, decoded);
        let ready = cut(lanes, keyed, &mut cuts);
        self.spent(gate, Stage::Keys, &mut since);
        let decided = admit(lanes, &knowledge.keyring, ready);
        self.spent(gate, Stage::Admit, &mut since);
        self.seal(gate, knowledge, lanes, &decided)?;
        self.spent(gate, Stage::Seal, &mut since);
        Ok(cuts)
    }

    fn spent(&mut self, gate: &Gate<S>, stage: Stage, since: &mut Instant) {
        let now = gate.services.now();
        self.size.stages[stage as usize] += now - *since;
        *since = now;
    }

    /// Skips the records of lanes that are not open: they are taken again when the lane opens.
    fn verify<'r, 'k>(
        &mut self,
        messages: impl Iterator<Item = impl Record<'r>>,
        rules: &Rules<'k>,
        lanes: &mut Lanes<S::Consumer>,
        cuts: &mut Vec<Cut>,
    ) -> Result<Vec<Item<'r, 'k, Verified<'k>>>, WorkerError> {
        let mut items = Vec::with_capacity(CHUNK_RECORDS);
        for message in messages {
            let partition = message.partition();
            if let Some(error) = message.error() {
                warn!(lane = partition, %error, "fetch failed: committing what was consumed and reopening the lanes");
                // The records before it are settled; nothing follows it.
                cuts.push(Cut {
                    partition,
                    need: Need::Log,
                });
                continue;
            }
            let Some(lane) = open(lanes, partition) else {
                continue;
            };
            let (record, by_broker) = message.received();
            if !by_broker {
                return Err(WorkerError::Timestamps {
                    partition,
                    offset: record.offset,
                });
            }
            items.push(self.pipeline.verify(record, rules, &mut lane.budget));
        }
        Ok(items)
    }

    /// Has the registry resolve the ids of all records that wait, not only of the first in each lane: each later id would
    /// cost another hold.
    fn decode<'r, 'k>(
        &mut self,
        gate: &Arc<Gate<S>>,
        rules: &Rules<'k>,
        verified: Vec<Item<'r, 'k, Verified<'k>>>,
    ) -> Vec<Item<'r, 'k, Admissible<'k>>> {
        let decode = |item| self.pipeline.decode(item, rules);
        let decoded: Vec<_> = verified.into_iter().map(decode).collect();
        let mut ids = Vec::new();
        for item in &decoded {
            if let Some(violation) = item.violation() {
                self.warnings
                    .violation(&item.record, violation, gate.services.now());
            }
            if let Some(Missing::Schema(id)) = item.missing() {
                ids.push(id);
            }
        }
        if !ids.is_empty() {
            S::resolve_schemas(gate, ids);
        }
        decoded
    }

    /// Finds the key of each record's subject. Keys that are not in memory are fetched or created together, in one
    /// round trip.
    fn find_keys<'r, 'k>(
        &self,
        gate: &Gate<S>,
        decoded: Vec<Item<'r, 'k, Admissible<'k>>>,
    ) -> Vec<Keyed<'r, 'k>> {
        let mut missing = Vec::new();
        let mut keys = Vec::with_capacity(decoded.len());
        for item in &decoded {
            let subject = self.pipeline.subject(item);
            let key = subject.and_then(|(tenant, id)| gate.services.subject_key(tenant, id));
            if key.is_none() {
                missing.extend(subject);
            }
            keys.push(key);
        }
        let hits = keys.iter().flatten().count() as u64;
        gate.metrics
            .key_cache(hits, missing.len() as u64, gate.services.subject_keys());
        if !missing.is_empty() {
            S::fetch_subject_keys(gate, &missing);
        }
        let find = |(item, key): (_, Option<_>)| {
            self.pipeline.key(item, |tenant, id| {
                key.or_else(|| gate.services.subject_key(tenant, id))
            })
        };
        decoded.into_iter().zip(keys).map(find).collect()
    }

    /// Seals every record into the batch, and accounts for it.
    fn seal(
        &mut self,
        gate: &Gate<S>,
        knowledge: &Knowledge<S::Keys>,
        lanes: &mut Lanes<S::Consumer>,
        decided: &[Decided<'_, '_>],
    ) -> Result<(), WorkerError> {
        let (arena, tenants) = (self.pipeline.arena(), &*knowledge.tenants);
        let random = |bytes: &mut [u8]| gate.services.random(bytes);
        for (record, verdict) in decided {
            let sealed = self
                .output
                .seal(record, verdict, arena, tenants, random)
                .map_err(|error| match error {
                    OutputError::Seal(error) => WorkerError::Seal(error),
                    OutputError::Random(error) => WorkerError::Random(error),
                })?;
            if let Some(error) = sealed.refused.filter(|error| *error == SealError::Untranscodable) {
                error!(
                    lane = record.partition,
                    offset = record.offset,
                    %error,
                    "failed to seal a valid event: rejected as a schema violation"
                );
            }
            let Some(lane) = open(lanes, record.partition) else {
                continue;
            };
            lane.account(record, sealed.outcome);
            self.size.records += 1;
            self.size.bytes += record.value.len() + record.key.map_or(0, <[u8]>::len);
            self.last_appended_ms[record.partition as usize] = record.appended_ms;
        }
        Ok(())
    }
}

/// How many records of these sizes fit into `room` bytes: the record that reaches the limit is the last.
fn fitting(sizes: impl Iterator<Item = usize>, room: usize) -> usize {
    let mut taken = 0;
    sizes
        .take_while(|size| {
            let fits = taken < room;
            taken += size;
            fits
        })
        .count()
}

/// The lane of a partition, if it is open and not held.
fn open<S: Source>(lanes: &mut Lanes<S>, partition: i32) -> Option<&mut Lane> {
    let open = lanes.lane(partition).filter(|open| open.hold.is_none())?;
    Some(&mut open.lane)
}

/// Ends each lane's part of the chunk before the first record that waits. Returns the records that go on.
fn cut<'r, 'k, S: Source>(
    lanes: &mut Lanes<S>,
    items: Vec<Keyed<'r, 'k>>,
    cuts: &mut Vec<Cut>,
) -> Vec<Keyed<'r, 'k>> {
    let mut waiting = Vec::new();
    let ready = pipeline::cut(items, &mut waiting, |partition, budget| {
        if let Some(lane) = open(lanes, partition) {
            lane.budget = budget;
        }
    });
    // A lane that waits for a key is read again from there, and meets the error that ended its log then.
    cuts.retain(|cut| waiting.iter().all(|other| other.partition != cut.partition));
    cuts.extend(waiting.into_iter().map(|cut| Cut {
        partition: cut.partition,
        need: Need::Piece(cut.missing),
    }));
    ready
}

/// Decides replays and rates, which depend on each lane's past, in the order of its log.
fn admit<'r, 'k, S: Source>(
    lanes: &mut Lanes<S>,
    keyring: &Keyring,
    items: Vec<Keyed<'r, 'k>>,
) -> Vec<Decided<'r, 'k>> {
    for (_, _, open) in lanes.lanes().filter(|(_, _, open)| open.hold.is_none()) {
        open.lane.admission.learn_classes(keyring.classes());
    }
    let admit = |item: Keyed<'r, 'k>| {
        let lane = open(lanes, item.record.partition)?;
        pipeline::admit(item, &mut lane.admission)
    };
    items.into_iter().filter_map(admit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_that_fills_a_batch_is_its_last() {
        for (sizes, room, count) in [
            (&[3, 3, 3][..], 10, 3),
            (&[3, 3, 3], 9, 3),
            (&[3, 3, 3], 7, 3),
            (&[3, 3, 3], 6, 2),
            (&[30, 3], 6, 1),
            (&[0, 0, 6, 0], 6, 3),
        ] {
            assert_eq!(
                fitting(sizes.iter().copied(), room),
                count,
                "{sizes:?} into {room}"
            );
        }
    }
}
