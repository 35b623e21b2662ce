//! The gate's own settings: who it is, how much one transaction may hold, and how long things may take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use pulsegate_core::gate::{admit, verify};
use pulsegate_settings::Check;

/// The gate: its workers, batches and stages.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The consumer group. Default: `pulsegate-gate`.
    pub group: String,
    /// This process among the group's, part of the transactional ids: two running processes must not share it. Default:
    /// empty, which takes the host's name.
    pub instance: String,
    /// Worker threads, each with its own consumer and producer. Default: 1.
    pub workers: usize,
    /// What one transaction may hold.
    pub batch: Batch,
    /// How records are verified.
    pub verify: verify::Config,
    /// How records are admitted.
    pub admit: admit::Config,
    /// How long the broker leaves a transaction open before it aborts it, in milliseconds. Default: 30,000.
    pub transaction_timeout_ms: u64,
    /// How long one call of the transactional producer may take before its worker is given up, in milliseconds. Default:
    /// 20,000.
    pub settle_timeout_ms: u64,
    /// How long a stop may take to finish the open transaction, in milliseconds. Default: 10,000.
    pub drain_timeout_ms: u64,
}

/// What one transaction may hold; the first limit that is reached ends it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// Records. Default: 10,000.
    pub records_max: usize,
    /// Received bytes of keys and values; the record that reaches the limit is the last. Default: 8 MiB.
    pub bytes_max: usize,
    /// Time from its first record, in milliseconds. Default: 100.
    pub time_max_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            group: "pulsegate-gate".to_owned(),
            instance: String::new(),
            workers: 1,
            batch: Batch::default(),
            verify: verify::Config::default(),
            admit: admit::Config::default(),
            transaction_timeout_ms: 30_000,
            settle_timeout_ms: 20_000,
            drain_timeout_ms: 10_000,
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            records_max: 10_000,
            bytes_max: 8 << 20,
            time_max_ms: 100,
        }
    }
}

impl Config {
    /// Notes what makes no sense.
    pub fn check(&self, check: &mut Check) {
        if self.group.is_empty() {
            check.problem("group", "must not be empty");
        }
        check.range("workers", self.workers as u64, 1..=256);
        check.range("batch.records_max", self.batch.records_max as u64, 1..=1_000_000);
        check.range("batch.bytes_max", self.batch.bytes_max as u64, 1024..=1 << 30);
        check.range("batch.time_max_ms", self.batch.time_max_ms, 1..=60_000);
        // The broker's own upper bound, `transaction.max.timeout.ms`, is 15 minutes unless it was changed.
        check.range(
            "transaction_timeout_ms",
            self.transaction_timeout_ms,
            1_000..=900_000,
        );
        check.range(
            "settle_timeout_ms",
            self.settle_timeout_ms,
            100..=self.transaction_timeout_ms,
        );
        check.range("drain_timeout_ms", self.drain_timeout_ms, 100..=600_000);
        check.section("verify", |check| self.verify.check(check));
        check.section("admit", |check| self.admit.check(check));
        if self.batch.time_max_ms >= self.transaction_timeout_ms {
            check.problem(
                "batch.time_max_ms",
                "must be less than transaction_timeout_ms, or every batch is aborted",
            );
        }
    }
}
