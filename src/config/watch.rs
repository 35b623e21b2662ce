//! The watch's own settings.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use pulsegate_detect::{alert, lane, quality};
use pulsegate_settings::Check;

/// The highest value of `watch.batch.rows_max`.
pub const ROWS_MAX: usize = 10_000;

/// The watch: its workers, batches and stages.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Prefix of the names of the consumer groups; one group reads the clean topic and two read the ledger.
    /// Default: `pulsegate-watch`.
    pub group: String,
    /// Name of this process within the group, part of its clients' names. Default: empty, which means the host's name.
    pub instance: String,
    /// Worker threads for the clean topic, each with its own consumer. The ledger has two more. Default: 2.
    pub workers: usize,
    /// Limits of one write to a database.
    pub batch: BatchLimits,
    /// The file that describes the metrics. Default: `schemas/metrics.toml`.
    pub metrics_file: PathBuf,
    /// What counts as a fault of clock or transport.
    pub quality: quality::Config,
    /// How lanes score.
    pub lane: lane::Config,
    /// When a finding notifies people.
    pub alert: alert::Config,
    /// When one finding stands for many devices.
    pub groups: alert::GroupsConfig,
    /// Interval at which the state of a lane's detectors is stored, in seconds; after a restart the clean log is read
    /// again from there. Default: 300.
    pub snapshot_interval_s: u64,
    /// Number of records after which the state is stored before the interval is over. Default: 1,000,000.
    pub snapshot_records_max: u64,
    /// How long a stop may take to store what was read, in milliseconds. Default: 10,000.
    pub drain_timeout_ms: u64,
}

/// Limits of one write to a database; the first limit reached closes the batch. Each lane has one open batch.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BatchLimits {
    /// Maximum number of readings or ledger records. Default: 10,000.
    pub rows_max: usize,
    /// Maximum time from its first record, in milliseconds. It is most of the delay from a reading's append to its row:
    /// at 5,000 readings a second, half are stored after 106 ms, 99 % after 168 ms (`benches/watch.rs`). Default: 100.
    pub time_max_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            group: "pulsegate-watch".to_owned(),
            instance: String::new(),
            workers: 2,
            batch: BatchLimits::default(),
            metrics_file: PathBuf::from("schemas/metrics.toml"),
            quality: quality::Config::default(),
            lane: lane::Config::default(),
            alert: alert::Config::default(),
            groups: alert::GroupsConfig::default(),
            snapshot_interval_s: 300,
            snapshot_records_max: 1_000_000,
            drain_timeout_ms: 10_000,
        }
    }
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            rows_max: 10_000,
            time_max_ms: 100,
        }
    }
}

impl Config {
    /// Reports invalid settings.
    pub fn check(&self, check: &mut Check) {
        if self.group.is_empty() {
            check.problem("group", "must not be empty");
        }
        check.range("workers", self.workers as u64, 1..=256);
        check.range("batch.rows_max", self.batch.rows_max as u64, 1..=ROWS_MAX as u64);
        check.range("batch.time_max_ms", self.batch.time_max_ms, 1..=60_000);
        check.range("snapshot_interval_s", self.snapshot_interval_s, 1..=86_400);
        check.range(
            "snapshot_records_max",
            self.snapshot_records_max,
            1_000..=1_000_000_000,
        );
        check.range("drain_timeout_ms", self.drain_timeout_ms, 100..=600_000);
        check.section("quality", |check| self.quality.check(check));
        check.section("lane", |check| self.lane.check(check));
        if !(0.01..=1.0).contains(&self.alert.enter_score) {
            check.problem("alert.enter_score", "must be between 0.01 and 1");
        }
        check.section("groups", |check| self.groups.check(check));
    }
}
