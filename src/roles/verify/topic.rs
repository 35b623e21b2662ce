//! Partitions of topics, read once from beginning to end.

use std::time::Duration;

use backon::{BlockingRetryable as _, ConstantBuilder};
use rdkafka::config::FromClientConfig as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::VerifyError;
use crate::io::kafka::{self, Topics};
use pulsegate_ledger::verify::comparison::Ends;
use pulsegate_ledger::verify::stored::LedgerRecord;

/// How long a broker may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Records that are read ahead of their comparison.
const AHEAD_RECORDS: usize = 1_000;
/// How often it is looked whether transactions have ended, and how many times: longer than a broker lets one stay open.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS_MAX: usize = 2_400;

/// A client that reads whole partitions and commits nothing.
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
            // The client wants a group's name, but no group is joined and no offset committed.
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

    /// How many partitions a topic has; 0 where there is none.
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

    /// The first offset that is still there, and the first that is not committed yet.
    pub(super) fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), VerifyError> {
        self.client
            .fetch_watermarks(topic, partition, ASK_TIMEOUT)
            .map_err(unreachable)
    }

    /// The first offset that is still there and was not appended before `time_ms`, where that is given.
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
        // Where nothing was appended since, the answer is the end.
        Ok(found
            .and_then(Offset::to_raw)
            .map_or(end, |offset| if offset < 0 { end } else { offset.max(low) }))
    }

    /// Waits until every transaction that has written to a partition up to now has ended there.
    fn settled(&self, config: &kafka::Config, topic: &str, partition: i32) -> Result<(), VerifyError> {
        let (_, written) = Self::isolated(config, "read_uncommitted")?.watermarks(topic, partition)?;
        let look = || match self.watermarks(topic, partition)? {
            (_, committed) if committed >= written => Ok(()),
            _ => Err(VerifyError::Kafka(format!(
                "a transaction of {topic}/{partition} does not end"
            ))),
        };
        let looks = ConstantBuilder::default()
            .with_delay(LOOK)
            .with_max_times(LOOKS_MAX);
        look.retry(looks).call()
    }

    /// Hands over every committed record from offset `from` on, until there is none or `take` has enough (false).
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

/// The ledger records of a partition, read by a thread of their own.
pub(super) struct Ledger {
    pub partition: i32,
    records: mpsc::Receiver<Result<LedgerRecord, VerifyError>>,
    /// Where the topics began and ended when the reading began.
    pub ends: Ends,
}

impl Ledger {
    pub(super) fn open(config: &kafka::Config, topics: &Topics, partition: i32) -> Result<Self, VerifyError> {
        let reader = Reader::new(config)?;
        // A gate goes on meanwhile. It writes both in one transaction, so what is committed to clean before the ledger is
        // asked for its end comes before that end, although the one may hear of the commit later than the other.
        let (_, clean_end) = reader.watermarks(&topics.clean, partition)?;
        let (low, _) = reader.watermarks(&topics.ledger, partition)?;
        let (sender, records) = mpsc::channel(AHEAD_RECORDS);
        let (config, topic) = (config.clone(), topics.ledger.clone());
        std::thread::spawn(move || {
            let settled = reader.settled(&config, &topic, partition);
            let take = |message: &BorrowedMessage<'_>| {
                let value = message.payload().unwrap_or_default();
                // An invalid one is an alert in the log, and no record.
                let Some(record) = LedgerRecord::read(message.offset(), value) else {
                    return Ok(true);
                };
                // Nobody listens any more once the comparison is done.
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
