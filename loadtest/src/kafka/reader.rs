//! Reading whole topics, read_committed, from given offsets up to the end at the start of the read.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::{ANSWER_TIMEOUT, Kafka, KafkaError};

/// How long a topic may deliver nothing before the reader gives up.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// A half-open range of offsets of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Partition that the offsets belong to.
    pub partition: i32,
    /// First offset, inclusive.
    pub first: i64,
    /// End offset, exclusive.
    pub next: i64,
}

/// Reading failed, or the visitor refused a record.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Kafka failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The brokers delivered nothing for 30 s although unread records remain.
    #[error(
        "`{topic}` delivered nothing for 30 s although it has unread committed records; is the broker overloaded?"
    )]
    Silent {
        /// Topic being read.
        topic: String,
    },
    /// The visitor refused a record, for instance at a limit of this crate.
    #[error("{0}")]
    Refused(String),
}

/// Low and last stable offset of every partition: what a read_committed consumer can see now.
///
/// # Errors
/// When no broker answers, or the topic does not exist.
pub fn watermarks(kafka: &Kafka, topic: &str) -> Result<Vec<Range>, KafkaError> {
    let consumer = kafka.consumer(&[])?;
    watermarks_by(kafka, &consumer, topic)
}

fn watermarks_by(kafka: &Kafka, consumer: &BaseConsumer, topic: &str) -> Result<Vec<Range>, KafkaError> {
    let partitions = kafka.partitions_by(consumer, topic)?;
    let range = |partition| {
        let fetched = consumer.fetch_watermarks(topic, partition, ANSWER_TIMEOUT);
        fetched
            .map(|(first, next)| Range {
                partition,
                first,
                next,
            })
            .map_err(|cause| kafka.unreachable(cause))
    };
    (0..partitions).map(range).collect()
}

/// Calls `visit` for every committed record of the ranges, in order within a partition. Records beyond the last stable
/// offset at the start are not read.
///
/// # Errors
/// When Kafka fails or delivers nothing for 30 s, or `visit` refuses a record.
pub fn read_all(
    kafka: &Kafka,
    topic: &str,
    ranges: &[Range],
    mut visit: impl FnMut(&BorrowedMessage<'_>) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let settings = [
        ("queued.min.messages", "50000"),
        ("queued.max.messages.kbytes", "65536"),
        ("check.crcs", "true"),
    ];
    let consumer = kafka.consumer(&settings)?;
    let mut open = Open::assign(kafka, &consumer, topic, ranges)?;
    let mut heard = Instant::now();
    while open.left > 0 {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                if open.take(&message) {
                    visit(&message)?;
                }
            }
            Some(Err(ClientError::PartitionEOF(partition))) => open.end(partition),
            Some(Err(cause)) if fatal(&cause) => return Err(kafka.unreachable(cause).into()),
            Some(Err(_)) | None => {}
        }
        if heard.elapsed() > SILENCE_TIMEOUT {
            return Err(ReadError::Silent {
                topic: topic.to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether no further record can arrive after this error.
fn fatal(cause: &ClientError) -> bool {
    use rdkafka::error::RDKafkaErrorCode::{
        AllBrokersDown, Fatal, TopicAuthorizationFailed, UnknownTopicOrPartition,
    };
    matches!(
        cause.rdkafka_error_code(),
        Some(AllBrokersDown | Fatal | TopicAuthorizationFailed | UnknownTopicOrPartition)
    )
}

/// Ends of the ranges that are still being read.
struct Open {
    next: Vec<Option<i64>>,
    left: usize,
}

impl Open {
    fn assign(
        kafka: &Kafka,
        consumer: &BaseConsumer,
        topic: &str,
        ranges: &[Range],
    ) -> Result<Self, KafkaError> {
        let stable = watermarks_by(kafka, consumer, topic)?;
        let mut open = Self {
            next: vec![None; stable.len()],
            left: 0,
        };
        let mut assignment = TopicPartitionList::new();
        for whole in stable {
            let Some(range) = ranges.iter().find(|range| range.partition == whole.partition) else {
                continue;
            };
            let (first, next) = (range.first.max(whole.first), range.next.min(whole.next));
            let Some(slot) = open.slot(whole.partition).filter(|_| first < next) else {
                continue;
            };
            *slot = Some(next);
            open.left += 1;
            let added = assignment.add_partition_offset(topic, whole.partition, Offset::Offset(first));
            added.map_err(KafkaError::Settings)?;
        }
        if open.left > 0 {
            consumer
                .assign(&assignment)
                .map_err(|cause| kafka.unreachable(cause))?;
        }
        Ok(open)
    }

    fn slot(&mut self, partition: i32) -> Option<&mut Option<i64>> {
        self.next.get_mut(usize::try_from(partition).ok()?)
    }

    /// Whether the record is inside its range; closes the range at its last record.
    fn take(&mut self, message: &BorrowedMessage<'_>) -> bool {
        let Some(slot) = self.slot(message.partition()) else {
            return false;
        };
        let Some(next) = *slot else { return false };
        if message.offset() + 1 >= next {
            *slot = None;
            self.left -= 1;
        }
        message.offset() < next
    }

    /// Closes the range at the end of its partition. Ranges end at or before the last stable offset at the start, so
    /// offsets of a range that were not delivered before this are control records, which no consumer sees.
    fn end(&mut self, partition: i32) {
        if let Some(slot) = self.slot(partition)
            && slot.take().is_some()
        {
            self.left -= 1;
        }
    }
}

/// For each range, the first offset of its partition whose record was appended at most `reach_ms` before the range's
/// first record; the range's own first offset if no record precedes it.
///
/// # Errors
/// When no broker answers.
pub fn offsets_at(
    kafka: &Kafka,
    topic: &str,
    ranges: &[Range],
    reach_ms: i64,
) -> Result<Vec<i64>, KafkaError> {
    let consumer = kafka.consumer(&[])?;
    let firsts: Vec<Range> = ranges
        .iter()
        .map(|range| Range {
            next: range.first + 1,
            ..*range
        })
        .collect();
    let mut offsets: Vec<i64> = ranges.iter().map(|range| range.first).collect();
    // Common case: a range that begins at the start of the log has no record before it.
    if ranges.iter().all(|range| range.first == 0) {
        return Ok(offsets);
    }
    let mut asked = TopicPartitionList::new();
    let mut ask = |message: &BorrowedMessage<'_>| {
        let appended_ms = message.timestamp().to_millis().unwrap_or_default();
        let offset = Offset::Offset(appended_ms.saturating_sub(reach_ms).max(0));
        asked
            .add_partition_offset(topic, message.partition(), offset)
            .map_err(|e| KafkaError::Settings(e).into())
    };
    match read_all(kafka, topic, &firsts, &mut ask) {
        Ok(()) => {}
        Err(ReadError::Kafka(error)) => return Err(error),
        // An aborted record at the first offset has no readable timestamp: the range keeps its start.
        Err(_) => return Ok(offsets),
    }
    if asked.count() == 0 {
        return Ok(offsets);
    }
    let found = consumer
        .offsets_for_times(asked, ANSWER_TIMEOUT)
        .map_err(|cause| kafka.unreachable(cause))?;
    for (range, offset) in ranges.iter().zip(&mut offsets) {
        let element = found.find_partition(topic, range.partition);
        if let Some(earlier) = element
            .and_then(|element| element.offset().to_raw())
            .filter(|offset| *offset >= 0)
        {
            *offset = earlier.min(*offset);
        }
    }
    Ok(offsets)
}
