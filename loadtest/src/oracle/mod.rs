//! An oracle that shares no code with the gate: it reads raw, clean, deadletter and ledger topics, recomputes every
//! outcome that raw and keys determine, and says whether the four agree.
//!
//! It holds the topics to this:
//!
//! - every raw record is in exactly one ledger range, and in clean, in the deadletter, or a repeat of an accepted one;
//! - its outcome is one that it deserves (size, signature, key, audience, freshness on `LogAppendTime`, home partition,
//!   decoding, schema, binding, repeats; a rate limit is believed for records that are otherwise clean);
//! - clean has nothing else, nothing twice, and keeps the order of raw within a partition;
//! - the ledger's chain, ranges, counts, times and Merkle roots are those that the topics give;
//! - none of the planted strings stands in clean, deadletter or ledger.
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
//! // Before producing: what is there already is not to be accounted for again.
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
mod reading;
mod report;
mod signature;

use std::time::Instant;

use apache_avro::Schema;

use crate::kafka::{Kafka, KafkaError, Range, ReadError};
pub use event::{AvroSchemas, EventLimits};
pub use judge::{Judge, Once, Rate, Rules};
pub use keys::{BadKey, Keys};
pub use mark::Mark;
use reading::Reading;
pub use report::{Account, Occurrences, Place, Problem, Report};
pub use signature::{Signature, check_signature};

/// The four topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// What devices produce.
    pub raw: String,
    /// What the gate lets through.
    pub clean: String,
    /// What it turns away.
    pub deadletter: String,
    /// Its account.
    pub ledger: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self::prefixed("biometrics")
    }
}

impl Topics {
    /// `<prefix>.raw` and so on.
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

/// What to verify, and against what.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster.
    pub kafka: Kafka,
    /// The topics.
    pub topics: Topics,
    /// First half of the audience. Default `local`.
    pub environment: String,
    /// The gate's limits.
    pub rules: Rules,
    /// Account only for what came after. Take it while the gate has nothing left to do.
    pub since: Option<Mark>,
    /// Account only for these raw offsets (of the partitions that are named; the others wholly).
    pub raw_ranges: Vec<Range>,
    /// Strings that must be nowhere in clean, deadletter or ledger.
    pub planted: Vec<String>,
    /// The schema of clean records, where they are Avro.
    pub clean_schema: Option<Schema>,
    /// The most records of one topic that are read: an account takes about 200 bytes for each. Default 20 million.
    pub records_max: u64,
}

impl Config {
    /// The default topics of a cluster, wholly.
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

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `ledger`, `deadletter`, `clean`, `raw` or `compare`.
    pub stage: &'static str,
    /// Offsets read so far in this stage.
    pub done: u64,
    /// Offsets to be read in this stage.
    pub total: u64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// Kafka could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The planted strings cannot be searched for.
    #[error("the planted strings cannot be searched for: {0}")]
    Planted(#[from] aho_corasick::BuildError),
    /// The topics do not belong together.
    #[error("`{topic}` has {partitions} partitions and `{raw}` has {expected}; they must have as many")]
    Partitions {
        /// The topic.
        topic: String,
        /// How many it has.
        partitions: usize,
        /// The raw topic.
        raw: String,
        /// How many that has.
        expected: usize,
    },
}

impl From<KafkaError> for OracleError {
    fn from(error: KafkaError) -> Self {
        Self::Read(error.into())
    }
}

/// Reads the four topics up to their ends as they are now, and compares. Blocking; about 200,000 raw records a second.
///
/// # Errors
/// When the topics cannot be read, do not belong together, or are larger than the limit. What is wrong *in* them is in the
/// report.
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
