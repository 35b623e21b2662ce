//! Settling: one thread a worker that owns the transactional producer and turns a sealed batch into one committed
//! transaction, while the worker fills the next batch.
//!
//! librdkafka's transaction calls can hang (librdkafka#5456: `send_offsets_to_transaction` ignores its timeout). They
//! hang here and not in the worker: [`Settler::wait`] is the watchdog, on the worker's own thread. When a settlement
//! misses its deadline the worker abandons this thread; a new producer with the same transactional id fences the old
//! one, whose thread drops it as soon as the call returns.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList, message::Message as _};
use thiserror::Error;
use tracing::warn;

use super::config::Topics;
use super::raw::{self, Outgoing, Topic};
use pulsegate_core::gate::seal::SealedBatch;

/// How often a wait checks for failed deliveries and for its deadline.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// One transaction to settle.
pub struct Job<G = ConsumerGroupMetadata> {
    /// The records to produce.
    pub batch: SealedBatch,
    /// The offsets to commit: each lane's partition of the raw topic, and the next offset there.
    pub offsets: Vec<(i32, i64)>,
    /// The consumer's group metadata, taken fresh, so that a worker that lost its lanes is refused (KIP-447).
    pub group: G,
}

/// A finished job.
pub struct Settled {
    /// The batch, to be cleared and filled again.
    pub batch: SealedBatch,
    /// Timings of the commit, or why it failed.
    pub result: Result<Timings, SettleError>,
}

/// How long the parts of a settlement took.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// Enqueueing the records.
    pub produce: Duration,
    /// Sending the offsets and waiting for deliveries.
    pub deliver: Duration,
    /// Committing the transaction.
    pub commit: Duration,
}

/// Why a transaction did not commit.
#[derive(Debug, Error)]
pub enum SettleError {
    /// The transaction was certainly aborted: rewind and continue with the same producer.
    #[error("the transaction was aborted: {0}")]
    Aborted(KafkaError),
    /// Another producer has this transactional id, or the coordinator timed this one out: stop.
    #[error(
        "the producer was fenced: {0}; another worker has this transactional id (gate.instance must be unique in the \
         group), or this worker was unresponsive for too long"
    )]
    Fenced(KafkaError),
    /// It is unknown whether the transaction committed: a new producer must find out.
    #[error("the outcome of the transaction is unknown: {0}")]
    Unknown(KafkaError),
    /// The deadline passed: as [`SettleError::Unknown`], and the thread is abandoned.
    #[error("a transaction call did not return before its deadline")]
    Hung,
}

/// The worker's handle on its settling thread.
pub struct Settler {
    jobs: Sender<Job>,
    settled: Receiver<Settled>,
    deadline: Option<Instant>,
    limit: Duration,
}

/// Settings of a settler's producer.
#[derive(Clone)]
pub struct Settings {
    /// librdkafka settings of the producer.
    pub client: ClientConfig,
    /// Names of the topics that records go to.
    pub topics: Topics,
    /// Upper bound on the time of one settlement.
    pub settle_timeout: Duration,
}

impl Settler {
    /// Creates the producer, which fences every earlier one with its transactional id and ends the transaction it left
    /// open, and starts the thread.
    ///
    /// # Errors
    ///
    /// When the producer cannot be created or the coordinator does not answer in time.
    pub fn start(settings: &Settings) -> Result<Self, KafkaError> {
        let producer = SettlingProducer::new(settings)?;
        producer.client.init_transactions(settings.settle_timeout)?;
        let (jobs, inbox) = bounded::<Job>(1);
        let (outbox, settled) = bounded(1);
        thread::Builder::new()
            .name("settle".to_owned())
            .spawn(move || settle_all(producer, &inbox, &outbox))
            .map_err(|error| KafkaError::ClientCreation(format!("failed to start its thread: {error}")))?;
        Ok(Self {
            jobs,
            settled,
            deadline: None,
            limit: settings.settle_timeout,
        })
    }

    /// Whether a job is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.deadline.is_some()
    }

    /// Hands over a job. The settler must not be busy.
    pub fn begin(&mut self, job: Job) {
        debug_assert!(!self.is_busy(), "one transaction at a time");
        self.deadline = Some(Instant::now() + self.limit);
        // If the thread has ended, `wait` reports it.
        let _ = self.jobs.send(job);
    }

    /// Waits for the job under way, at most for `patience`. `None` when there is none or it is not done yet; the error
    /// `Hung` when its deadline has passed: then the settler must be dropped.
    pub fn wait(&mut self, patience: Duration) -> Option<Result<Settled, SettleError>> {
        let deadline = self.deadline?;
        let left = deadline.saturating_duration_since(Instant::now());
        match self.settled.recv_timeout(patience.min(left)) {
            Ok(settled) => {
                self.deadline = None;
                Some(Ok(settled))
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => None,
            Err(_) => {
                self.deadline = None;
                Some(Err(SettleError::Hung))
            }
        }
    }
}

/// Settles jobs until the worker drops its handle, or the producer is of no use any more.
fn settle_all(mut producer: SettlingProducer, inbox: &Receiver<Job>, outbox: &Sender<Settled>) {
    for job in inbox {
        let mut flight = Flight { producer, job };
        let result = flight.producer.settle(&flight.job);
        let job;
        Flight { producer, job } = flight;
        let batch = job.batch;
        if matches!(result, Err(SettleError::Fenced(_) | SettleError::Unknown(_))) {
            // Destroyed before the batch that it may still point into.
            drop(producer);
            let _ = outbox.send(Settled { batch, result });
            return;
        }
        // Nothing is in flight: the transaction was committed, or drained and aborted.
        if outbox.send(Settled { batch, result }).is_err() {
            return;
        }
    }
}

/// A producer together with the job whose bytes librdkafka may point into. Fields are dropped in the order of their
/// declaration, also when the thread panics: the producer, with all that it has in flight, before the bytes.
struct Flight<P, J> {
    producer: P,
    job: J,
}

/// Remembers deliveries that failed; successes are never reported (`delivery.report.only.error`).
#[derive(Default)]
struct Deliveries {
    failed: Mutex<Option<Failed>>,
}

/// The first failed delivery of a transaction, which usually explains the others, and how many failed.
struct Failed {
    error: KafkaError,
    topic: String,
    partition: i32,
    records: u64,
}

impl Deliveries {
    fn failed(&self) -> MutexGuard<'_, Option<Failed>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        warn!(%error, reason, "librdkafka reported an error of the producer");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            self.failed()
                .get_or_insert_with(|| Failed {
                    error: error.clone(),
                    topic: message.topic().to_owned(),
                    partition: message.partition(),
                    records: 0,
                })
                .records += 1;
        }
    }
}

/// The producer and its topics. It is destroyed, with all that it has in flight, when this is dropped: no other `Arc` of
/// the client exists.
struct SettlingProducer {
    clean: Topic<Deliveries>,
    ledger: Topic<Deliveries>,
    deadletter: String,
    raw: String,
    client: Arc<BaseProducer<Deliveries>>,
    timeout: Duration,
}

impl SettlingProducer {
    fn new(settings: &Settings) -> Result<Self, KafkaError> {
        let client = Arc::new(BaseProducer::from_config_and_context(
            &settings.client,
            Deliveries::default(),
        )?);
        Ok(Self {
            clean: Topic::new(&client, &settings.topics.clean)?,
            ledger: Topic::new(&client, &settings.topics.ledger)?,
            deadletter: settings.topics.deadletter.clone(),
            raw: settings.topics.raw.clone(),
            client,
            timeout: settings.settle_timeout,
        })
    }

    fn settle(&mut self, job: &Job) -> Result<Timings, SettleError> {
        let deadline = Instant::now() + self.timeout;
        let outcome = self
            .client
            .begin_transaction()
            .map_err(Failure::from)
            .and_then(|()| self.attempt(job, deadline));
        match outcome {
            Ok(timings) => Ok(timings),
            Err(Failure::Abortable(error)) => Err(self.abort(error, deadline)),
            Err(Failure::Fenced(error)) => Err(SettleError::Fenced(error)),
            Err(Failure::Unknown(error)) => Err(SettleError::Unknown(error)),
        }
    }

    /// The only path on which a transaction commits.
    fn attempt(&mut self, job: &Job, deadline: Instant) -> Result<Timings, Failure> {
        let started = Instant::now();
        // Without one of its offsets the transaction must not commit: its records would be taken again.
        let offsets = offsets(&self.raw, &job.offsets).map_err(Failure::Abortable)?;
        self.produce(&job.batch)?;
        let produced = Instant::now();
        retry(deadline, || {
            self.client
                .send_offsets_to_transaction(&offsets, &job.group, self.timeout)
        })?;
        self.drain(deadline)?;
        let delivered = Instant::now();
        // Nothing is in flight, so the wrapper's flush inside returns at once.
        retry(deadline, || self.client.commit_transaction(self.timeout))?;
        let (produce, deliver, commit) = (produced - started, delivered - produced, delivered.elapsed());
        Ok(Timings {
            produce,
            deliver,
            commit,
        })
    }

    fn produce(&mut self, batch: &SealedBatch) -> Result<(), Failure> {
        fn outgoing<'a>((partition, key, value): (i32, &'a [u8], &'a [u8])) -> Outgoing<'a> {
            Outgoing {
                partition,
                key,
                value,
            }
        }
        // SAFETY: 1. The batch is borrowed from the job of a `Flight`, so nothing changes it while this settles.
        // 2. `settle` returns with something in flight only as `Unknown` or `Fenced`, and `settle_all` then drops the
        // producer before the batch. 3. On a panic the `Flight` drops the producer before the batch. 4. Dropping this
        // producer destroys the client, since no other `Arc` of it exists, and that ends all use of the bytes.
        #[expect(
            unsafe_code,
            reason = "produces without a copy from a batch that outlives its delivery"
        )]
        let enqueued = unsafe {
            self.clean
                .produce(batch.clean().map(outgoing))
                .and_then(|()| self.ledger.produce(batch.ledger().map(outgoing)))
        };
        enqueued.map_err(Failure::Abortable)?;
        for letter in batch.deadletters() {
            let mut headers = OwnedHeaders::new();
            for (key, value) in letter.headers() {
                headers = headers.insert(Header {
                    key,
                    value: Some(value),
                });
            }
            let record = BaseRecord::<[u8], [u8]>::to(&self.deadletter)
                .partition(letter.partition)
                .headers(headers);
            let record = record.payload(letter.value);
            let record = if letter.key.is_empty() {
                record
            } else {
                record.key(letter.key)
            };
            self.client
                .send(record)
                .map_err(|(error, _)| Failure::Abortable(error))?;
        }
        Ok(())
    }

    /// Waits until every record is delivered or has failed.
    fn drain(&self, deadline: Instant) -> Result<(), Failure> {
        while !raw::flush(&self.client, DRAIN_STEP) {
            self.client.poll(Duration::ZERO);
            if Instant::now() > deadline {
                return Err(Failure::Unknown(KafkaError::Flush(
                    RDKafkaErrorCode::OperationTimedOut,
                )));
            }
        }
        self.client.poll(Duration::ZERO);
        let Some(failed) = self.client.context().failed().take() else {
            return Ok(());
        };
        let Failed {
            error,
            topic,
            partition,
            records,
        } = failed;
        warn!(%error, topic, partition, records, "deliveries failed: aborting the transaction; this is the first");
        Err(Failure::Abortable(error))
    }

    /// `abort_transaction` fails while deliveries are pending and does not poll for them: drain first.
    fn abort(&self, cause: KafkaError, deadline: Instant) -> SettleError {
        let drained = match self.drain(deadline) {
            Ok(()) | Err(Failure::Abortable(_)) => Ok(()),
            Err(failure) => Err(failure),
        };
        match drained.and_then(|()| retry(deadline, || self.client.abort_transaction(self.timeout))) {
            Ok(()) => SettleError::Aborted(cause),
            Err(Failure::Fenced(error)) => SettleError::Fenced(error),
            Err(Failure::Abortable(error) | Failure::Unknown(error)) => {
                warn!(%cause, %error, "failed to abort the transaction: its outcome is unknown, a new producer will end it");
                SettleError::Unknown(error)
            }
        }
    }
}

/// The offsets of a job in the client's form.
fn offsets(topic: &str, positions: &[(i32, i64)]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for &(partition, next) in positions {
        list.add_partition_offset(topic, partition, Offset::Offset(next))?;
    }
    Ok(list)
}

/// How to react to a failed call.
enum Failure {
    Abortable(KafkaError),
    Fenced(KafkaError),
    Unknown(KafkaError),
}

impl From<KafkaError> for Failure {
    /// Checks in librdkafka's own order: fatal, then abortable. A retriable error that persists until the deadline, and
    /// any other error, leaves the outcome unknown.
    fn from(error: KafkaError) -> Self {
        use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
        let KafkaError::Transaction(inner) = &error else {
            return Self::Unknown(error);
        };
        if matches!(inner.code(), Fenced | InvalidProducerEpoch | ProducerFenced) {
            Self::Fenced(error)
        } else if !inner.is_fatal() && inner.txn_requires_abort() {
            Self::Abortable(error)
        } else {
            Self::Unknown(error)
        }
    }
}

/// Repeats the same call while librdkafka calls its error retriable: a commit that timed out must be retried and
/// never aborted. Each call waits inside librdkafka, so no pause is added.
fn retry(deadline: Instant, call: impl Fn() -> Result<(), KafkaError>) -> Result<(), Failure> {
    loop {
        match call() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                warn!(%error, "a transaction call failed: retrying");
            }
            result => return result.map_err(Failure::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Noted<'n>(&'static str, &'n Mutex<Vec<&'static str>>);

    impl Drop for Noted<'_> {
        fn drop(&mut self) {
            self.1
                .lock()
                .expect("the test holds no lock while it panics")
                .push(self.0);
        }
    }

    #[test]
    fn a_panic_while_settling_destroys_the_producer_before_the_batch() {
        let dropped = Mutex::new(Vec::new());
        let settled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let flight = Flight {
                producer: Noted("producer", &dropped),
                job: Noted("batch", &dropped),
            };
            let _borrowed = (&flight.producer, &flight.job);
            panic!("a defect in the settling thread");
        }));
        assert!(settled.is_err());
        assert_eq!(*dropped.lock().expect("not poisoned"), ["producer", "batch"]);
    }

    #[test]
    fn an_offset_that_cannot_be_added_fails_the_transaction() {
        let list = offsets("raw", &[(0, 7), (2, 0)]).expect("offsets");
        let added: Vec<_> = list.elements().iter().map(|element| element.offset()).collect();
        assert_eq!(added, [Offset::Offset(7), Offset::Offset(0)]);
        assert!(offsets("raw", &[(0, 7), (2, -1)]).is_err());
    }
}
