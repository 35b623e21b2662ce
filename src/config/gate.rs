//! The gate's own settings: its identity, the size of a transaction, and timeouts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use pulsegate_core::gate::{admit, verify};
use pulsegate_settings::Check;

/// The gate: its workers, batches and stages.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Consumer group. Default: `pulsegate-gate`.
    pub group: String,
    /// Name of this process within the group, part of the transactional ids: no two running processes may share it.
    /// Default: empty, which means the host name.
    pub instance: String,
    /// Worker threads, each with its own consumer and producer. Default: 1.
    pub workers: usize,
    /// Limits of one transaction.
    pub batch: BatchLimits,
    /// Limits of signature verification.
    pub verify: verify::Config,
    /// Limits of the replay and rate checks.
    pub admit: admit::Config,
    /// Time after which the broker aborts an open transaction, in milliseconds. Default: 30,000.
    pub transaction_timeout_ms: u64,
    /// Time that one call of the transactional producer may take before the worker replaces the producer, in
    /// milliseconds. Default: 20,000.
    pub settle_timeout_ms: u64,
    /// Time that a stopping gate may take to finish the open transaction, in milliseconds. Default: 10,000.
    pub drain_timeout_ms: u64,
}

/// Limits of one transaction; the first that is reached closes the batch.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BatchLimits {
    /// Maximum number of records. Default: 10,000.
    pub records_max: usize,
    /// Maximum received bytes of keys and values; the record that reaches it is the last. Default: 8 MiB.
    pub bytes_max: usize,
    /// Maximum time since the first record, in milliseconds. Default: 100.
    pub time_max_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            group: "pulsegate-gate".to_owned(),
            instance: String::new(),
            workers: 1,
            batch: BatchLimits::default(),
            verify: verify::Config::default(),
            admit: admit::Config::default(),
            transaction_timeout_ms: 30_000,
            settle_timeout_ms: 20_000,
            drain_timeout_ms: 10_000,
        }
    }
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            records_max: 10_000,
            bytes_max: 8 << 20,
            time_max_ms: 100,
        }
    }
}

impl Config {
    /// Reports invalid values.
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
