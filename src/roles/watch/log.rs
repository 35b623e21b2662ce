//! A topic seen from outside: where its partitions begin and where they end.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use tokio::task::spawn_blocking;

/// Timeout of one request to the broker.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// A topic.
#[derive(Clone)]
pub struct Log {
    client: Arc<BaseConsumer>,
    topic: Arc<str>,
}

impl Log {
    /// Observes `topic` with a client of its own.
    ///
    /// # Errors
    ///
    /// When librdkafka refuses the configuration.
    pub fn new(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        Ok(Self {
            client: Arc::new(BaseConsumer::from_config(config)?),
            topic: topic.into(),
        })
    }

    /// Name of the topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The offsets from the first one still in the log up to the last stable offset, exclusive. Control records have
    /// offsets too, so a reader that has read every record is at this end or before it.
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
