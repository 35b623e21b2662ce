//! The vault database: device keys and subject keys, wrapped.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Check, Secret};
use crate::io::topology::databases::check_url;

/// How the vault is reached and what is kept of it in memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The vault's URL, `postgres://role:password@host:port/database`. Default: none; then the login file of the
    /// command's role in `databases.logins_directory` is read, which `pulsegate topology apply` has written.
    pub url: Secret,
    /// Connections that one process opens at most. Default: 8.
    pub connections_max: u32,
    /// How long to wait for a connection, in milliseconds. Default: 2,000.
    pub acquire_time_max_ms: u64,
    /// How long one request may take until the vault counts as down, in milliseconds. Default: 2,000.
    pub request_time_max_ms: u64,
    /// How often a gate asks for changes of device keys, in milliseconds; a change reaches it within this time and a
    /// request. Default: 500.
    pub poll_interval_ms: u64,
    /// Subject keys that are kept in memory. Default: 100,000.
    pub subjects_max: usize,
    /// How long a subject key is used before it is asked for again, in seconds. Default: 1,800.
    pub subject_fresh_s: u64,
    /// How long a subject key is used at most while the vault is down, in seconds since it was last read; after that its
    /// records are held. It bounds how long a shredded subject can still be sealed for. Default and most: 3,600.
    pub subject_stale_s: u64,
    /// How often the use counts of subject keys are written to the vault, in seconds. Default: 30.
    pub report_interval_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            connections_max: 8,
            acquire_time_max_ms: 2_000,
            request_time_max_ms: 2_000,
            poll_interval_ms: 500,
            subjects_max: 100_000,
            subject_fresh_s: 1_800,
            subject_stale_s: 3_600,
            report_interval_s: 30,
        }
    }
}

impl Config {
    /// What is wrong with the values.
    pub fn check(&self, check: &mut Check) {
        check_url("vault.url", &self.url, check);
        check.range("vault.connections_max", self.connections_max.into(), 1..=64);
        check.range("vault.acquire_time_max_ms", self.acquire_time_max_ms, 10..=60_000);
        check.range("vault.request_time_max_ms", self.request_time_max_ms, 10..=60_000);
        check.range("vault.poll_interval_ms", self.poll_interval_ms, 10..=60_000);
        check.range("vault.subjects_max", self.subjects_max as u64, 1_000..=10_000_000);
        check.range("vault.subject_stale_s", self.subject_stale_s, 1..=3_600);
        check.range(
            "vault.subject_fresh_s",
            self.subject_fresh_s,
            1..=self.subject_stale_s,
        );
        check.range("vault.report_interval_s", self.report_interval_s, 1..=3_600);
    }
}
