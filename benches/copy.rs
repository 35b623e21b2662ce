//! The reference: a transactional copy raw → clean that does nothing else, with the gate's own librdkafka settings and
//! batch limits, as good as it can be made.
//!
//! Like the gate it takes messages in batches from one queue, produces without a copy, and fills the next batch while
//! the last one settles. `benches/gate.rs` runs it as a child process beside the gate; alone it runs until SIGTERM:
//!
//! ```text
//! cargo bench --bench copy -- --set topics.raw=… --set topics.clean=… --set gate.group=…
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
use clap::Parser;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use pulsegate::config::{Config, Inputs, layers};
use pulsegate::io::kafka::consumer::{Consumer, Rebalance};
use pulsegate::io::kafka::raw::{self, Messages, Outgoing, Topic};
use pulsegate::io::kafka::settings::Settings;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{Offset, TopicPartitionList};

/// The most messages taken at once, as in the gate.
const CHUNK_RECORDS: usize = 1024;
const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Args {
    #[arg(long)]
    set: Vec<String>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One transaction: the messages themselves are what is produced.
#[derive(Default)]
struct Batch {
    chunks: Vec<Messages>,
    records: usize,
    bytes: usize,
}

struct Job {
    batch: Batch,
    offsets: TopicPartitionList,
    group: ConsumerGroupMetadata,
}

// SAFETY: messages may be destroyed on any thread, and only one thread at a time has the batch.
unsafe impl Send for Job {}

fn main() -> Result<()> {
    let args = Args::parse();
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
    let (mut batch, mut begun, mut busy) = (Batch::default(), None::<Instant>, false);
    let mut next = vec![None; 1024];
    while !stop.load(Ordering::Relaxed) {
        consumer.serve();
        while let Some(rebalance) = consumer.rebalance() {
            match rebalance {
                Rebalance::Assign(partitions) => {
                    consumer.assign(&partitions)?;
                    starting.extend(partitions);
                }
                Rebalance::Revoke { partitions, .. } => consumer.unassign(&partitions)?,
            }
        }
        starting.retain(|&partition| consumer.start(partition, 0).is_err());
        busy = busy && matches!(settled.try_recv(), Err(TryRecvError::Empty));
        let left = begun.map_or(Duration::from_millis(20), |begun| {
            time_max.saturating_sub(begun.elapsed())
        });
        let full = batch.records >= limits.records_max || batch.bytes >= limits.bytes_max;
        if full || (left.is_zero() && begun.is_some() && !busy) {
            if busy {
                settled.recv_timeout(TIMEOUT).context("a settlement hung")?;
            }
            let mut offsets = TopicPartitionList::new();
            for (partition, next) in (0..).zip(&mut next) {
                if let Some(next) = next.take() {
                    offsets.add_partition_offset(&config.topics.raw, partition, Offset::Offset(next))?;
                }
            }
            let group = consumer.group().context("not in a group")?;
            jobs.send(Job {
                batch: std::mem::take(&mut batch),
                offsets,
                group,
            })
            .map_err(|_| anyhow::anyhow!("the settler ended"))?;
            (busy, begun) = (true, None);
            continue;
        }
        let mut chunk = Messages::with_capacity(CHUNK_RECORDS);
        let records_max = if begun.is_none() {
            1
        } else {
            CHUNK_RECORDS.min(limits.records_max - batch.records)
        };
        consumer.consume(&mut chunk, records_max, left);
        if chunk.is_empty() {
            continue;
        }
        begun.get_or_insert_with(Instant::now);
        for message in chunk.iter() {
            next[message.partition() as usize] = Some(message.offset() + 1);
            batch.bytes += message.value().len();
        }
        batch.records += chunk.len();
        batch.chunks.push(chunk);
    }
    drop(jobs);
    settler
        .join()
        .map_err(|_| anyhow::anyhow!("the settler panicked"))?
}

/// The producing half.
struct Settling {
    clean: Topic,
    producer: BaseProducer,
}

impl Settling {
    fn new(settings: &Settings, config: &Config, index: usize) -> Result<Self> {
        let producer = BaseProducer::from_config(&settings.settler(index).client)?;
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
            ensure!(raw::flush(&self.producer, TIMEOUT), "not delivered in time");
            self.producer.commit_transaction(TIMEOUT)?;
            drop(job);
            if outbox.send(()).is_err() {
                break;
            }
        }
        Ok(())
    }
}
