//! The section of the topology, and what the topology takes from other sections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::io::kafka::{self, Topics};
use crate::io::postgres;
use crate::io::timescale;
use pulsegate_settings::Check;

/// Settings that may differ between installations that share the declared topology.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Partitions of every topic. Default: as `topology/topics.toml` says (8).
    pub partitions: Option<u32>,
    /// Replicas of every topic; with three or more, two of them must acknowledge. Default: 1.
    pub replication_factor: Option<u32>,
    /// How long one request to Kafka or PostgreSQL may take, in milliseconds. Default: 30,000.
    pub request_time_max_ms: u64,
}

/// What the topology is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The environment; outside `local` logins are not made.
    pub environment: String,
    /// How to reach Kafka.
    pub kafka: kafka::Config,
    /// The names of the topics.
    pub topics: Topics,
    /// How to reach the databases.
    pub databases: postgres::Config,
    /// Its section.
    pub topology: Config,
    /// How long data are kept.
    pub timescale: timescale::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            partitions: None,
            replication_factor: None,
            request_time_max_ms: 30_000,
        }
    }
}

impl Config {
    /// Reports invalid values.
    pub fn check(&self, check: &mut Check) {
        if let Some(partitions) = self.partitions {
            check.range("partitions", partitions.into(), 1..=10_000);
        }
        if let Some(replicas) = self.replication_factor {
            check.range("replication_factor", replicas.into(), 1..=15);
        }
        check.range("request_time_max_ms", self.request_time_max_ms, 100..=600_000);
    }
}
