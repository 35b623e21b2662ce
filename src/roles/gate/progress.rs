//! Progress of a consumer group, seen from outside.

use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;

use crate::config::Config;
use crate::io::kafka::committed::committed;

/// Timeout of one request to the broker.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Observes the gate's group.
pub struct Watcher {
    client: BaseConsumer,
    topic: String,
}

/// Progress of a group on its topic, summed over the partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Number of offsets in the log that are committed.
    pub settled: u64,
    /// Number of offsets in the log that are not committed yet.
    pub behind: u64,
}

impl Watcher {
    /// Observes the configured group on the raw topic.
    ///
    /// # Errors
    ///
    /// When librdkafka refuses the configuration.
    pub fn new(config: &Config) -> KafkaResult<Self> {
        let mut client = config.kafka.client();
        client
            .set("group.id", &config.gate.group)
            .set("isolation.level", "read_committed");
        Ok(Self {
            client: BaseConsumer::from_config(&client)?,
            topic: config.topics.raw.clone(),
        })
    }

    /// Asks the brokers for the current progress.
    ///
    /// # Errors
    ///
    /// When a broker does not answer.
    pub fn look(&self) -> KafkaResult<Progress> {
        let metadata = self.client.fetch_metadata(Some(&self.topic), ASK_TIMEOUT)?;
        let mut list = TopicPartitionList::new();
        for partition in metadata
            .topics()
            .iter()
            .flat_map(rdkafka::metadata::MetadataTopic::partitions)
        {
            list.add_partition(&self.topic, partition.id());
        }
        let mut progress = Progress {
            settled: 0,
            behind: 0,
        };
        for (partition, next) in committed(&self.client, list, ASK_TIMEOUT)? {
            let (low, high) = self
                .client
                .fetch_watermarks(&self.topic, partition, ASK_TIMEOUT)?;
            let next = next.unwrap_or(low);
            progress.settled += (next - low).max(0).cast_unsigned();
            progress.behind += (high - next).max(0).cast_unsigned();
        }
        Ok(progress)
    }
}
