//! The reference: a transactional copy raw → clean that does nothing else, with the gate's own librdkafka settings and
//! batch limits, and as fast as possible.
//!
//! Like the gate, it takes messages in batches from one queue, produces them without copying, and fills the next batch
//! while the last one settles. The bench runs it as a child process until SIGTERM:
//!
//! ```text
//! cargo bench --bench gate -- copy --set topics.raw=… --set topics.clean=… --set gate.group=…
//! ```
#![expect(
    unsafe_code,
    reason = "produces without a copy from messages that outlive their delivery"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use pulsegate::config::{Config, Inputs, layers};
use pulsegate::io::kafka::consumer::{Consumer, Rebalance};
use pulsegate::io::kafka::raw::{self, Messages, Outgoing, Topic};
use pulsegate::roles::clients::Settings;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};
use rdkafka::{Offset, TopicPartitionList};

/// Maximum number of messages taken at once, as in the gate.
const CHUNK_RECORDS: usize = 1024;
/// Number of partitions, as the session creates them.
const PARTITIONS: usize = crate::session::PARTITIONS as usize;
/// How long an empty batch waits for its first record, as in the gate.
const IDLE_WAIT: Duration = Duration::from_millis(20);
/// How long a due batch waits for the settler before the group is served again, as in the gate.
const SETTLE_STEP: Duration = Duration::from_millis(5);
/// How long one step of a settlement may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Arguments of the copy.
#[derive(clap::Args)]
pub struct Args {
    /// Overrides one value of the gate's configuration
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
}

/// One transaction, which produces the consumed messages themselves.
#[derive(Default)]
struct Batch {
    chunks: Vec<Messages>,
    next: Vec<Option<i64>>,
    records: usize,
    bytes: usize,
    begun: Option<Instant>,
}

struct Job {
    batch: Batch,
    offsets: TopicPartitionList,
    group: ConsumerGroupMetadata,
}

// SAFETY: messages may be destroyed on any thread, and only one thread at a time owns the batch.
unsafe impl Send for Job {}

/// Copies until SIGTERM.
pub fn run(args: Args) -> Result<()> {
    let inputs = Inputs {
        set: args.set,
        environment: std::env::vars().collect(),
        ..Inputs::default()
    };
    let config = Arc::new(layers::load(&inputs)?.config);
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop))?;
    let workers: Vec<_> = (0..config.gate.workers)
        .map(|index| {
            let (config, stop) = (Arc::clone(&config), Arc::clone(&stop));
            thread::spawn(move || copy(&config, index, &stop))
        })
        .collect();
    for worker in workers {
        worker
            .join()
            .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    Ok(())
}

/// One worker: fills a batch while the last one settles.
fn copy(config: &Config, index: usize, stop: &AtomicBool) -> Result<()> {
    let settings = Settings::new(config, "copy");
    let (jobs, inbox) = bounded(1);
    let (outbox, settled) = bounded(1);
    let producer = Settling::new(&settings, config, index)?;
    let settler = thread::spawn(move || producer.run(&inbox, &outbox));
    let consumer = Consumer::subscribe(&settings.consumer(index), &config.topics.raw)?;
    let limits = &config.gate.batch;
    let time_max = Duration::from_millis(limits.time_max_ms);
    let mut starting = Vec::new();
    let share = PARTITIONS / config.gate.workers;
    let (mut batch, mut busy, mut shared_out) = (Batch::default(), false, false);
    while !stop.load(Ordering::Relaxed) {
        serve(&consumer, &mut starting, share, &mut shared_out)?;
        busy = busy && matches!(settled.try_recv(), Err(TryRecvError::Empty));
        let left = batch
            .begun
            .map_or(IDLE_WAIT, |begun| time_max.saturating_sub(begun.elapsed()));
        let full = batch.records >= limits.records_max || batch.bytes >= limits.bytes_max;
        if full || (left.is_zero() && !busy) {
            if busy && settled.recv_timeout(TIMEOUT).is_err() {
                break;
            }
            let offsets = batch.offsets(&config.topics.raw)?;
            let group = consumer
                .group()
                .context("the consumer has not joined its group")?;
            if jobs
                .send(Job {
                    batch: std::mem::take(&mut batch),
                    offsets,
                    group,
                })
                .is_err()
            {
                break;
            }
            busy = true;
            continue;
        }
        let mut chunk = Messages::with_capacity(CHUNK_RECORDS);
        let records_max = if batch.begun.is_none() {
            1
        } else {
            CHUNK_RECORDS.min(limits.records_max - batch.records)
        };
        consumer.consume(&mut chunk, records_max, left);
        if chunk.is_empty() && left.is_zero() {
            busy = matches!(settled.recv_timeout(SETTLE_STEP), Err(RecvTimeoutError::Timeout));
        }
        batch.take(chunk);
    }
    drop(jobs);
    // If the settler ended first, this returns its error.
    settler
        .join()
        .map_err(|_| anyhow::anyhow!("the settler panicked"))?
}

/// Serves the consumer group. Partitions start at the beginning, because the group is new, and only when the worker has
/// its share: the copy does not support handing partitions over.
fn serve(consumer: &Consumer, starting: &mut Vec<i32>, share: usize, shared_out: &mut bool) -> Result<()> {
    if let Some(error) = consumer.serve() {
        return Err(error.into());
    }
    while let Some(rebalance) = consumer.rebalance() {
        match rebalance {
            Rebalance::Assign(partitions) => {
                consumer.assign(&partitions)?;
                starting.extend(partitions);
            }
            Rebalance::Revoke { partitions, .. } => {
                consumer.unassign(&partitions)?;
                ensure!(
                    !*shared_out,
                    "partitions were revoked after the start, which the copy does not support"
                );
                starting.retain(|partition| !partitions.contains(partition));
            }
        }
    }
    *shared_out |= starting.len() == share;
    if *shared_out {
        starting.retain(|&partition| consumer.start(partition, 0).is_err());
    }
    Ok(())
}

impl Batch {
    fn take(&mut self, chunk: Messages) {
        if chunk.is_empty() {
            return;
        }
        self.begun.get_or_insert_with(Instant::now);
        self.next.resize(PARTITIONS, None);
        for message in chunk.iter() {
            self.next[message.partition() as usize] = Some(message.offset() + 1);
            self.bytes += message.value().len() + message.key().map_or(0, <[u8]>::len);
        }
        self.records += chunk.len();
        self.chunks.push(chunk);
    }

    /// The next offset of each partition that has records in the batch.
    fn offsets(&self, topic: &str) -> Result<TopicPartitionList> {
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in (0..).zip(&self.next) {
            if let Some(next) = next {
                offsets.add_partition_offset(topic, partition, Offset::Offset(*next))?;
            }
        }
        Ok(offsets)
    }
}

/// The producing half of a worker.
struct Settling {
    clean: Topic<DefaultProducerContext>,
    producer: Arc<BaseProducer>,
}

impl Settling {
    fn new(settings: &Settings, config: &Config, index: usize) -> Result<Self> {
        let producer: Arc<BaseProducer> =
            Arc::new(BaseProducer::from_config(&settings.settler(index).client)?);
        producer.init_transactions(TIMEOUT)?;
        let clean = Topic::new(&producer, &config.topics.clean)?;
        Ok(Self { clean, producer })
    }

    fn run(mut self, inbox: &Receiver<Job>, outbox: &Sender<()>) -> Result<()> {
        for job in inbox {
            self.producer.begin_transaction()?;
            for chunk in &job.batch.chunks {
                let records = chunk.iter().map(|message| Outgoing {
                    partition: message.partition(),
                    key: message.key().unwrap_or_default(),
                    value: message.value(),
                });
                // SAFETY: the messages are destroyed after the flush below, with the job.
                unsafe { self.clean.produce(records)? };
            }
            self.producer
                .send_offsets_to_transaction(&job.offsets, &job.group, TIMEOUT)?;
            ensure!(
                raw::flush(&self.producer, TIMEOUT),
                "the records were not delivered in time"
            );
            self.producer.commit_transaction(TIMEOUT)?;
            drop(job);
            if outbox.send(()).is_err() {
                break;
            }
        }
        Ok(())
    }
}
