//! Reads partitions of topics once, from beginning to end.

use std::time::Duration;

use backon::{BlockingRetryable as _, ConstantBuilder};
use rdkafka::config::FromClientConfig as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::error::VerifyError;
use crate::io::kafka::{self, Topics};
use pulsegate_ledger::verify::comparison::Ends;
use pulsegate_ledger::verify::stored::LedgerRecord;

/// Time limit of a request to a broker.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Records read ahead of their comparison.
const AHEAD_RECORDS: usize = 1_000;
/// Interval and number of checks for open transactions: together longer than a broker lets a transaction stay open.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS_MAX: usize = 2_400;

/// A client that reads whole partitions and commits no offsets.
pub(super) struct Reader {
    client: BaseConsumer,
}

impl Reader {
    pub(super) fn new(config: &kafka::Config) -> Result<Self, VerifyError> {
        Self::isolated(config, "read_committed")
    }

    fn isolated(config: &kafka::Config, level: &str) -> Result<Self, VerifyError> {
        let mut settings = config.client();
        settings
            // The client requires a group name, but joins no group and commits no offset.
            .set("group.id", "pulsegate-audit")
            .set("enable.auto.commit", "false")
            .set("isolation.level", level)
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "50")
            .set("queued.max.messages.kbytes", "32768");
        let client = BaseConsumer::from_config(&settings).map_err(unreachable)?;
        Ok(Self { client })
    }

    /// Number of partitions of a topic; 0 if the topic does not exist.
    pub(super) fn partitions(&self, topic: &str) -> Result<i32, VerifyError> {
        let metadata = self
            .client
            .fetch_metadata(Some(topic), ASK_TIMEOUT)
            .map_err(unreachable)?;
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic && found.error().is_none());
        Ok(found.map_or(0, |found| {
            i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)
        }))
    }

    /// Returns the first offset that retention has kept, and the first that is not committed yet.
    pub(super) fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), VerifyError> {
        self.client
            .fetch_watermarks(topic, partition, ASK_TIMEOUT)
            .map_err(unreachable)
    }

    /// Returns the first retained offset, or with `time_ms` the first retained one that was appended at that time or
    /// later.
    pub(super) fn begin(
        &self,
        topic: &str,
        partition: i32,
        time_ms: Option<i64>,
    ) -> Result<i64, VerifyError> {
        let (low, end) = self.watermarks(topic, partition)?;
        let Some(time_ms) = time_ms else {
            return Ok(low);
        };
        let mut times = TopicPartitionList::new();
        let found = times
            .add_partition_offset(topic, partition, Offset::Offset(time_ms))
            .and_then(|()| self.client.offsets_for_times(times, ASK_TIMEOUT))
            .map_err(unreachable)?;
        let found = found.find_partition(topic, partition).map(|found| found.offset());
        // If nothing was appended since, the result is the end.
        Ok(found
            .and_then(Offset::to_raw)
            .map_or(end, |offset| if offset < 0 { end } else { offset.max(low) }))
    }

    /// Waits for the end of every transaction that has written to the partition so far.
    fn settled(&self, config: &kafka::Config, topic: &str, partition: i32) -> Result<(), VerifyError> {
        let (_, written) = Self::isolated(config, "read_uncommitted")?.watermarks(topic, partition)?;
        let look = || match self.watermarks(topic, partition)? {
            (_, committed) if committed >= written => Ok(()),
            _ => Err(VerifyError::Kafka(format!(
                "a transaction on {topic}/{partition} stayed open too long; abort it or try again later"
            ))),
        };
        let looks = ConstantBuilder::default()
            .with_delay(LOOK)
            .with_max_times(LOOKS_MAX);
        look.retry(looks).call()
    }

    /// Passes every committed record from offset `from` on to `take`, until the end or until `take` returns false.
    pub(super) fn read(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<bool, VerifyError>,
    ) -> Result<(), VerifyError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(from))
            .and_then(|()| self.client.assign(&list))
            .map_err(unreachable)?;
        loop {
            match self.client.poll(ASK_TIMEOUT) {
                Some(Ok(message)) => {
                    if !take(&message)? {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) => return Err(unreachable(error)),
                None => return Err(unreachable(KafkaError::NoMessageReceived)),
            }
        }
    }
}

pub(super) fn unreachable(error: KafkaError) -> VerifyError {
    VerifyError::Kafka(error.to_string())
}

/// Ledger records of a partition, read by a separate thread.
pub(super) struct Ledger {
    pub partition: i32,
    records: mpsc::Receiver<Result<LedgerRecord, VerifyError>>,
    /// Where the topics began and ended when the reading began.
    pub ends: Ends,
}

impl Ledger {
    pub(super) fn open(config: &kafka::Config, topics: &Topics, partition: i32) -> Result<Self, VerifyError> {
        let reader = Reader::new(config)?;
        // Gates keep writing meanwhile. A gate writes both topics in one transaction, so records committed to clean
        // before the ledger's end is queried lie before that end, although the two partitions may learn of the commit
        // at different times.
        let (_, clean_end) = reader.watermarks(&topics.clean, partition)?;
        let (low, _) = reader.watermarks(&topics.ledger, partition)?;
        let (sender, records) = mpsc::channel(AHEAD_RECORDS);
        let (config, topic) = (config.clone(), topics.ledger.clone());
        std::thread::spawn(move || {
            let settled = reader.settled(&config, &topic, partition);
            let take = |message: &BorrowedMessage<'_>| {
                let value = message.payload().unwrap_or_default();
                // An invalid value is an alert in the log, not a record.
                let Some(record) = LedgerRecord::read(message.offset(), value) else {
                    return Ok(true);
                };
                // The receiver is dropped once the comparison is done.
                Ok(sender.blocking_send(Ok(record)).is_ok())
            };
            let read = settled.and_then(|()| reader.read(&topic, partition, low, take));
            if let Err(error) = read {
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(Self {
            partition,
            records,
            ends: Ends { low, clean_end },
        })
    }

    /// Takes the next record.
    pub(super) async fn next(&mut self) -> Result<Option<LedgerRecord>, VerifyError> {
        self.records.recv().await.transpose()
    }
}
