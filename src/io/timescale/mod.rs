//! TimescaleDB: what the watch stores, each thing exactly once.
//!
//! A batch of one partition and the step of that partition's offset are one transaction ([`crate::io::postgres::offsets`]), so that nothing
//! has to be recognised as a duplicate. [`analytics`] is the sink for readings and findings; [`operations`] takes KPIs
//! and the state of jobs. The two editions of TimescaleDB give the same results in different ways ([`edition`]).

mod account;
pub mod analytics;
mod cohorts;
pub mod edition;
mod findings;
mod groups;
mod jobs;
pub mod operations;
mod outbox;
mod rollouts;
mod rows;
pub mod schema;
mod settled;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::account::Found;
pub use self::analytics::{Analytics, Batch, Claim, Snapshot};
pub use self::jobs::{JobLock, Ran};
pub use self::operations::{JobRun, Operations};
pub use self::outbox::{OutboxBatch, OutboxRow};
pub use self::rollouts::{Chosen, ROLLOUT_DAYS};
pub use self::settled::SettledBatch;
use crate::io::postgres::{Access, check_url};
pub use pulsegate_detect::kpi::Kpi;
pub use pulsegate_detect::reading::{DeviceVersion, Metric, Name, Reading, Token, Version};
use pulsegate_settings::{Check, Secret};

/// How the databases of the watch are reached, and how long what is in them is kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The analytics database's URL, `postgres://role:password@host:port/database`. Default: none; then the login file of
    /// the role in `databases.logins_directory` is read, which `pulsegate topology apply` has written.
    pub analytics_url: Secret,
    /// The operations database's URL. Default: none, as above.
    pub operations_url: Secret,
    /// Connections to the analytics database that one process keeps open. Default: 5.
    pub connections_min: u32,
    /// Connections to the analytics database that one process opens at most. Default: 50.
    pub connections_max: u32,
    /// How long to wait for a connection, in milliseconds. Default: 2,000.
    pub acquire_time_max_ms: u64,
    /// How long a batch or another request may take until the database counts as down, in milliseconds. Default: 30,000.
    pub request_time_max_ms: u64,
    /// How long a recurring job may take, or one hour of readings of one that measures them hour by hour, in seconds.
    /// Default: 600.
    pub job_time_max_s: u64,
    /// The range of time of one chunk of readings, in hours; `topology apply` sets it for chunks to come. The indexes of
    /// the chunks that are written to should fit into a quarter of the server's memory: at 5,000 readings a second an
    /// hour's is 1.6 GB. Default: 1.
    pub chunk_interval_hours: u32,
    /// How long readings are kept, in days; 9 at least, since rollouts of the last week are judged by them. What a device
    /// claims to have measured before that is stored at the time when the broker took it. Default: 90.
    pub readings_days: u32,
    /// How long findings, rollups and KPIs are kept, in days. Default: 730.
    pub rollups_days: u32,
}

/// What the databases of the watch are told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How databases are reached.
    pub access: Access,
    /// The section of the watch's databases.
    pub timescale: Config,
    /// How long findings wait for others like them, in seconds (`watch.groups.wait_s`).
    pub group_wait_s: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            analytics_url: Secret::default(),
            operations_url: Secret::default(),
            connections_min: 5,
            connections_max: 50,
            acquire_time_max_ms: 2_000,
            request_time_max_ms: 30_000,
            job_time_max_s: 600,
            chunk_interval_hours: 1,
            readings_days: 90,
            rollups_days: 730,
        }
    }
}

/// Chunks that readings may come to: PostgreSQL plans a query over some thousands of tables, not over tens of thousands.
const CHUNKS_MAX: u64 = 10_000;
/// Readings have to be there as long as rollouts are judged by them: also those of the day before the oldest, until the
/// present day is over.
const READINGS_DAYS_MIN: u64 = ROLLOUT_DAYS as u64 + 2;

impl Config {
    /// What is wrong with the values.
    pub fn check(&self, check: &mut Check) {
        check_url("analytics_url", &self.analytics_url, check);
        check_url("operations_url", &self.operations_url, check);
        check.range("connections_max", self.connections_max.into(), 1..=50);
        check.range(
            "connections_min",
            self.connections_min.into(),
            0..=self.connections_max.into(),
        );
        check.range("acquire_time_max_ms", self.acquire_time_max_ms, 10..=60_000);
        check.range("request_time_max_ms", self.request_time_max_ms, 100..=600_000);
        check.range("job_time_max_s", self.job_time_max_s, 1..=86_400);
        check.range(
            "chunk_interval_hours",
            self.chunk_interval_hours.into(),
            1..=24 * 31,
        );
        check.range(
            "readings_days",
            self.readings_days.into(),
            READINGS_DAYS_MIN..=3_650,
        );
        check.range(
            "rollups_days",
            self.rollups_days.into(),
            self.readings_days.into()..=36_500,
        );
        if u64::from(self.readings_days) * 24 > CHUNKS_MAX * u64::from(self.chunk_interval_hours) {
            check.problem(
                "chunk_interval_hours",
                format!("makes more than {CHUNKS_MAX} chunks in readings_days; make it longer"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(config: &Config) -> Vec<String> {
        let mut check = Check::new("local");
        config.check(&mut check);
        check
            .into_problems()
            .into_iter()
            .map(|problem| problem.path)
            .collect()
    }

    #[test]
    fn limits_that_do_not_fit_together_are_named() {
        assert_eq!(problems(&Config::default()), [""; 0]);
        let many = Config {
            readings_days: 3_650,
            rollups_days: 3_650,
            ..Config::default()
        };
        assert_eq!(problems(&many), ["chunk_interval_hours"]);
        let short = |readings_days| Config {
            readings_days,
            ..Config::default()
        };
        assert_eq!(problems(&short(8)), ["readings_days"]);
        assert_eq!(problems(&short(9)), [""; 0]);
        let few = Config {
            connections_max: 3,
            rollups_days: 10,
            ..Config::default()
        };
        assert_eq!(problems(&few), ["connections_min", "rollups_days"]);
    }
}
