//! What every subcommand needs of Kafka: an address, clients with sane settings, and errors that say what to do next.

mod headers;
mod producer;
mod reader;

use std::collections::BTreeMap;
use std::time::Duration;

use backon::{BlockingRetryable, ConstantBuilder};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

pub use headers::{captured, each_header, owned_headers};
pub use producer::Producer;
pub use reader::{Range, ReadError, offsets_at, read_all, watermarks};

/// How long a broker has to answer a metadata or watermark question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The address of a cluster.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// `bootstrap.servers`.
    pub brokers: String,
    /// Further librdkafka settings (security, for instance), applied last.
    pub settings: BTreeMap<String, String>,
}

/// Kafka could not be reached, or refused.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// No broker answered.
    #[error("no Kafka broker answered at {brokers} ({cause}); is it running, and is the address right?")]
    Unreachable {
        /// The address that was tried.
        brokers: String,
        /// What librdkafka said.
        cause: rdkafka::error::KafkaError,
    },
    /// The topic does not exist.
    #[error("topic `{0}` does not exist; create it (`pulsegate topology apply`) or name another")]
    NoTopic(String),
    /// A setting that librdkafka does not take.
    #[error("librdkafka refused the settings: {0}")]
    Settings(rdkafka::error::KafkaError),
    /// A record could not be delivered.
    #[error("{failed} of {sent} records could not be delivered to `{topic}`, the first because: {cause}")]
    Undelivered {
        /// The topic.
        topic: String,
        /// Records that were refused or timed out.
        failed: u64,
        /// Records that were sent.
        sent: u64,
        /// Whether the broker refused the first one, rather than not answer.
        refused: bool,
        /// The first failure.
        cause: String,
    },
}

impl Kafka {
    /// A cluster without further settings.
    pub fn at(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            settings: BTreeMap::new(),
        }
    }

    /// A client configuration with the address and the user's settings.
    fn config(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in own {
            config.set(*name, *value);
        }
        for (name, value) in &self.settings {
            config.set(name, value);
        }
        // The library's own chatter about brokers goes through the `log` crate, which nobody reads here.
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Critical);
        config
    }

    /// A consumer that belongs to no group and commits nothing.
    fn consumer(&self, own: &[(&str, &str)]) -> Result<BaseConsumer, KafkaError> {
        let common = [
            ("group.id", "pulsegate-loadtest"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", "read_committed"),
            ("enable.partition.eof", "true"),
            ("fetch.wait.max.ms", "10"),
        ];
        self.config(&[&common, own].concat())
            .create()
            .map_err(KafkaError::Settings)
    }

    /// How many partitions a topic has.
    ///
    /// # Errors
    /// When no broker answers, or the topic does not exist.
    pub fn partitions(&self, topic: &str) -> Result<i32, KafkaError> {
        let consumer = self.consumer(&[])?;
        self.partitions_by(&consumer, topic)
    }

    /// A topic that was created a moment ago may not be known to every broker yet, so its absence is asked for again.
    fn partitions_by(&self, consumer: &BaseConsumer, topic: &str) -> Result<i32, KafkaError> {
        let ask = || {
            let metadata = consumer
                .fetch_metadata(Some(topic), ANSWER_TIMEOUT)
                .map_err(|cause| self.unreachable(cause))?;
            let count = metadata
                .topics()
                .iter()
                .find(|t| t.name() == topic)
                .map_or(0, |t| t.partitions().len());
            match i32::try_from(count) {
                Ok(partitions) if partitions > 0 => Ok(partitions),
                _ => Err(KafkaError::NoTopic(topic.to_owned())),
            }
        };
        let patience = ConstantBuilder::default()
            .with_delay(Duration::from_millis(100))
            .with_max_times(20);
        ask.retry(patience)
            .when(|error| matches!(error, KafkaError::NoTopic(_)))
            .call()
    }

    fn unreachable(&self, cause: rdkafka::error::KafkaError) -> KafkaError {
        KafkaError::Unreachable {
            brokers: self.brokers.clone(),
            cause,
        }
    }
}
