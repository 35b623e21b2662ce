//! The section of the watch's databases.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::io::postgres::{Access, check_url};
use pulsegate_detect::regression::schedule::ROLLOUT_DAYS;
use pulsegate_settings::{Check, Secret};

/// Connections to the watch's databases, and retention of their data.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The analytics database's URL, `postgres://role:password@host:port/database`. Default: none; the role's login
    /// file in `databases.logins_directory`, written by `pulsegate topology apply`, is used then.
    pub analytics_url: Secret,
    /// The operations database's URL. Default: none, as above.
    pub operations_url: Secret,
    /// Connections to the analytics database that each process keeps open. Default: 5.
    pub connections_min: u32,
    /// Maximum number of connections to the analytics database per process. Default: 50.
    pub connections_max: u32,
    /// How long to wait for a connection, in milliseconds. Default: 2,000.
    pub acquire_time_max_ms: u64,
    /// Time limit of a batch or another request, after which the database counts as down, in milliseconds. Default:
    /// 30,000.
    pub request_time_max_ms: u64,
    /// Time limit of a recurring job, or of one hour of readings in a job that works hour by hour, in seconds. Default:
    /// 600.
    pub job_time_max_s: u64,
    /// Time range of one chunk of readings, in hours; `topology apply` sets it for future chunks. The indexes of the
    /// chunks being written should fit into a quarter of the server's memory: at 5,000 readings a second one hour takes
    /// 1.6 GB. Default: 1.
    pub chunk_interval_hours: u32,
    /// Retention of readings, in days; at least 9, since rollouts of the last week are judged by them. A reading whose
    /// claimed time is older is stored at the time when the broker received it. Default: 90.
    pub readings_days: u32,
    /// Retention of findings, rollups and KPIs, in days. Default: 730.
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

/// Most chunks of readings: PostgreSQL can plan a query over some thousands of tables, not over tens of thousands.
const CHUNKS_MAX: u64 = 10_000;
/// Readings must outlive the judgement of rollouts, including the day before the oldest rollout, until the present day
/// is over.
const READINGS_DAYS_MIN: u64 = ROLLOUT_DAYS as u64 + 2;

impl Config {
    /// Reports invalid settings to `check`.
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
                format!("yields more than {CHUNKS_MAX} chunks in readings_days; increase it"),
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
    fn contradicting_limits_are_reported() {
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
