//! Scope, progress and failure of a verification.

use apache_avro::Schema;

use super::judge::Rules;
use super::mark::Mark;
use super::topics::Topics;
use crate::kafka::{Kafka, KafkaError, Range, ReadError};

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
