//! A topic asked from outside: how many partitions it has, where they begin and where they end.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use tokio::task::spawn_blocking;

/// How long one question to the broker may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// A topic of so many partitions.
#[derive(Clone)]
pub struct Log {
    client: Arc<BaseConsumer>,
    topic: Arc<str>,
    partitions: usize,
}

impl Log {
    /// Looks at `topic` with a client of its own.
    ///
    /// # Errors
    ///
    /// When librdkafka refuses the configuration.
    pub fn new(config: &ClientConfig, topic: &str, partitions: usize) -> KafkaResult<Self> {
        Ok(Self {
            client: Arc::new(BaseConsumer::from_config(config)?),
            topic: topic.into(),
            partitions,
        })
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    /// From the first offset that is still there to the one behind the last that is stable. Control records have offsets
    /// too, so whoever has read a partition to its end stands at its end or before it.
    ///
    /// # Errors
    ///
    /// When no broker answers.
    pub async fn offsets(&self, partition: i32) -> KafkaResult<Range<i64>> {
        let Self { client, topic, .. } = self.clone();
        let asked = spawn_blocking(move || client.fetch_watermarks(&topic, partition, ASK_TIMEOUT));
        let answer = asked.await.map_err(|_| KafkaError::Canceled)?;
        answer.map(|(low, high)| low..high)
    }
}
