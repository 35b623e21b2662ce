//! Filling: the open batch, and the stages that records pass through on their way into it.
//!
//! Records are taken in chunks and go through the stages a chunk at a time, each stage over all records of the chunk:
//!
//! ```text
//! take ─▶ verify ─▶ decode ─▶ subject keys ─▶ admit ─▶ seal ─▶ account
//! ```
//!
//! Up to the subject keys every change can be undone. Where something of ours is missing (a key, a schema) the lane is
//! cut: the records before that point go on, the others are taken again when the lane resumes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::gate::{Gate, Knowledge};
use super::slot::{Need, Slot};
use super::worker::WorkerError;
use crate::io::kafka::consumer::Consumer;
use crate::io::kafka::raw::{Message, Messages};
use crate::io::vault;
use crate::telemetry::metrics::Stage;
use pulsegate_core::crypto::keys::SubjectKey;
use pulsegate_core::event::Violation;
use pulsegate_core::gate::keyring::{Key, Keyring};
use pulsegate_core::gate::lane::Lane;
use pulsegate_core::gate::seal::{Event, Keys, NONCES, Nonces, SealError, SealedBatch, Sealer};
use pulsegate_core::gate::verify::{Budget, Rejection, Verified};
use pulsegate_core::gate::{Admissible, Checked, Checker, Rules};
use pulsegate_ledger::outcome::{Outcome, Reason};
use pulsegate_ledger::record::Received;

/// How many records go through the stages at once: few enough that they stay in the processor's cache between stages,
/// many enough that a round trip for missing subject keys is shared.
const CHUNK_RECORDS: usize = 256;
/// Minimum time between two warnings about invalid events of one lane.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// The open batch.
pub struct Filling {
    messages: Messages,
    checker: Checker,
    sealer: Sealer,
    nonces: Nonces,
    batch: SealedBatch,
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
    fn violation(&mut self, record: &Received, violation: &Violation) {
        let Some(last) = self.0.get_mut(record.partition as usize) else {
            return;
        };
        if last.is_none_or(|last| last.elapsed() >= WARNING_PAUSE) {
            *last = Some(Instant::now());
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

/// A record on its way through the stages, with the result of the last stage.
struct Item<'r, S> {
    record: Received<'r>,
    /// The lane's budget before this record, restored when the lane is cut here.
    budget: Budget,
    stage: S,
}

impl<'r, S> Item<'r, S> {
    fn map<T>(self, next: impl FnOnce(&Received<'r>, S) -> T) -> Item<'r, T> {
        Item {
            stage: next(&self.record, self.stage),
            record: self.record,
            budget: self.budget,
        }
    }
}

/// A record's result after the stages that do not depend on the lane's past.
enum Keyed<'k> {
    Ready(Admissible<'k>, Arc<SubjectKey>),
    Rejected(Reason, Option<Key<'k>>),
    Waiting(Need),
}

/// The final decision about a record.
enum Verdict<'k> {
    Admitted(Admissible<'k>, Arc<SubjectKey>),
    Duplicate,
    Rejected(Reason, Option<Key<'k>>),
}

impl Filling {
    /// An empty batch.
    ///
    /// # Errors
    ///
    /// When a topic's name does not fit into an encryption context.
    pub fn new(gate: &Gate) -> Result<Self, pulsegate_core::crypto::envelope::TooLong> {
        Ok(Self::with(gate.sealer()?, gate.partitions()))
    }

    fn with(sealer: Sealer, partitions: usize) -> Self {
        Self {
            messages: Messages::with_capacity(CHUNK_RECORDS),
            checker: Checker::default(),
            sealer,
            nonces: Nonces::new(),
            batch: SealedBatch::default(),
            size: Size::default(),
            begun: None,
            last_appended_ms: vec![0; partitions],
            warnings: Warnings(vec![None; partitions]),
        }
    }

    /// Starts the batch's clock, unless it is running.
    pub fn begin(&mut self) {
        self.begun.get_or_insert_with(Instant::now);
    }

    /// Whether the batch has reached its limit of records or bytes.
    #[must_use]
    pub fn is_full(&self, gate: &Gate) -> bool {
        let limits = &gate.config.gate.batch;
        self.size.records >= limits.records_max || self.size.bytes >= limits.bytes_max
    }

    /// Time left until the batch is due; `None` when it is empty.
    #[must_use]
    pub fn patience(&self, gate: &Gate) -> Option<Duration> {
        let limit = Duration::from_millis(gate.config.gate.batch.time_max_ms);
        self.begun.map(|begun| limit.saturating_sub(begun.elapsed()))
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
        self.nonces.discard();
        (
            std::mem::replace(&mut self.batch, spare),
            std::mem::take(&mut self.size),
        )
    }

    /// Discards the open batch.
    pub fn clear(&mut self) {
        self.nonces.discard();
        self.batch.clear();
        self.size = Size::default();
        self.begun = None;
    }

    /// Takes the next chunk and returns its number of records. An empty batch waits for a single record, so that its
    /// clock starts with it. Records that the last batch had no room for come first.
    pub fn take(&mut self, consumer: &Consumer, gate: &Gate, patience: Duration) -> usize {
        if self.messages.is_empty() {
            self.consume(consumer, gate, patience);
        }
        if !self.messages.is_empty() {
            self.begin();
        }
        self.messages.len()
    }

    fn consume(&mut self, consumer: &Consumer, gate: &Gate, patience: Duration) {
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

    /// Sends the taken chunk through the stages, as far as the batch has room. Returns the lanes that were cut.
    ///
    /// # Errors
    ///
    /// [`WorkerError`] when a record carries its producer's timestamp or cannot be sealed: the batch must not commit.
    pub fn process(&mut self, gate: &Arc<Gate>, slots: &mut [Slot]) -> Result<Vec<Cut>, WorkerError> {
        let knowledge = gate.knowledge();
        self.size.key_rev = knowledge.keys.revision();
        // Borrowed by the items, while the other fields change.
        let mut messages = std::mem::replace(&mut self.messages, Messages::with_capacity(0));
        let room = gate.config.gate.batch.bytes_max.saturating_sub(self.size.bytes);
        let count = fitting(messages.iter().map(Message::bytes), room);
        let result = self.stages(gate, &knowledge, slots, messages.iter().take(count));
        messages.release(count);
        self.messages = messages;
        result
    }

    fn stages<'r>(
        &mut self,
        gate: &Arc<Gate>,
        knowledge: &Knowledge,
        slots: &mut [Slot],
        messages: impl Iterator<Item = Message<'r>>,
    ) -> Result<Vec<Cut>, WorkerError> {
        let rules = knowledge.rules(gate);
        self.checker.clear();
        let mut since = Instant::now();
        let mut cuts = Vec::new();
        let verified = self.verify(messages, &rules, slots, &mut cuts)?;
        self.spent(Stage::Verify, &mut since);
        let checked = self.decode(&rules, verified);
        // Resolve the ids of all records, not only of the first in each lane: each later id would cost another hold.
        gate.resolve_schemas(checked.iter().filter_map(|item| match item.stage {
            Checked::NeedsSchema(id) => Some(id),
            Checked::Admissible(_) | Checked::Rejected(..) | Checked::Violates(..) => None,
        }));
        self.spent(Stage::Decode, &mut since);
        let ready = cut(slots, self.find_keys(gate, checked), &mut cuts);
        self.spent(Stage::Keys, &mut since);
        let decided = admit(slots, knowledge.keys.keyring(), ready);
        self.spent(Stage::Admit, &mut since);
        self.seal(knowledge, slots, &decided)?;
        self.spent(Stage::Seal, &mut since);
        Ok(cuts)
    }

    fn spent(&mut self, stage: Stage, since: &mut Instant) {
        let now = Instant::now();
        self.size.stages[stage as usize] += now - *since;
        *since = now;
    }

    /// Skips the records of lanes that are not open: they are taken again when the lane opens.
    fn verify<'r, 'k>(
        &mut self,
        messages: impl Iterator<Item = Message<'r>>,
        rules: &Rules<'k>,
        slots: &mut [Slot],
        cuts: &mut Vec<Cut>,
    ) -> Result<Vec<Item<'r, Result<Verified<'k>, Rejection<'k>>>>, WorkerError> {
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
            let Some(lane) = open(slots, partition) else {
                continue;
            };
            let (record, by_broker) = message.received();
            if !by_broker {
                return Err(WorkerError::Timestamps {
                    partition,
                    offset: record.offset,
                });
            }
            let budget = lane.budget;
            let stage = self.checker.verify(&record, rules, &mut lane.budget);
            items.push(Item {
                record,
                budget,
                stage,
            });
        }
        Ok(items)
    }

    fn decode<'r, 'k>(
        &mut self,
        rules: &Rules<'k>,
        items: Vec<Item<'r, Result<Verified<'k>, Rejection<'k>>>>,
    ) -> Vec<Item<'r, Checked<'k>>> {
        let mut decode = |record: &Received<'r>, verified| match verified {
            Ok(verified) => self.checker.decode(record, verified, rules),
            Err(Rejection { reason, signer }) => Checked::Rejected(reason, signer),
        };
        items.into_iter().map(|item| item.map(&mut decode)).collect()
    }

    /// Finds the key of each record's subject. Keys that are not in memory are fetched or created together, in one
    /// round trip.
    fn find_keys<'r, 'k>(
        &mut self,
        gate: &Gate,
        items: Vec<Item<'r, Checked<'k>>>,
    ) -> Vec<Item<'r, Keyed<'k>>> {
        let arena = self.checker.arena();
        let subject_of = |record: &Received<'r>, checked: &Checked<'k>| match checked {
            Checked::Admissible(found) => {
                Some((found.bound.key.tenant, found.walk.subject.of(record.value, arena)))
            }
            Checked::Rejected(..) | Checked::Violates(..) | Checked::NeedsSchema(_) => None,
        };
        let mut missing = Vec::new();
        let mut keys = Vec::with_capacity(items.len());
        for item in &items {
            let subject = subject_of(&item.record, &item.stage);
            let key = subject.and_then(|(tenant, id)| gate.subject_key(tenant, id));
            if key.is_none() {
                missing.extend(subject);
            }
            keys.push(key);
        }
        gate.count_key_lookups(keys.iter().flatten().count(), missing.len());
        if !missing.is_empty() {
            gate.fetch_subject_keys(&missing);
        }
        let warnings = &mut self.warnings;
        let mut find = |record: &Received<'r>, checked, key: Option<Arc<SubjectKey>>| match checked {
            Checked::Rejected(reason, signer) => Keyed::Rejected(reason, signer),
            Checked::Violates(violation, signer) => {
                warnings.violation(record, &violation);
                Keyed::Rejected(violation.reason(), Some(signer))
            }
            Checked::NeedsSchema(id) => Keyed::Waiting(Need::Schema(id)),
            Checked::Admissible(found) => {
                let fetched =
                    || gate.subject_key(found.bound.key.tenant, found.walk.subject.of(record.value, arena));
                let key = key.or_else(fetched);
                key.map_or(Keyed::Waiting(Need::SubjectKeys), |key| Keyed::Ready(found, key))
            }
        };
        let items = items.into_iter().zip(keys);
        items
            .map(|(item, key)| item.map(|record, checked| find(record, checked, key)))
            .collect()
    }

    /// Seals every record into the batch, and accounts for it.
    fn seal(
        &mut self,
        knowledge: &Knowledge,
        slots: &mut [Slot],
        decided: &[(Received<'_>, Verdict<'_>)],
    ) -> Result<(), WorkerError> {
        for (record, verdict) in decided {
            let outcome = loop {
                match self.seal_one(&knowledge.keys, record, verdict) {
                    Err(SealError::Nonces) => {
                        self.nonces
                            .refill(NONCES, getrandom::fill)
                            .map_err(WorkerError::Random)?;
                    }
                    result => break result.map_err(WorkerError::Seal)?,
                }
            };
            let Some(lane) = open(slots, record.partition) else {
                continue;
            };
            lane.account(record, outcome);
            self.size.records += 1;
            self.size.bytes += record.value.len() + record.key.map_or(0, <[u8]>::len);
            self.last_appended_ms[record.partition as usize] = record.appended_ms;
        }
        Ok(())
    }

    fn seal_one(
        &mut self,
        keys: &vault::Keys,
        record: &Received<'_>,
        verdict: &Verdict<'_>,
    ) -> Result<Outcome, SealError> {
        let (reason, signer) = match verdict {
            Verdict::Admitted(found, subject) => {
                let Admissible { bound, plan, walk } = found;
                let event = Event {
                    plan,
                    walk,
                    arena: self.checker.arena(),
                };
                let tenant = keys.tenant(bound.key.tenant).ok_or(SealError::Tenant)?;
                let keys = Keys {
                    tenant,
                    subject,
                    device_token: bound.key.device_token,
                };
                match self
                    .sealer
                    .seal_clean(record, event, keys, &mut self.nonces, &mut self.batch)
                {
                    Ok(()) => return Ok(Outcome::Clean),
                    Err(error) => {
                        let reason = error.reason().ok_or(error)?;
                        if error == SealError::Untranscodable {
                            error!(
                                lane = record.partition,
                                offset = record.offset,
                                %error,
                                "failed to seal a valid event: rejected as a schema violation"
                            );
                        }
                        (reason, Some(found.bound.key))
                    }
                }
            }
            Verdict::Duplicate => return Ok(Outcome::Duplicate),
            Verdict::Rejected(reason, signer) => (*reason, *signer),
        };
        let quarantine = keys.quarantine(signer.map(|key| key.tenant));
        let device = signer.map(|key| key.device);
        self.sealer.seal_deadletter(
            record,
            reason,
            device,
            &quarantine,
            &mut self.nonces,
            &mut self.batch,
        )?;
        Ok(reason.into())
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

/// The lane of a partition, if it is open.
fn open(slots: &mut [Slot], partition: i32) -> Option<&mut Lane> {
    match usize::try_from(partition)
        .ok()
        .and_then(|index| slots.get_mut(index))
    {
        Some(Slot::Open(lane)) => Some(lane),
        _ => None,
    }
}

/// Ends each lane's part of the chunk before the first record that has to wait, and restores the budget that it and
/// the records behind it have spent. Returns the records that go on.
fn cut<'r, 'k>(
    slots: &mut [Slot],
    items: Vec<Item<'r, Keyed<'k>>>,
    cuts: &mut Vec<Cut>,
) -> Vec<Item<'r, Keyed<'k>>> {
    let mut waiting: Vec<Cut> = Vec::new();
    let mut ready = Vec::with_capacity(items.len());
    for item in items {
        let partition = item.record.partition;
        if waiting.iter().any(|cut| cut.partition == partition) {
            continue;
        }
        let Keyed::Waiting(need) = item.stage else {
            ready.push(item);
            continue;
        };
        if let Some(lane) = open(slots, partition) {
            lane.budget = item.budget;
        }
        waiting.push(Cut { partition, need });
    }
    // A lane that waits for a key is read again from there, and meets the error that ended its log then.
    cuts.retain(|cut| waiting.iter().all(|other| other.partition != cut.partition));
    cuts.append(&mut waiting);
    ready
}

/// Decides replays and rates, which depend on each lane's past, in the order of its log.
fn admit<'r, 'k>(
    slots: &mut [Slot],
    keyring: &Keyring,
    items: Vec<Item<'r, Keyed<'k>>>,
) -> Vec<(Received<'r>, Verdict<'k>)> {
    for slot in slots.iter_mut() {
        if let Slot::Open(lane) = slot {
            lane.admission.learn_classes(keyring.classes());
        }
    }
    let mut decided = Vec::with_capacity(items.len());
    for Item { record, stage, .. } in items {
        let verdict = match stage {
            Keyed::Ready(found, key) => {
                let Some(lane) = open(slots, record.partition) else {
                    continue;
                };
                let bound = &found.bound;
                match lane.admission.admit(
                    bound.key.slot,
                    bound.key.class,
                    bound.sequence,
                    record.appended_ms,
                ) {
                    Ok(_) => Verdict::Admitted(found, key),
                    Err(Outcome::Rejected(reason)) => Verdict::Rejected(reason, Some(found.bound.key)),
                    Err(Outcome::Duplicate | Outcome::Clean) => Verdict::Duplicate,
                }
            }
            Keyed::Rejected(reason, signer) => Verdict::Rejected(reason, signer),
            Keyed::Waiting(_) => continue,
        };
        decided.push((record, verdict));
    }
    decided
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulsegate_core::gate::seal::Topics;

    fn filling() -> Filling {
        let topics = Topics {
            raw: "raw",
            clean: "clean",
            deadletter: "deadletter",
        };
        let sealer = Sealer::new("test", topics).expect("short names");
        Filling::with(sealer, 1)
    }

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

    #[test]
    fn no_nonce_outlives_its_batch() {
        let mut filling = filling();
        let end: [fn(&mut Filling); 2] = [
            |filling| drop(filling.close(SealedBatch::default())),
            Filling::clear,
        ];
        for end in end {
            filling.nonces.refill(9, getrandom::fill).expect("random bytes");
            end(&mut filling);
            assert_eq!(filling.nonces.left(), 0);
        }
    }
}
