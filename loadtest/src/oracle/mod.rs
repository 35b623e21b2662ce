//! An oracle that shares no code with the gate: it reads the raw, clean, deadletter and ledger topics, recomputes every
//! outcome that raw and keys determine, and reports whether the four topics agree.
//!
//! The topics must satisfy:
//!
//! - every raw record is in exactly one ledger range, and in clean, in the deadletter, or a repeat of an accepted one;
//! - its outcome is one that it deserves (size, signature, key, audience, freshness on `LogAppendTime`, home partition,
//!   decoding, schema, binding, repeats; `rate_limited` is accepted for records that are otherwise clean);
//! - clean contains no other record, none twice, and keeps the order of raw within a partition;
//! - the ledger's chain, ranges, counts, times and Merkle roots agree with the topics;
//! - none of the planted strings appears in clean, deadletter or ledger.
//!
//! ```no_run
//! use pulsegate_loadtest::fleet::{Fleet, Options};
//! use pulsegate_loadtest::kafka::Kafka;
//! use pulsegate_loadtest::oracle::{self, Config, Keys, Mark};
//!
//! let fleet = Fleet::new(Options::new(7));
//! let lines: Vec<String> = fleet.import_lines().collect();
//! let keys = Keys::read(lines.iter().map(String::as_str))?;
//! let mut config = Config::new(Kafka::at("localhost:9092"));
//! config.planted = fleet.planted();
//! // Before producing: exclude what the topics already contain.
//! config.since = Some(Mark::take(&config.kafka, &config.topics)?);
//! // … produce, wait for the gate …
//! let report = oracle::verify(&config, &keys, &mut |progress| eprintln!("{}", progress.stage))?;
//! println!("{report}");
//! assert!(report.is_good());
//! # Ok::<(), anyhow::Error>(())
//! ```

mod config;
mod event;
mod judge;
mod keys;
mod lane;
mod ledger;
mod mark;
mod merkle;
mod once;
mod reading;
mod report;
mod signature;
mod topics;

use std::time::Instant;

pub use config::{Config, OracleError, Progress};
pub use event::{AvroSchemas, EventLimits};
pub use judge::{Judge, Rate, Rules};
pub use keys::{BadKey, Keys};
pub use mark::Mark;
pub use once::Once;
use reading::Reading;
pub use report::{Account, Occurrences, Place, Problem, Report};
pub use signature::{Signature, check_signature};
pub use topics::Topics;

/// Reads the four topics up to their current ends and compares them. Blocking; about 200,000 raw records per second.
///
/// # Errors
/// When the topics cannot be read, do not belong together, or exceed the limit. Problems *in* the topics are part of
/// the report.
pub fn verify(
    config: &Config,
    keys: &Keys,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, OracleError> {
    let started = Instant::now();
    let mut reading = Reading::open(config, progress)?;
    reading.ledger()?;
    reading.deadletter()?;
    reading.clean()?;
    reading.raw(keys)?;
    let Reading {
        lanes,
        mut report,
        progress,
        ..
    } = reading;
    let total = lanes.len() as u64;
    for (done, lane) in lanes.into_iter().enumerate() {
        progress(Progress {
            stage: "compare",
            done: done as u64,
            total,
        });
        let partition = lane.range.partition;
        let account = lane.settle(&config.rules, &config.topics, &mut report);
        report.lanes.insert(partition, account);
    }
    report.close();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}
