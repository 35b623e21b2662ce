//! What Kafka knows about a lane that is being opened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, FromClientConfig};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, Timestamp, TopicPartitionList};

use super::opened::OpenError;
use crate::io::kafka::Topics;
use crate::io::kafka::committed::committed;
use crate::io::kafka::raw::{Messages, Queue};
use crate::io::kafka::source::Records;
use crate::roles::assignments::Opening;
use pulsegate_ledger::entry::Head;

/// Timeout of one request to the broker.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of records taken at once during a rescan.
const RESCAN_RECORDS: usize = 1000;
/// How many offsets before the end the search for the last ledger record starts; transaction markers take offsets too.
const TAIL_OFFSETS: i64 = 16;
/// How long a rescan waits for a full chunk.
const RESCAN_WAIT: Duration = Duration::from_millis(50);

/// What opening a lane asks of Kafka about its partition of the raw topic and of the ledger. Every call blocks.
pub trait LaneLog {
    /// Raw records that were fetched together.
    type Records: Records;

    /// The group's committed offset, once no transaction has offsets pending here.
    ///
    /// # Errors
    /// [`OpenError::Kafka`].
    fn committed(&self) -> Result<Option<i64>, OpenError>;

    /// The head after the lane's last visible ledger record.
    ///
    /// # Errors
    /// [`OpenError::Kafka`], or [`OpenError::Ledger`] if the record is invalid.
    fn head(&self) -> Result<Option<Head>, OpenError>;

    /// The first offset of the raw log, and the first that is not written yet.
    ///
    /// # Errors
    /// [`OpenError::Kafka`].
    fn watermarks(&self) -> Result<(i64, i64), OpenError>;

    /// The timestamp of the first raw record at or after `offset`, since offsets may be missing, and whether it is the
    /// broker's; `None` at the end of the log.
    ///
    /// # Errors
    /// [`OpenError::Kafka`].
    fn timestamp(&self, offset: i64) -> Result<Option<(i64, bool)>, OpenError>;

    /// The first raw offset with a timestamp at or after `time_ms`.
    ///
    /// # Errors
    /// [`OpenError::Kafka`].
    fn offset_at(&self, time_ms: i64) -> Result<Option<i64>, OpenError>;

    /// Reads the raw log from `offset` on, until `visit` returns true.
    ///
    /// # Errors
    /// [`OpenError::Kafka`], [`OpenError::Cancelled`], or that of `visit`.
    fn read(
        &self,
        offset: i64,
        visit: impl FnMut(&Self::Records) -> Result<bool, OpenError>,
    ) -> Result<(), OpenError>;
}

/// One lane's partitions of the raw topic and of the ledger.
pub struct KafkaLog<'g> {
    settings: &'g ClientConfig,
    topics: &'g Topics,
    partition: i32,
    opening: &'g Opening,
    client: BaseConsumer,
}

impl<'g> KafkaLog<'g> {
    /// Creates a client, which connects with the first request.
    ///
    /// # Errors
    /// [`OpenError::Kafka`] when librdkafka refuses the settings.
    pub fn new(
        settings: &'g ClientConfig,
        topics: &'g Topics,
        partition: i32,
        opening: &'g Opening,
    ) -> Result<Self, OpenError> {
        let client =
            BaseConsumer::from_config(settings).map_err(|error| OpenError::Kafka { partition, error })?;
        Ok(Self {
            settings,
            topics,
            partition,
            opening,
            client,
        })
    }

    fn raw(&self) -> &str {
        &self.topics.raw
    }

    fn watermarks_of(&self, topic: &str) -> Result<(i64, i64), OpenError> {
        self.kafka(self.client.fetch_watermarks(topic, self.partition, ASK_TIMEOUT))
    }

    fn last_value(&self, topic: &str, from: i64) -> Result<Option<Vec<u8>>, OpenError> {
        self.assign(&self.client, topic, from)?;
        let mut last = None;
        loop {
            match self.client.poll(ASK_TIMEOUT) {
                Some(Ok(message)) => last = message.payload().map(<[u8]>::to_vec),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
                Some(Err(error)) => return self.kafka(Err(error)),
                None => return Err(self.silence()),
            }
        }
    }

    fn assign(&self, client: &BaseConsumer, topic: &str, from: i64) -> Result<(), OpenError> {
        let mut list = TopicPartitionList::new();
        self.kafka(list.add_partition_offset(topic, self.partition, Offset::Offset(from)))?;
        self.kafka(client.assign(&list))
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

impl LaneLog for KafkaLog<'_> {
    type Records = Messages;

    fn committed(&self) -> Result<Option<i64>, OpenError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(self.raw(), self.partition);
        let committed = self.kafka(committed(&self.client, list, ASK_TIMEOUT))?;
        Ok(committed.first().and_then(|(_, offset)| *offset))
    }

    /// Searches at the end of the ledger, then further back while it finds only transaction markers.
    fn head(&self) -> Result<Option<Head>, OpenError> {
        let topic = &self.topics.ledger;
        let (low, high) = self.watermarks_of(topic)?;
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

    fn watermarks(&self) -> Result<(i64, i64), OpenError> {
        self.watermarks_of(self.raw())
    }

    fn timestamp(&self, offset: i64) -> Result<Option<(i64, bool)>, OpenError> {
        self.assign(&self.client, self.raw(), offset)?;
        match self.client.poll(ASK_TIMEOUT) {
            Some(Ok(message)) => Ok(Some(match message.timestamp() {
                Timestamp::LogAppendTime(time_ms) => (time_ms, true),
                Timestamp::CreateTime(time_ms) => (time_ms, false),
                Timestamp::NotAvailable => (0, false),
            })),
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(None),
            Some(Err(error)) => self.kafka(Err(error)),
            None => Err(self.silence()),
        }
    }

    fn offset_at(&self, time_ms: i64) -> Result<Option<i64>, OpenError> {
        let mut list = TopicPartitionList::new();
        self.kafka(list.add_partition_offset(self.raw(), self.partition, Offset::Offset(time_ms)))?;
        let found = self.kafka(self.client.offsets_for_times(list, ASK_TIMEOUT))?;
        Ok(match found.elements().first().map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => Some(offset),
            _ => None,
        })
    }

    fn read(
        &self,
        offset: i64,
        mut visit: impl FnMut(&Messages) -> Result<bool, OpenError>,
    ) -> Result<(), OpenError> {
        // Use a separate client: one that had the partition assigned before undoes the forwarding when it unassigns it.
        let client = Arc::new(self.kafka(BaseConsumer::from_config(self.settings))?);
        let queue = Queue::new(&client);
        self.kafka(queue.forward(self.raw(), self.partition))?;
        self.assign(&client, self.raw(), offset)?;
        let mut messages = Messages::with_capacity(RESCAN_RECORDS);
        let mut heard = Instant::now();
        loop {
            if self.opening.is_cancelled() {
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
            if visit(&messages)? {
                return Ok(());
            }
        }
    }
}
