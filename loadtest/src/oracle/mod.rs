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

use std::time::Instant;

use apache_avro::Schema;

use crate::kafka::{Kafka, KafkaError, Range, ReadError};
pub use event::{AvroSchemas, EventLimits};
pub use judge::{Judge, Rate, Rules};
pub use keys::{BadKey, Keys};
pub use mark::Mark;
pub use once::Once;
use reading::Reading;
pub use report::{Account, Occurrences, Place, Problem, Report};
pub use signature::{Signature, check_signature};

/// The four topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Written by the devices.
    pub raw: String,
    /// Records that the gate accepted.
    pub clean: String,
    /// Records that the gate rejected.
    pub deadletter: String,
    /// The gate's account of every raw record.
    pub ledger: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self::prefixed("biometrics")
    }
}

impl Topics {
    /// The topics `<prefix>.raw` and so on.
    #[must_use]
    pub fn prefixed(prefix: &str) -> Self {
        let name = |suffix: &str| format!("{prefix}.{suffix}");
        Self {
            raw: name("raw"),
            clean: name("clean"),
            deadletter: name("deadletter"),
            ledger: name("ledger"),
        }
    }
}

/// Scope and rules of a verification.
#[derive(Clone, Debug)]
pub struct Config {
    /// Cluster that holds the topics.
    pub kafka: Kafka,
    /// Names of the four topics.
    pub topics: Topics,
    /// Environment: the first half of the audience. Default `local`.
    pub environment: String,
    /// Limits of the gate's configuration.
    pub rules: Rules,
    /// Account only for records after this mark. Take it when the gate has caught up.
    pub since: Option<Mark>,
    /// Account only for these raw offsets, in the partitions that are named; other partitions are verified completely.
    pub raw_ranges: Vec<Range>,
    /// Strings that must not appear in clean, deadletter or ledger.
    pub planted: Vec<String>,
    /// Schema of clean records, if they are Avro.
    pub clean_schema: Option<Schema>,
    /// Maximum number of records read from one topic, at about 200 bytes of memory each. Default 20 million.
    pub records_max: u64,
}

impl Config {
    /// Verifies the default topics of a cluster completely.
    #[must_use]
    pub fn new(kafka: Kafka) -> Self {
        Self {
            kafka,
            topics: Topics::default(),
            environment: "local".to_owned(),
            rules: Rules::default(),
            since: None,
            raw_ranges: Vec::new(),
            planted: Vec::new(),
            clean_schema: None,
            records_max: 20_000_000,
        }
    }
}

/// Progress of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `ledger`, `deadletter`, `clean`, `raw` or `compare`.
    pub stage: &'static str,
    /// Number of offsets read so far in this stage.
    pub done: u64,
    /// Number of offsets to read in this stage.
    pub total: u64,
}

/// Why a verification produced no report.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// Kafka could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The search for planted strings could not be set up.
    #[error("failed to build the search for planted strings: {0}")]
    Planted(#[from] aho_corasick::BuildError),
    /// The topics do not belong together: their numbers of partitions differ.
    #[error("`{topic}` has {partitions} partitions and `{raw}` has {expected}; the numbers must be equal")]
    Partitions {
        /// Topic behind the gate.
        topic: String,
        /// Its number of partitions.
        partitions: usize,
        /// Raw topic.
        raw: String,
        /// The raw topic's number of partitions.
        expected: usize,
    },
}

impl From<KafkaError> for OracleError {
    fn from(error: KafkaError) -> Self {
        Self::Read(error.into())
    }
}

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
