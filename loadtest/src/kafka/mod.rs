//! Kafka access for every subcommand: an address, client settings, and errors that say what to do next.

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

/// How long a broker may take to answer a metadata or watermark request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Address of a cluster.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// `bootstrap.servers`.
    pub brokers: String,
    /// Additional librdkafka settings (security, for instance), applied last.
    pub settings: BTreeMap<String, String>,
}

/// Kafka could not be reached, or refused a request.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// No broker answered.
    #[error("no Kafka broker answered at {brokers} ({cause}); is it running, and is the address right?")]
    Unreachable {
        /// Address that was tried.
        brokers: String,
        /// librdkafka's error.
        cause: rdkafka::error::KafkaError,
    },
    /// The topic does not exist.
    #[error("topic `{0}` does not exist; create it (`pulsegate topology apply`) or name another")]
    NoTopic(String),
    /// librdkafka refused a setting.
    #[error("librdkafka refused the settings: {0}; check the --kafka-set options")]
    Settings(rdkafka::error::KafkaError),
    /// A record could not be delivered.
    #[error("failed to deliver {failed} of {sent} records to `{topic}`; the first error: {cause}")]
    Undelivered {
        /// Destination topic.
        topic: String,
        /// Number of records that were refused or timed out.
        failed: u64,
        /// Number of records sent.
        sent: u64,
        /// Whether the broker refused the first failed record, as opposed to not answering.
        refused: bool,
        /// The first failure, as text.
        cause: String,
    },
}

impl Kafka {
    /// A cluster without additional settings.
    pub fn at(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            settings: BTreeMap::new(),
        }
    }

    /// A client configuration with this crate's settings, the address and the user's settings.
    fn config(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in own {
            config.set(*name, *value);
        }
        for (name, value) in &self.settings {
            config.set(name, value);
        }
        // librdkafka's own messages about brokers go through the `log` crate, which has no subscriber here.
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Critical);
        config
    }

    /// A consumer without a group, which commits nothing.
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

    /// Number of partitions of a topic.
    ///
    /// # Errors
    /// When no broker answers, or the topic does not exist.
    pub fn partitions(&self, topic: &str) -> Result<i32, KafkaError> {
        let consumer = self.consumer(&[])?;
        self.partitions_by(&consumer, topic)
    }

    /// Retries while the topic is unknown: right after its creation not every broker knows it yet.
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
