//! Producing records in order within a partition, with every failed delivery counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::{Kafka, KafkaError, owned_headers};
use crate::record::Record;

/// How long the last records may take to be acknowledged.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Delivery reports are served once per this many records.
const RECORDS_PER_POLL: u64 = 64;

/// A producer for one topic.
pub struct Producer {
    topic: String,
    partitions: i32,
    sent: u64,
    inner: BaseProducer<Deliveries>,
    deliveries: Deliveries,
}

#[derive(Clone, Default)]
struct Deliveries {
    delivered: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    first_failure: Arc<Mutex<Option<ClientError>>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        match result {
            Ok(_) => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => self.fail(error),
        }
    }
}

impl Deliveries {
    fn fail(&self, error: &ClientError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| error.clone());
    }
}

impl Producer {
    /// Connects and looks up the topic's partitions. `compression` is librdkafka's `compression.type`.
    ///
    /// # Errors
    /// When no broker answers, the topic does not exist, or a setting is refused.
    pub fn new(kafka: &Kafka, topic: &str, compression: &str) -> Result<Self, KafkaError> {
        let partitions = kafka.partitions(topic)?;
        let deliveries = Deliveries::default();
        let own = [
            ("enable.idempotence", "true"),
            ("linger.ms", "5"),
            ("batch.size", "1000000"),
            ("batch.num.messages", "10000"),
            ("queue.buffering.max.messages", "200000"),
            // Hostile fleets send records that a default client would refuse; the limit under test is the broker's.
            ("message.max.bytes", "20000000"),
            ("message.timeout.ms", "60000"),
            ("compression.type", compression),
        ];
        let inner = kafka
            .config(&own)
            .create_with_context(deliveries.clone())
            .map_err(KafkaError::Settings)?;
        Ok(Self {
            topic: topic.to_owned(),
            partitions,
            sent: 0,
            inner,
            deliveries,
        })
    }

    /// Number of partitions of the topic.
    #[must_use]
    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Queues a record for a partition; blocks while the queue is full.
    pub fn send(&mut self, record: &Record, partition: i32) {
        self.sent += 1;
        let headers = owned_headers(&record.headers);
        let mut message = BaseRecord::<[u8], [u8]>::to(&self.topic)
            .partition(partition)
            .headers(headers);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        loop {
            match self.inner.send(message) {
                Ok(()) => break,
                Err((ClientError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    message = back;
                    self.inner.poll(Duration::from_millis(1));
                }
                Err((error, _)) => {
                    self.deliveries.fail(&error);
                    break;
                }
            }
        }
        if self.sent.is_multiple_of(RECORDS_PER_POLL) {
            self.inner.poll(Duration::ZERO);
        }
    }

    /// Serves delivery reports for `time`, for callers that wait for their next record.
    pub fn idle(&self, time: Duration) {
        self.inner.poll(time);
    }

    /// Number of records that the brokers have acknowledged so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.deliveries.delivered.load(Ordering::Relaxed)
    }

    /// Waits until the brokers have answered for every record.
    ///
    /// # Errors
    /// When a record could not be delivered, or an acknowledgement is missing after a minute.
    pub fn finish(self) -> Result<u64, KafkaError> {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while self.inner.in_flight_count() > 0 && Instant::now() < deadline {
            self.inner.poll(Duration::from_millis(2));
        }
        let delivered = self.delivered();
        if delivered == self.sent {
            return Ok(delivered);
        }
        let first = self
            .deliveries
            .first_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // A broker that answers may refuse a record for its content; one that does not answer is unavailable.
        let refused = |error: &ClientError| {
            use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, MessageTimedOut};
            !matches!(
                error.rdkafka_error_code(),
                Some(AllBrokersDown | BrokerTransportFailure | MessageTimedOut)
            )
        };
        Err(KafkaError::Undelivered {
            topic: self.topic.clone(),
            failed: self.sent - delivered,
            sent: self.sent,
            refused: first.as_ref().is_some_and(refused),
            cause: first.map_or_else(
                || "the broker did not answer within a minute".to_owned(),
                |e| e.to_string(),
            ),
        })
    }
}
