//! The time from an event's append to the raw topic until a `read_committed` reader of clean receives it, at a steady
//! rate.
//!
//! Both contenders keep the order of each partition and drop nothing here, so the n-th record of a clean partition is
//! the n-th of the raw one. The reader records arrivals while it runs; append times are read from raw afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use pulsegate_loadtest::fleet::Pace;
use pulsegate_loadtest::kafka::{read_all, watermarks};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde::Serialize;

use crate::contender::{Contender, Running};
use crate::session::{PARTITIONS, Profile, Session};

/// Time at the start that is not measured, until caches are filled and the group is stable.
const WARM_UP: Duration = Duration::from_secs(10);
/// How long the last events may take to arrive.
const LAST_TIME_MAX: Duration = Duration::from_secs(30);

/// Options of the latency measurement.
#[derive(clap::Args)]
pub struct Options {
    /// Number of turns of each contender at a steady rate, of which the median is reported, because a hiccup of the
    /// machine spoils a whole turn; 0 skips the measurement
    #[arg(long, default_value_t = 5)]
    pub latency_rounds: usize,
    /// Events per second
    #[arg(long, default_value_t = 5_000)]
    latency_rate: u32,
    /// Measured seconds of each turn
    #[arg(long, default_value_t = 15)]
    latency_seconds: u32,
    /// The commit interval of both contenders: `gate.batch.time_max_ms`
    #[arg(long, default_value_t = 50)]
    latency_batch_ms: u64,
}

/// One turn of one contender.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// How the events are signed.
    pub profile: Profile,
    /// The contender that was measured.
    pub contender: Contender,
    /// Median latency, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the latency, in milliseconds.
    pub p99_ms: f64,
    /// Largest latency, in milliseconds.
    pub max_ms: f64,
    /// Number of events measured.
    pub events: usize,
}

/// The time of each record of each partition, in microseconds since the Unix epoch.
type Times = Vec<Vec<i64>>;

/// Measures one contender at a steady rate.
pub fn measure(session: &Session, contender: Contender, options: &Options) -> Result<Latency> {
    session.go_on()?;
    let topics = session.topics(None)?;
    let mut settings = session.settings(&topics, 1);
    settings.push(format!("gate.batch.time_max_ms={}", options.latency_batch_ms));
    let mut running = Running::start(session, contender, &settings)?;
    let seconds = u64::from(options.latency_seconds) + WARM_UP.as_secs();
    let records = seconds * u64::from(options.latency_rate);
    let bar = session.bar(&format!("{} latency", contender.name()), records);
    let pace = Pace {
        rate: Some(f64::from(options.latency_rate)),
    };
    let (clean, produced) = (topics.clean(), AtomicBool::new(false));
    let arrived = thread::scope(|scope| {
        let reader = scope.spawn(|| arrivals(session, &clean, records, &produced));
        let mut fleet = session.fleet(&topics.raw);
        let made = fleet.produce_at(&session.kafka, records, pace, &mut |sent| bar.set_position(sent));
        produced.store(true, Ordering::Relaxed);
        let arrived = reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        made.and(arrived)
    })?;
    running.usage()?;
    running.stop()?;
    bar.finish_and_clear();
    let appended = appends(session, &topics.raw)?;
    session.delete(&topics)?;
    let mut taken = join(&appended, &arrived)?;
    taken.sort_unstable();
    ensure!(
        !taken.is_empty(),
        "no event was measured: --latency-seconds must be above 0"
    );
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    Ok(Latency {
        profile: session.profile,
        contender,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        events: taken.len(),
    })
}

/// Reads clean while it is being written, until all records have arrived.
fn arrivals(session: &Session, clean: &str, records: u64, produced: &AtomicBool) -> Result<Times> {
    let mut client = session.client.clone();
    client
        .set("group.id", "bench-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed");
    let reader: BaseConsumer = client.create()?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(clean, partition, Offset::Beginning)?;
    }
    reader.assign(&partitions)?;
    let mut times: Times = vec![Vec::new(); PARTITIONS as usize];
    let (mut left, mut heard) = (records, Instant::now());
    while left > 0 {
        session.go_on()?;
        // A busy broker may be slow, so only a silence after the last produced event is an error.
        if let Some(Ok(message)) = reader.poll(Duration::from_millis(100)) {
            times[message.partition() as usize].push(now_us());
            left -= 1;
            heard = Instant::now();
        }
        let silent = produced.load(Ordering::Relaxed) && heard.elapsed() > LAST_TIME_MAX;
        ensure!(!silent, "{left} of {records} events are not visible in {clean}");
    }
    Ok(times)
}

/// When the broker appended each raw record, to the millisecond.
fn appends(session: &Session, raw: &str) -> Result<Times> {
    let mut times: Times = vec![Vec::new(); PARTITIONS as usize];
    read_all(
        &session.kafka,
        raw,
        &watermarks(&session.kafka, raw)?,
        |message| {
            let appended_ms = message.timestamp().to_millis().unwrap_or_default();
            times[message.partition() as usize].push(appended_ms * 1000);
            Ok(())
        },
    )?;
    Ok(times)
}

/// The latency of each event that was appended after the warm-up, in microseconds.
fn join(appended: &Times, arrived: &Times) -> Result<Vec<i64>> {
    let begun = appended
        .iter()
        .filter_map(|times| times.first())
        .min()
        .copied()
        .unwrap_or_default();
    let counted = begun + WARM_UP.as_micros() as i64;
    let mut taken = Vec::new();
    for (appended, arrived) in appended.iter().zip(arrived) {
        ensure!(
            appended.len() == arrived.len(),
            "raw and clean have different numbers of records"
        );
        let pairs = appended
            .iter()
            .zip(arrived)
            .filter(|(appended, _)| **appended >= counted);
        taken.extend(pairs.map(|(appended, arrived)| arrived - appended));
    }
    Ok(taken)
}

fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_micros() as i64)
}
