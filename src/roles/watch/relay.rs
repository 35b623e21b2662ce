//! Relays findings from the outbox to their topic, each exactly once.
//!
//! ```text
//! outbox ─▶ batch with a number ─▶ one Kafka transaction: records + the number ─▶ removal from the outbox
//! ```
//!
//! The number is committed as an offset of a consumer group that exists only for this. After a crash it tells whether
//! the newest batch was produced. The process that owns lane 0 of the clean topic is the relay; the producer's
//! `transactional.id` fences a former owner that does not know yet that it lost the lane.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};

use pulsegate_detect::finding::FindingId;

use crate::io::kafka::committed::committed;
use crate::io::postgres::DatabaseError;
use crate::io::timescale::{Analytics, OutboxBatch};
use crate::telemetry::metrics::{Metrics, Service};

/// The header with the id by which consumers recognize a finding.
pub const ID_HEADER: &str = "pg-finding-id";
/// Maximum number of findings in one transaction.
const BATCH_ROWS_MAX: u32 = 1_000;
/// How often the outbox is polled.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Pause before a failed operation is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How long one call of the producer may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// The partition under which the number is committed; any would do.
const NUMBER_PARTITION: i32 = 0;

/// Why relaying failed. Every fault is retried.
#[derive(Debug, Error)]
enum Fault {
    #[error("the Kafka client failed: {0}")]
    Kafka(#[from] KafkaError),
    #[error("{0}")]
    Database(#[from] DatabaseError),
    #[error("the consumer group of the batch number has no metadata")]
    NoGroup,
}

/// The relay of one process.
pub struct Relay {
    /// The database with the outbox of findings.
    pub sink: Analytics,
    /// The topic of findings.
    pub topic: String,
    /// Prefix of the names of its clients and of its group.
    pub group: String,
    /// Settings of the connection to Kafka.
    pub client: ClientConfig,
    /// Claims of this process on lane 0; it is the relay as long as there is one.
    pub leads: watch::Receiver<BTreeSet<i64>>,
    /// Becomes true when the process stops.
    pub stopped: watch::Receiver<bool>,
    /// Metrics of relayed findings and of failures.
    pub metrics: Arc<Metrics>,
}

/// The producer, which has fenced all others, and the number of the newest batch in the topic.
struct Producing {
    producer: BaseProducer,
    consumer: BaseConsumer,
    sent: i64,
}

impl Relay {
    /// Relays until the process stops, on a thread of its own: the client's calls block.
    ///
    /// # Errors
    ///
    /// When the operating system cannot start a thread.
    pub fn start(self, runtime: Handle) -> std::io::Result<thread::JoinHandle<()>> {
        thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || self.run(&runtime))
    }

    fn run(&self, runtime: &Handle) {
        let mut producing = None;
        while !*self.stopped.borrow() {
            if self.leads.borrow().is_empty() {
                producing = None;
                self.rest(runtime, LOOK_INTERVAL);
                continue;
            }
            match self.step(runtime, &mut producing) {
                Ok(true) => {}
                Ok(false) => self.rest(runtime, LOOK_INTERVAL),
                Err(fault) => {
                    match &fault {
                        Fault::Database(_) => self.metrics.failed(Service::Analytics),
                        Fault::Kafka(_) | Fault::NoGroup => self.metrics.failed(Service::Kafka),
                    }
                    warn!(%fault, "failed to relay findings: they stay in the outbox, retrying");
                    // The next producer finds out whether the transaction committed.
                    producing = None;
                    self.rest(runtime, RETRY_PAUSE);
                }
            }
        }
    }

    fn rest(&self, runtime: &Handle, pause: Duration) {
        let mut stopped = self.stopped.clone();
        runtime.block_on(async {
            // Either it is time, or the process stops.
            let _ = tokio::time::timeout(pause, stopped.changed()).await;
        });
    }

    /// Relays one batch. False when there was none.
    fn step(&self, runtime: &Handle, producing: &mut Option<Producing>) -> Result<bool, Fault> {
        if producing.is_none() {
            let started = self.producing()?;
            runtime.block_on(self.sink.outbox_sent(started.sent))?;
            info!(topic = self.topic, number = started.sent, "relaying findings");
            *producing = Some(started);
        }
        let Some(current) = producing else {
            return Ok(false);
        };
        let Some(batch) = runtime.block_on(self.sink.outbox_take(BATCH_ROWS_MAX))? else {
            return Ok(false);
        };
        if batch.number > current.sent {
            current.produce(&self.topic, &batch)?;
            current.sent = batch.number;
            let notified = batch.rows.iter().filter(|row| row.notify).count();
            self.metrics.watch.relayed(batch.rows.len(), notified);
        }
        runtime.block_on(self.sink.outbox_sent(batch.number))?;
        Ok(true)
    }

    /// Ends the transaction that an earlier relay left open, and asks for the number of the last batch.
    fn producing(&self) -> Result<Producing, Fault> {
        let id = format!("{}-findings", self.group);
        let mut producer = self.client.clone();
        producer
            .set("client.id", &id)
            .set("transactional.id", &id)
            .set("partitioner", "murmur2_random")
            .set("transaction.timeout.ms", "30000")
            .set("message.timeout.ms", "15000")
            .set("message.max.bytes", "1048576");
        let producer = BaseProducer::from_config(&producer)?;
        producer.init_transactions(CALL_TIMEOUT)?;
        let mut consumer = self.client.clone();
        consumer
            .set("client.id", &id)
            .set("group.id", &id)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed");
        let consumer = BaseConsumer::from_config(&consumer)?;
        let mut number = TopicPartitionList::new();
        number.add_partition(&self.topic, NUMBER_PARTITION);
        let sent = committed(&consumer, number, CALL_TIMEOUT)?;
        Ok(Producing {
            producer,
            consumer,
            // Numbers begin at 1.
            sent: sent.first().and_then(|(_, number)| *number).unwrap_or(0),
        })
    }
}

impl Producing {
    /// Produces a batch and its number in one transaction.
    fn produce(&self, topic: &str, batch: &OutboxBatch) -> Result<(), Fault> {
        let group = self.consumer.group_metadata().ok_or(Fault::NoGroup)?;
        self.producer.begin_transaction()?;
        self.fill(topic, batch, &group).inspect_err(|_| {
            // If this fails too, the next producer's start aborts the transaction.
            let _ = self.producer.abort_transaction(CALL_TIMEOUT);
        })
    }

    fn fill(&self, topic: &str, batch: &OutboxBatch, group: &ConsumerGroupMetadata) -> Result<(), Fault> {
        for row in &batch.rows {
            let id = FindingId::from_bytes(row.id).to_string();
            let headers = OwnedHeaders::new().insert(Header {
                key: ID_HEADER,
                value: Some(&id),
            });
            let mut record = BaseRecord::to(topic)
                .key(&row.key)
                .payload(&row.document)
                .headers(headers);
            // A full queue drains to the broker.
            while let Err((error, refused)) = self.producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(error.into());
                }
                self.producer.poll(Duration::from_millis(10));
                record = refused;
            }
        }
        let mut number = TopicPartitionList::new();
        number.add_partition_offset(topic, NUMBER_PARTITION, Offset::Offset(batch.number))?;
        self.producer
            .send_offsets_to_transaction(&number, group, CALL_TIMEOUT)?;
        self.producer.commit_transaction(CALL_TIMEOUT)?;
        Ok(())
    }
}
