//! How fast a contender processes a full topic, and its CPU time per event.
//!
//! The clock starts when a tenth of the records is committed and ends with the last. Joining the group, opening lanes
//! and creating ten thousand subject keys, which takes the vault about a second, is therefore not measured. Committed
//! offsets alone prove nothing, so the records visible to a `read_committed` reader are counted afterwards.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pulsegate::io::kafka::committed::committed;
use pulsegate_loadtest::kafka::{read_all, watermarks};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::BaseConsumer;
use serde::Serialize;

use crate::contender::{Contender, Running, Usage};
use crate::session::{PARTITIONS, Profile, Session};

/// How often committed offsets are requested: often enough to measure a run of seconds to within a percent, and rarely
/// enough not to load the broker.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);
/// One part in this many of the records is the warm-up, which is not measured.
const WARM_UP: u64 = 10;
/// How long a contender may go without a commit before the run fails.
const STALL_TIME_MAX: Duration = Duration::from_secs(60);
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// A raw topic full of signed events.
pub struct Raw {
    name: String,
    records: u64,
}

/// One run of one contender.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// How the events are signed.
    pub profile: Profile,
    /// Number of workers.
    pub workers: usize,
    /// The contender that was measured.
    pub contender: Contender,
    /// Committed events per second of wall time.
    pub events_per_second: f64,
    /// CPU time of the process per event, in microseconds.
    pub cpu_us: f64,
    /// The largest resident set, in MiB.
    pub rss_max_mib: f64,
}

/// The state of a run at one instant.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    committed: u64,
    usage: Usage,
}

/// Produces the events that every run of this session consumes.
pub fn generate(session: &Session, records: u64) -> Result<Raw> {
    let topics = session.topics(None)?;
    let bar = session.bar("generating", records);
    let made = session
        .fleet(&topics.raw)
        .produce(&session.kafka, records, &mut |produced| {
            bar.set_position(produced)
        })?;
    bar.finish_and_clear();
    let bytes = made.value_bytes / records;
    println!("{}: {records} events of {bytes} bytes", session.profile.name());
    session.delete(&topics)?;
    Ok(Raw {
        name: topics.raw,
        records,
    })
}

/// Runs one contender over the topic.
pub fn measure(session: &Session, contender: Contender, raw: &Raw, workers: usize) -> Result<Run> {
    session.go_on()?;
    let topics = session.topics(Some(&raw.name))?;
    let offsets = Committed::new(session, topics.group(), &topics.raw)?;
    let mut running = Running::start(session, contender, &session.settings(&topics, workers))?;
    let bar = session.bar(
        &format!("{} × {workers} ({})", contender.name(), running.pid()),
        raw.records,
    );
    let (mut first, mut last) = (None::<Sample>, Instant::now());
    let end = loop {
        thread::sleep(SAMPLE_INTERVAL);
        session.go_on()?;
        let sample = Sample {
            committed: offsets.sum()?,
            usage: running.usage()?,
            at: Instant::now(),
        };
        if sample.committed > bar.position() {
            last = sample.at;
            bar.set_position(sample.committed);
            if sample.committed >= raw.records / WARM_UP {
                first.get_or_insert(sample);
            }
        }
        if sample.committed >= raw.records {
            break sample;
        }
        if last.elapsed() > STALL_TIME_MAX {
            return Err(running.failed(&format!("has committed nothing since offset {}", bar.position())));
        }
    };
    running.stop()?;
    bar.finish_and_clear();
    let visible = count(session, &topics.clean())?;
    ensure!(
        visible == raw.records,
        "{} of {} events are visible in {}",
        visible,
        raw.records,
        topics.clean()
    );
    session.delete(&topics)?;
    let begin = first.unwrap_or(end);
    let events = (end.committed - begin.committed) as f64;
    ensure!(
        events > 0.0,
        "too few records to measure: everything was committed at once"
    );
    Ok(Run {
        profile: session.profile,
        workers,
        contender,
        events_per_second: events / (end.at - begin.at).as_secs_f64(),
        cpu_us: (end.usage.cpu - begin.usage.cpu).as_secs_f64() * 1e6 / events,
        rss_max_mib: end.usage.rss_max_bytes as f64 / f64::from(1 << 20),
    })
}

/// Number of records that a `read_committed` reader sees.
pub fn count(session: &Session, topic: &str) -> Result<u64> {
    let mut records = 0;
    read_all(&session.kafka, topic, &watermarks(&session.kafka, topic)?, |_| {
        records += 1;
        Ok(())
    })?;
    Ok(records)
}

/// A group's committed offsets, requested from outside the group.
pub struct Committed {
    client: BaseConsumer,
    partitions: TopicPartitionList,
}

impl Committed {
    /// A client for the group's offsets in `raw`.
    pub fn new(session: &Session, group: &str, raw: &str) -> Result<Self> {
        // With `read_committed` the broker does not answer while a transaction holds an offset back, which is most of
        // the time: a run then had only one or two samples.
        let client = session
            .client
            .clone()
            .set("group.id", group)
            .set("isolation.level", "read_uncommitted")
            .create()?;
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_range(raw, 0, PARTITIONS - 1);
        Ok(Self { client, partitions })
    }

    /// Number of committed records: the topic was empty when the session began, so offsets are counts.
    pub fn sum(&self) -> Result<u64> {
        let committed = committed(&self.client, self.partitions.clone(), ASK_TIMEOUT)?;
        let offsets = committed.into_iter().filter_map(|(_, offset)| offset);
        Ok(offsets.filter_map(|offset| u64::try_from(offset).ok()).sum())
    }
}
