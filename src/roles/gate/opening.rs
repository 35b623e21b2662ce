//! Opening a lane: reconciles the group's committed offset, the ledger and the range of the raw log, then rebuilds the
//! replay windows and rates from the log itself. Everything here blocks, so each lane opens on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use backon::{BlockingRetryable, ExponentialBuilder};
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message as _, Offset, Timestamp, TopicPartitionList};
use thiserror::Error;
use tracing::{info, warn};

use super::gate::Gate;
use crate::io::kafka::committed::committed;
use crate::io::kafka::raw::{Messages, Queue};
use crate::io::registry::RegistryFault;
use crate::telemetry::health::HoldCause;
use pulsegate_core::event::Ids;
use pulsegate_core::gate::admit::Admission;
use pulsegate_core::gate::lane::Lane;
use pulsegate_core::gate::verify::Budget;
use pulsegate_core::gate::{Checked, Checker, Rules};
use pulsegate_ledger::entry::{EntryError, Head, Outset, Refusal, Standing};

/// Timeout of one request to the broker.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of records taken at once during a rescan.
const RESCAN_RECORDS: usize = 1000;
/// How many offsets before the end the search for the last ledger record starts; transaction markers take offsets too.
const TAIL_OFFSETS: i64 = 16;
/// How long a rescan waits for a full chunk.
const RESCAN_WAIT: Duration = Duration::from_millis(50);

/// Why a lane did not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The ledger and the group's offsets disagree: an operator has to decide.
    #[error("lane {partition}: {refusal}")]
    Refused {
        /// Partition of the raw topic.
        partition: i32,
        /// The disagreement, and what to do about it.
        refusal: Refusal,
    },
    /// The last ledger record is invalid.
    #[error("lane {partition}: the last ledger record cannot be read: {error}")]
    Ledger {
        /// Partition of the raw topic.
        partition: i32,
        /// Why the record is invalid.
        error: EntryError,
    },
    /// A request to Kafka failed: the lane is opened again later.
    #[error("lane {partition}: a request to Kafka failed: {error}")]
    Kafka {
        /// Partition of the raw topic.
        partition: i32,
        /// The client's error.
        error: KafkaError,
    },
    /// The registry has not resolved the schema of a record in the log: the lane is opened again later.
    #[error("lane {partition}: schema id {id} is not resolved yet: {error}")]
    Schema {
        /// Partition of the raw topic.
        partition: i32,
        /// Id of the schema in the registry.
        id: u32,
        /// Why the registry gave no answer.
        error: RegistryFault,
    },
    /// Opening the lane panicked, which is a defect.
    #[error("lane {partition}: opening the lane panicked; this is a defect, please report it")]
    Panicked {
        /// Partition of the raw topic.
        partition: i32,
    },
    /// The lane was revoked before it was open.
    #[error("lane {partition} was revoked while it was being opened")]
    Cancelled {
        /// Partition of the raw topic.
        partition: i32,
    },
}

impl OpenError {
    /// The service that the lane waits for; `None` if it is not opened again.
    #[must_use]
    pub const fn cause(&self) -> Option<HoldCause> {
        match self {
            Self::Kafka { .. } => Some(HoldCause::Kafka),
            Self::Schema { .. } => Some(HoldCause::SchemaRegistry),
            Self::Refused { .. } | Self::Ledger { .. } | Self::Panicked { .. } | Self::Cancelled { .. } => {
                None
            }
        }
    }

    /// Whether opening the lane again would fail in the same way.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::Ledger { .. } | Self::Panicked { .. }
        )
    }
}

/// Opens `partition`, blocking until it is open; setting `cancelled` ends it early.
///
/// # Errors
///
/// [`OpenError`]; retrying does not help if it [is final](OpenError::is_final).
pub fn open(gate: Arc<Gate>, partition: i32, cancelled: Arc<AtomicBool>) -> Result<Lane, OpenError> {
    answered(partition, || Opening::new(gate, partition, cancelled)?.run())
}

/// Turns a panic into an error: without an answer the worker would wait for this lane forever.
fn answered<T>(partition: i32, open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or(Err(OpenError::Panicked { partition }))
}

struct Opening {
    gate: Arc<Gate>,
    partition: i32,
    cancelled: Arc<AtomicBool>,
    client: BaseConsumer,
}

impl Opening {
    fn new(gate: Arc<Gate>, partition: i32, cancelled: Arc<AtomicBool>) -> Result<Self, OpenError> {
        let client = BaseConsumer::from_config(&gate.settings.opener)
            .map_err(|error| OpenError::Kafka { partition, error })?;
        Ok(Self {
            gate,
            partition,
            cancelled,
            client,
        })
    }

    fn run(&self) -> Result<Lane, OpenError> {
        let started = Instant::now();
        let outset = self.agree()?;
        let position = outset.position();
        let (past, rescanned) = self.rebuild(position)?;
        let lane = Lane::open(
            &self.gate.config.topics.raw,
            self.partition,
            outset,
            past.admission,
            past.budget,
        );
        self.gate.opened(self.partition);
        let elapsed_ms = started.elapsed().as_millis();
        info!(
            lane = self.partition,
            position, rescanned, elapsed_ms, "lane opened"
        );
        Ok(lane)
    }

    /// Retries until the group, the ledger and the log agree: the markers of the last committed transaction may reach
    /// the ledger's partition later, by up to the transaction timeout.
    fn agree(&self) -> Result<Outset, OpenError> {
        let gate = &self.gate;
        let reconcile = |rewind| {
            let refused = |refusal| OpenError::Refused {
                partition: self.partition,
                refusal,
            };
            self.standing()?.reconcile(rewind).map_err(refused)
        };
        let patience = Duration::from_millis(gate.config.gate.transaction_timeout_ms);
        let pace = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .without_max_times()
            .with_total_delay(Some(patience));
        let ask = || reconcile(false);
        let agreed = ask
            .retry(pace)
            .sleep(thread::sleep)
            .when(|error| {
                let passing = matches!(error, OpenError::Refused { refusal, .. } if refusal.may_pass());
                passing && !self.cancelled.load(Ordering::Relaxed)
            })
            .call();
        match agreed {
            // Only after the retries: while the last ledger record is not visible yet, the chain would continue from
            // the record before it.
            Err(OpenError::Refused { .. }) if gate.may_rewind(self.partition) => reconcile(true),
            agreed => agreed,
        }
    }

    fn standing(&self) -> Result<Standing, OpenError> {
        let topics = &self.gate.config.topics;
        // Read the committed offset first: the broker answers only when no transaction has offsets pending here, so
        // the ledger read afterwards cannot be older.
        let committed = self.committed(&topics.raw)?;
        let head = self.head(&topics.ledger)?;
        let (low, high) = self.watermarks(&topics.raw)?;
        Ok(Standing {
            head,
            committed,
            low,
            high,
        })
    }

    fn committed(&self, topic: &str) -> Result<Option<i64>, OpenError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, self.partition);
        let committed = self.kafka(committed(&self.client, list, ASK_TIMEOUT))?;
        Ok(committed.first().and_then(|(_, offset)| *offset))
    }

    fn watermarks(&self, topic: &str) -> Result<(i64, i64), OpenError> {
        self.kafka(self.client.fetch_watermarks(topic, self.partition, ASK_TIMEOUT))
    }

    /// The last record of the lane's ledger partition: searches at the end, then further back while it finds only
    /// transaction markers.
    fn head(&self, topic: &str) -> Result<Option<Head>, OpenError> {
        let (low, high) = self.watermarks(topic)?;
        let mut back = TAIL_OFFSETS;
        loop {
            let from = (high - back).max(low);
            if let Some(value) = self.last_value(topic, from)? {
                let head = Head::after(&value);
                return head.map(Some).map_err(|error| OpenError::Ledger {
                    partition: self.partition,
                    error,
                });
            }
            if from == low {
                return Ok(None);
            }
            back *= 16;
        }
    }

    fn last_value(&self, topic: &str, from: i64) -> Result<Option<Vec<u8>>, OpenError> {
        self.assign(&self.client, topic, from)?;
        let mut last = None;
        loop {
            match self.client.poll(ASK_TIMEOUT) {
                Some(Ok(message)) => last = message.payload().map(<[u8]>::to_vec),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
                Some(Err(error)) => {
                    return Err(OpenError::Kafka {
                        partition: self.partition,
                        error,
                    });
                }
                None => return Err(self.silence()),
            }
        }
    }

    fn assign(&self, client: &BaseConsumer, topic: &str, from: i64) -> Result<(), OpenError> {
        let mut list = TopicPartitionList::new();
        self.kafka(list.add_partition_offset(topic, self.partition, Offset::Offset(from)))?;
        self.kafka(client.assign(&list))
    }

    /// Replays the log from the start of the previous generation up to `position`, which gives the admission the state
    /// that it would have had without a pause (see [`Admission`]).
    fn rebuild(&self, position: i64) -> Result<(Past, u64), OpenError> {
        let mut past = Past {
            admission: self.gate.admission(),
            budget: self.gate.budget(),
            ids: self.gate.knowledge().rules(&self.gate).ids.cloned(),
        };
        let Some(from) = self.rescan_start(position)? else {
            return Ok((past, 0));
        };
        // Use a separate client: one that had the partition assigned before undoes the forwarding when it unassigns it.
        let client = Arc::new(self.kafka(BaseConsumer::from_config(&self.gate.settings.opener))?);
        let topic = &self.gate.config.topics.raw;
        let queue = Queue::new(&client);
        self.kafka(queue.forward(topic, self.partition))?;
        self.assign(&client, topic, from)?;
        let mut messages = Messages::with_capacity(RESCAN_RECORDS);
        let mut checker = Checker::default();
        let (mut rescanned, mut heard) = (0, Instant::now());
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(OpenError::Cancelled {
                    partition: self.partition,
                });
            }
            queue.consume(&mut messages, RESCAN_RECORDS, RESCAN_WAIT);
            if !messages.is_empty() {
                heard = Instant::now();
            } else if heard.elapsed() > ASK_TIMEOUT {
                return Err(self.silence());
            }
            let ended = self.replay(&mut past, &mut checker, &messages, position)?;
            rescanned += messages.len();
            if ended {
                return Ok((past, rescanned as u64));
            }
        }
    }

    /// Replays one chunk. True when it reached `position` or the end of the log.
    fn replay(
        &self,
        past: &mut Past,
        checker: &mut Checker,
        messages: &Messages,
        position: i64,
    ) -> Result<bool, OpenError> {
        let knowledge = self.gate.knowledge();
        let rules = knowledge.rules(&self.gate);
        checker.clear();
        past.admission.learn_classes(knowledge.keys.keyring().classes());
        for message in messages.iter() {
            match message.error() {
                Some(RDKafkaErrorCode::PartitionEOF) => return Ok(true),
                Some(code) => return self.kafka(Err(KafkaError::MessageConsumption(code))),
                None => {}
            }
            let (record, by_broker) = message.received();
            if record.offset >= position {
                return Ok(true);
            }
            // The timestamp is the producer's: no worker admitted this record, and the lane was moved past it.
            if !by_broker {
                continue;
            }
            let Ok(verified) = checker.verify(&record, &rules, &mut past.budget) else {
                continue;
            };
            let bound = loop {
                let ids = past.ids.as_ref();
                match checker.decode(&record, verified, &Rules { ids, ..rules }) {
                    Checked::Admissible(found) => break Some(found.bound),
                    Checked::Rejected(..) | Checked::Violates(..) => break None,
                    Checked::NeedsSchema(id) => self.ask_about_schema(&mut past.ids, id)?,
                }
            };
            if let Some(bound) = bound {
                let (key, time_ms) = (bound.key, record.appended_ms);
                // The verdict does not matter: the call updates the admission's state.
                let _ = past.admission.admit(key.slot, key.class, bound.sequence, time_ms);
            }
        }
        Ok(messages
            .iter()
            .last()
            .is_some_and(|message| message.offset() + 1 >= position))
    }

    /// Resolves a schema id on this thread: if the opening started over after each id, the first of many ids would be
    /// evicted from the cache before the last were resolved.
    fn ask_about_schema(&self, ids: &mut Option<Ids>, id: u32) -> Result<(), OpenError> {
        let verdict = self
            .gate
            .ask_about_schema(id)
            .map_err(|error| OpenError::Schema {
                partition: self.partition,
                id,
                error,
            })?;
        // Senders can make up ids: bound how many are kept.
        let kept = ids
            .take()
            .filter(|ids| ids.len() < self.gate.config.registry.ids_max);
        *ids = Some(kept.unwrap_or_default().with(id, verdict));
        Ok(())
    }

    /// The first offset of the generation before the one of the record at `position`; `None` when there is nothing to
    /// replay before it.
    fn rescan_start(&self, position: i64) -> Result<Option<i64>, OpenError> {
        let topic = &self.gate.config.topics.raw;
        let (low, _) = self.watermarks(topic)?;
        if position <= low {
            return Ok(None);
        }
        let last_ms = match self.timestamp(topic, position - 1)? {
            None => return Ok(None),
            Some(Timestamp::LogAppendTime(last_ms)) => last_ms,
            // A producer's timestamp does not tell how far back the generation began.
            Some(_) => return Ok(Some(low)),
        };
        let start_ms = self.gate.rebuild_start_ms(last_ms);
        let mut list = TopicPartitionList::new();
        self.kafka(list.add_partition_offset(topic, self.partition, Offset::Offset(start_ms)))?;
        let found = self.kafka(self.client.offsets_for_times(list, ASK_TIMEOUT))?;
        let offset = found.elements().first().map(|element| element.offset());
        match offset {
            Some(Offset::Offset(offset)) if offset < position => Ok(Some(offset.max(low))),
            _ => Ok(None),
        }
    }

    /// Timestamp of the first record at or after `offset`, since offsets may be missing; `None` at the end of the log.
    fn timestamp(&self, topic: &str, offset: i64) -> Result<Option<Timestamp>, OpenError> {
        self.assign(&self.client, topic, offset)?;
        match self.client.poll(ASK_TIMEOUT) {
            Some(Ok(message)) => Ok(Some(message.timestamp())),
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(None),
            Some(Err(error)) => Err(OpenError::Kafka {
                partition: self.partition,
                error,
            }),
            None => Err(self.silence()),
        }
    }

    fn kafka<T>(&self, result: Result<T, KafkaError>) -> Result<T, OpenError> {
        result.map_err(|error| OpenError::Kafka {
            partition: self.partition,
            error,
        })
    }

    fn silence(&self) -> OpenError {
        OpenError::Kafka {
            partition: self.partition,
            error: KafkaError::NoMessageReceived,
        }
    }
}

/// A lane's state as rebuilt from its log.
struct Past {
    admission: Admission,
    budget: Budget,
    /// The registry's answers about schema ids, if there is a registry; including those that have expired meanwhile.
    ids: Option<Ids>,
}

/// Logs a failed opening: an error if an operator has to act, a warning if the lane is opened again.
pub fn report(error: &OpenError) {
    match error {
        OpenError::Refused { .. } | OpenError::Ledger { .. } | OpenError::Panicked { .. } => {
            tracing::error!(%error, "failed to open a lane: an operator has to act");
        }
        OpenError::Kafka { .. } | OpenError::Schema { .. } => {
            warn!(%error, "failed to open a lane: retrying")
        }
        OpenError::Cancelled { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_opening_is_a_final_error() {
        let opened = answered(3, || -> Result<(), _> { panic!("a bug") });
        let Err(error @ OpenError::Panicked { partition: 3 }) = opened else {
            panic!("{opened:?}");
        };
        assert!(error.is_final());
    }
}
