//! `make bench`: compares the gate with the fastest possible substitute, a transactional copy of the same topic that
//! does no other work ([`copy`]).
//!
//! Absolute numbers drift with the machine by tens of percent; ratios within one session do not. Both therefore run as
//! child processes on the same records, in turns, and the result is the ratio gate ÷ copy:
//!
//! - **throughput**: committed events per second of wall time, and CPU time of the process per event, from its first
//!   commit to its last ([`throughput`]);
//! - **latency**: from append in raw to visible in clean for a `read_committed` reader, at a steady rate ([`latency`]);
//! - **memory**: resident size over millions of events (`--soak`, [`soak`]).
//!
//! ```text
//! make bench BENCH_ARGS='--bench gate'                                     everything, in about a quarter of an hour
//! make bench BENCH_ARGS='--bench gate -- --records 200000 --rounds 1'      a quick look
//! make bench BENCH_ARGS='--bench gate -- --soak'                           memory over 10 million events, instead
//! ```
//!
//! Measured on 2 cores shared with the broker, 1,000,000 events of 294 bytes, medians of three rounds
//! (smallest–largest):
//!
//! | profile | workers | copy, k events/s · CPU µs | gate, k events/s · CPU µs | gate ÷ copy |
//! |---|---|---|---|---|
//! | webhook | 1 | 422 (342–520) · 1.60 | 161 (153–164) · 6.54 | 0.38 · 4.1 |
//! | webhook | 2 | 225 (217–339) · 1.54 | 215 (206–246) · 6.52 | 0.96 · 4.2 |
//! | jws HS256 | 1 | 462 (360–532) · 1.37 | 172 (163–180) · 6.48 | 0.37 · 4.7 |
//! | jws HS256 | 2 | 480 (390–547) · 1.46 | 220 (208–253) · 6.29 | 0.46 · 4.3 |
//!
//! At 5,000 events per second, webhook, medians of five turns: p50 43 ms (copy: 37 ms), p99 72 ms (71–76; copy: 63 ms).
//! The ratio is **1.14**, within the goal of 1.3.
//!
//! The goal for CPU (2.0) is missed, and the goal for throughput (0.75) is reached only once. The copy never touches a
//! message and is bound by the broker; the gate is bound by its worker's thread. In warm loops of their own, the stages
//! take 0.6 + 0.6 + 1.4 + 0.1 µs (`--bench verify`, `walker`, `seal`, `admit`). With the copy's 1.5 µs, that is 4.2 µs:
//! already above the goal, without a cache miss, a header list or a ledger record. In the gate, a worker shares its
//! caches with the broker, and the stages take some 4.9 µs: headers, keys and values come from memory that another core
//! has written, and the rows of 10,000 devices and their subjects' keys come from beyond the second-level cache.
//! librdkafka's threads take another 1.2 µs.
//!
//! The profile of the worker's thread (perf) is flat: sealing 13 %, JSON 12 %, SHA-256 11 %, librdkafka's messages and
//! header lists with their allocations 11 %, the subject's key 8 % and the device's row 8 % (both cache misses),
//! copying 5 %. Tried and not kept, because the gain was below the variation between runs: `target-cpu=x86-64-v3` with
//! `+aes,+pclmulqdq,+sha` and smaller moves between the stages (7.37 to 7.29 µs), mimalloc and jemalloc also for
//! librdkafka, huge pages for malloc (7.29 to 6.99 µs), and prefetching the messages, device rows and subject keys of a
//! chunk into the cache (switched on and off every eight chunks within one process: no stage differs by more than its
//! own variation).
//!
//! To see where the gate's CPU time goes, use the process id that the bench prints under `--only gate`:
//!
//! ```text
//! perf record --call-graph=fp -F 499 -p PID -- sleep 10 && perf report --no-children
//! ```

mod contender;
mod copy;
mod latency;
mod report;
mod session;
mod soak;
mod throughput;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};

use contender::Contender;
use report::Report;
use session::{DEVICES, Profile, Session};

/// Maximum number of records: more would exceed the burst of a device's default rate, so the gate would reject some.
const RECORDS_MAX: u64 = DEVICES as u64 * 1000;

#[derive(Parser)]
#[command(
    about = "Compares the gate with a transactional copy",
    args_conflicts_with_subcommands = true
)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Copies raw to clean until SIGTERM; the bench runs this as the gate's reference
    Copy(copy::Args),
}

#[derive(clap::Args)]
struct Options {
    /// Number of events in the raw topic of the throughput runs
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// Number of turns of each contender, of which the median is reported
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Signature profiles to measure
    #[arg(long, value_delimiter = ',', default_value = "webhook,jws")]
    profiles: Vec<Profile>,
    /// Numbers of workers to measure
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    workers: Vec<usize>,
    /// Runs only this contender
    #[arg(long)]
    only: Option<Contender>,
    #[command(flatten)]
    latency: latency::Options,
    /// Measures only memory, over this many events, which are produced while the gate consumes them
    #[arg(long, value_name = "RECORDS", num_args = 0..=1, default_missing_value = "10000000")]
    soak: Option<u64>,
    /// Writes all results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Sets a value of the configuration for both contenders
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
}

impl Options {
    fn contenders(&self) -> Vec<Contender> {
        self.only
            .map_or_else(|| vec![Contender::Copy, Contender::Gate], |one| vec![one])
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.command {
        Some(Command::Copy(args)) => copy::run(args),
        None => bench(&args.options),
    }
}

fn bench(options: &Options) -> Result<()> {
    let records = options.soak.unwrap_or(options.records);
    ensure!(
        (1..=RECORDS_MAX).contains(&records),
        "the number of records must be 1 to {RECORDS_MAX}"
    );
    let mut report = Report::default();
    for &profile in &options.profiles {
        // Dropping the session removes everything it created, also after an error.
        let session = Session::open(profile, &options.set)?;
        match options.soak {
            Some(records) => report.soak.push(soak::measure(&session, records)?),
            None => measure(&session, options, &mut report)?,
        }
        // Print the results so far, in case the next profile fails.
        println!("{report}");
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

/// Measures the throughput and then the latency of one profile.
fn measure(session: &Session, options: &Options, report: &mut Report) -> Result<()> {
    if options.rounds > 0 {
        let raw = throughput::generate(session, options.records)?;
        // The first run warms up the broker's just-in-time compiler for transactions and is not counted.
        throughput::measure(session, Contender::Copy, &raw, 1)?;
        for &workers in &options.workers {
            for _ in 0..options.rounds {
                for contender in options.contenders() {
                    report
                        .throughput
                        .push(throughput::measure(session, contender, &raw, workers)?);
                }
            }
        }
    }
    for _ in 0..options.latency.latency_rounds {
        for contender in options.contenders() {
            report
                .latency
                .push(latency::measure(session, contender, &options.latency)?);
        }
    }
    Ok(())
}
