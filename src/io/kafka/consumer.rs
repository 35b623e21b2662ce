//! The worker's consumer: group membership through the safe wrapper, records through one queue of our own.
//!
//! Rebalances are only noted while polling and answered by the worker afterwards, when it can finish or drop the
//! transaction that they concern: librdkafka waits for the answer (`RD_KAFKA_EVENT_REBALANCE`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use tracing::warn;

use super::raw::{Messages, Queue};

/// How long librdkafka may take to apply a seek.
const SEEK_TIMEOUT: Duration = Duration::from_secs(10);

/// What the group coordinator asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Rebalance {
    /// These partitions are now assigned to this consumer.
    Assign(Vec<i32>),
    /// These partitions are reassigned to another consumer.
    Revoke {
        /// Partitions of the topic.
        partitions: Vec<i32>,
        /// The reassignment has already happened: what was consumed from them must not be committed.
        lost: bool,
    },
}

/// A consumer of the raw topic. It never commits by itself.
pub struct Consumer {
    queue: Queue<Events>,
    client: Arc<BaseConsumer<Events>>,
    topic: String,
}

impl Consumer {
    /// Joins the group of `config` and subscribes to `topic`.
    ///
    /// # Errors
    ///
    /// When librdkafka refuses the configuration.
    pub fn subscribe(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        let client = Arc::new(BaseConsumer::from_config_and_context(config, Events::new(topic))?);
        let queue = Queue::new(&client);
        client.subscribe(&[topic])?;
        Ok(Self {
            queue,
            client,
            topic: topic.to_owned(),
        })
    }

    /// Serves the group protocol without waiting. Returns a fatal error, after which the consumer is unusable.
    pub fn serve(&self) -> Option<KafkaError> {
        loop {
            match self.client.poll(Duration::ZERO) {
                None => return None,
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Some(error),
                Some(Err(error)) => warn!(%error, "librdkafka reported an error of the consumer"),
                // Fetched before its queue was forwarded. Nothing is lost: lanes seek before they begin.
                Some(Ok(_)) => {}
            }
        }
    }

    /// Takes the oldest rebalance that is not answered yet.
    pub fn rebalance(&self) -> Option<Rebalance> {
        self.events()
            .rebalances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// Whether, since the last call, the next offset of a partition was missing from its log, for example because
    /// retention deleted it. librdkafka does not tell a consumer of batches which partition it was.
    pub fn take_gap(&self) -> bool {
        self.events().gap.swap(false, Ordering::AcqRel)
    }

    /// Takes the partitions, paused: [`Consumer::start`] gives them an offset.
    ///
    /// The offset here is never fetched from, but it must be a number. For `End` librdkafka asks the broker, and an
    /// answer that a seek has overtaken makes it ask again (`outdated offset response`): half a second after the seek
    /// the partition jumps to its end, and the records between are silently skipped.
    ///
    /// # Errors
    ///
    /// When librdkafka does not know the partitions.
    pub fn assign(&self, partitions: &[i32]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for &partition in partitions {
            self.queue.forward(&self.topic, partition)?;
            list.add_partition_offset(&self.topic, partition, Offset::Offset(0))?;
        }
        // Pausing comes first, or a fetch could already be on its way. Forwarding has made the partitions known.
        self.client.pause(&list)?;
        self.client.incremental_assign(&list)
    }

    /// Gives the partitions back.
    ///
    /// # Errors
    ///
    /// When librdkafka does not know the partitions.
    pub fn unassign(&self, partitions: &[i32]) -> KafkaResult<()> {
        self.client.incremental_unassign(&self.list(partitions))
    }

    /// Stops fetching a partition.
    ///
    /// # Errors
    ///
    /// When it is not assigned.
    pub fn pause(&self, partition: i32) -> KafkaResult<()> {
        self.client.pause(&self.list(&[partition]))
    }

    /// Fetches a partition from `offset` on. What was fetched before is never delivered: a seek is a barrier.
    ///
    /// # Errors
    ///
    /// When it is not assigned, or the assignment is not applied yet: call again.
    pub fn start(&self, partition: i32, offset: i64) -> KafkaResult<()> {
        if let Err(refused) = self
            .client
            .seek(&self.topic, partition, Offset::Offset(offset), SEEK_TIMEOUT)
        {
            // A partition that librdkafka has stopped, for example because its next offset was deleted, takes no seek
            // until it is reassigned. The error that says so is lost if a seek was already on its way. Reassigning is
            // local: the group does not notice.
            self.unassign(&[partition])?;
            self.assign(&[partition])?;
            return Err(refused);
        }
        // Forward again: if the partition was ours before, librdkafka stopped it only after `assign` had returned, and
        // a stop undoes the forwarding (`rd_kafka_toppar_fetch_stop`). After a seek no stop is pending.
        self.queue.forward(&self.topic, partition)?;
        self.client.resume(&self.list(&[partition]))
    }

    /// Takes up to `records_max` fetched messages, waiting at most `timeout` for as many.
    pub fn consume(&self, messages: &mut Messages, records_max: usize, timeout: Duration) {
        self.queue.consume(messages, records_max, timeout);
    }

    /// This consumer's current group metadata.
    #[must_use]
    pub fn group(&self) -> Option<ConsumerGroupMetadata> {
        self.client.group_metadata()
    }

    /// The last stable offset of each partition, if librdkafka has reported them since the last call.
    pub fn take_stable_offsets(&self) -> Option<BTreeMap<i32, i64>> {
        self.events()
            .stable_offsets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        list
    }

    fn events(&self) -> &Events {
        self.client.context()
    }
}

impl Drop for Consumer {
    /// Leaving the group revokes the remaining partitions. The callback answers that itself, since polling has ended.
    fn drop(&mut self) {
        self.events().closing.store(true, Ordering::Release);
        // Answer pending rebalances: librdkafka does not leave the group before.
        while let Some(rebalance) = self.rebalance() {
            let answered = match rebalance {
                Rebalance::Assign(partitions) => self.client.incremental_assign(&self.list(&partitions)),
                Rebalance::Revoke { partitions, .. } => self.unassign(&partitions),
            };
            if let Err(error) = answered {
                warn!(%error, "failed to answer a rebalance while leaving the group");
            }
        }
    }
}

/// Events that librdkafka reports between records.
struct Events {
    topic: String,
    rebalances: Mutex<VecDeque<Rebalance>>,
    stable_offsets: Mutex<Option<BTreeMap<i32, i64>>>,
    gap: AtomicBool,
    closing: AtomicBool,
}

impl Events {
    fn new(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            rebalances: Mutex::default(),
            stable_offsets: Mutex::default(),
            gap: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }
}

impl ClientContext for Events {
    fn error(&self, error: KafkaError, reason: &str) {
        warn!(%error, reason, "librdkafka reported an error of the consumer");
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
            self.gap.store(true, Ordering::Release);
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<Statistics>(statistics) {
            Ok(statistics) => {
                let offsets = statistics.stable_offsets(&self.topic);
                *self.stable_offsets.lock().unwrap_or_else(PoisonError::into_inner) = Some(offsets);
            }
            Err(error) => warn!(%error, "failed to parse librdkafka's statistics: lag is not updated"),
        }
    }
}

impl ConsumerContext for Events {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<_> = list
            .elements()
            .iter()
            .map(|element| element.partition())
            .collect();
        let assigns = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let rebalance = if self.closing.load(Ordering::Acquire) {
            let answered = if assigns {
                consumer.incremental_assign(list)
            } else {
                consumer.incremental_unassign(list)
            };
            if let Err(error) = answered {
                warn!(%error, "failed to answer a rebalance while leaving the group");
            }
            return;
        } else if assigns {
            Rebalance::Assign(partitions)
        } else {
            Rebalance::Revoke {
                partitions,
                lost: consumer.assignment_lost(),
            }
        };
        self.rebalances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(rebalance);
    }
}

/// The part of librdkafka's statistics that is used here (`STATISTICS.md`).
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: BTreeMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: BTreeMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    ls_offset: i64,
}

impl Statistics {
    fn stable_offsets(self, topic: &str) -> BTreeMap<i32, i64> {
        let partitions = self
            .topics
            .into_iter()
            .filter(|(name, _)| name == topic)
            .flat_map(|(_, of)| of.partitions);
        let numbered = partitions.filter_map(|(id, of)| Some((id.parse().ok()?, of.ls_offset)));
        numbered
            .filter(|&(id, stable): &(i32, i64)| id >= 0 && stable >= 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_partitions_of_the_topic_with_a_known_offset_are_reported() {
        let statistics = br#"{"name":"x","topics":{
            "raw":{"topic":"raw","partitions":{
                "-1":{"ls_offset":0},"0":{"ls_offset":7,"more":1},"1":{"ls_offset":-1001}}},
            "other":{"partitions":{"0":{"ls_offset":9}}}}}"#;
        let statistics: Statistics = serde_json::from_slice(statistics).expect("statistics");
        assert_eq!(statistics.stable_offsets("raw"), BTreeMap::from([(0, 7)]));
    }
}
