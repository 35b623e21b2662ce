//! Whether the gate's memory is bounded: one process, and millions of events, produced as fast as it consumes them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::contender::{Contender, Running, Usage};
use crate::session::{Profile, Session, Topics};
use crate::throughput::Committed;

/// How often the resident set is sampled.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the gate may go without a commit before the run fails.
const STALL_TIME_MAX: Duration = Duration::from_secs(60);
/// Number of events produced before the generator checks whether the run has ended.
const SLICE_RECORDS: u64 = 100_000;

/// The gate's memory over one run.
#[derive(Clone, Debug, Serialize)]
pub struct Soak {
    /// How the events are signed.
    pub profile: Profile,
    /// Number of events.
    pub records: u64,
    /// Duration of the run, in seconds.
    pub seconds: f64,
    /// The mean resident set of each tenth of the events, in MiB.
    pub rss_mib: Vec<f64>,
    /// The largest resident set, in MiB.
    pub rss_max_mib: f64,
}

/// Runs the gate while events are produced.
pub fn measure(session: &Session, records: u64) -> Result<Soak> {
    let topics = session.topics(None)?;
    let mut running = Running::start(session, Contender::Gate, &session.settings(&topics, 1))?;
    let (started, ended) = (Instant::now(), AtomicBool::new(false));
    let watched = thread::scope(|scope| {
        let producer = scope.spawn(|| produce(session, &topics, records, &ended));
        let watched = watch(session, &topics, records, &mut running);
        ended.store(true, Ordering::Relaxed);
        let produced = producer
            .join()
            .map_err(|_| anyhow::anyhow!("the producer panicked"))?;
        produced.and(watched)
    });
    let (tenths, end) = watched?;
    let seconds = started.elapsed().as_secs_f64();
    running.stop()?;
    session.delete(&topics)?;
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    Ok(Soak {
        profile: session.profile,
        records,
        seconds,
        rss_mib: tenths.iter().map(|samples| mib(mean(samples))).collect(),
        rss_max_mib: mib(end.rss_max_bytes as f64),
    })
}

fn produce(session: &Session, topics: &Topics, records: u64, ended: &AtomicBool) -> Result<()> {
    let mut fleet = session.fleet(&topics.raw);
    let mut left = records;
    while left > 0 && !ended.load(Ordering::Relaxed) {
        left -= fleet
            .produce(&session.kafka, left.min(SLICE_RECORDS), &mut |_| ())?
            .records;
    }
    Ok(())
}

/// Samples the resident set, in bytes, for each tenth of the records, until all are committed.
fn watch(
    session: &Session,
    topics: &Topics,
    records: u64,
    running: &mut Running,
) -> Result<(Vec<Vec<u64>>, Usage)> {
    let offsets = Committed::new(session, topics.group(), &topics.raw)?;
    let bar = session.bar(&format!("soak ({})", running.pid()), records);
    let mut tenths = vec![Vec::new(); 10];
    let mut last = Instant::now();
    loop {
        thread::sleep(SAMPLE_INTERVAL);
        session.go_on()?;
        let (usage, committed) = (running.usage()?, offsets.sum()?);
        tenths[(committed.saturating_sub(1) * 10 / records).min(9) as usize].push(usage.rss_bytes);
        if committed >= records {
            bar.finish_and_clear();
            return Ok((tenths, usage));
        }
        if committed > bar.position() {
            last = Instant::now();
            bar.set_position(committed);
        }
        if last.elapsed() > STALL_TIME_MAX {
            return Err(running.failed(&format!("has committed nothing since offset {}", bar.position())));
        }
    }
}

/// The mean; NaN for no samples.
fn mean(samples: &[u64]) -> f64 {
    samples.iter().sum::<u64>() as f64 / samples.len() as f64
}
