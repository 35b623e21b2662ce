//! The section of the vault.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::io::postgres::{Access, check_url};
use pulsegate_settings::{Check, Secret};

/// How the vault is reached, and how much of it is cached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The vault's URL, `postgres://role:password@host:port/database`. Default: none; then the login file of the
    /// command's role, which `pulsegate topology apply` has written to `databases.logins_directory`, is read.
    pub url: Secret,
    /// Most connections that one process opens. Default: 8.
    pub connections_max: u32,
    /// How long to wait for a connection, in milliseconds. Default: 2,000.
    pub acquire_time_max_ms: u64,
    /// How long one request may take before the vault counts as down, in milliseconds. Default: 2,000.
    pub request_time_max_ms: u64,
    /// How often a gate reads changes of device keys, in milliseconds; a change reaches it within this time plus one
    /// request. Default: 500.
    pub poll_interval_ms: u64,
    /// Most subject keys that are cached. Default: 100,000.
    pub subjects_max: usize,
    /// How long a subject key is used before it is fetched again, in seconds. Default: 1,800.
    pub subject_fresh_s: u64,
    /// How long a subject key may be used while the vault is down, in seconds since it was last read; after that its
    /// records are held. It bounds how long a shredded subject can still be sealed for. Default and maximum: 3,600.
    pub subject_stale_s: u64,
    /// How often the use counts of subject keys are written to the vault, and key events are relayed from it to the
    /// audit log, in seconds. Default: 30.
    pub report_interval_s: u64,
}

/// What the vault is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How its database is reached, with the vault's own limits of time.
    pub access: Access,
    /// Its section.
    pub vault: Config,
    /// Where the key encryption key comes from.
    pub kek: pulsegate_core::crypto::kek::Config,
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
    /// Reports invalid values.
    pub fn check(&self, check: &mut Check) {
        check_url("url", &self.url, check);
        check.range("connections_max", self.connections_max.into(), 1..=64);
        check.range("acquire_time_max_ms", self.acquire_time_max_ms, 10..=60_000);
        check.range("request_time_max_ms", self.request_time_max_ms, 10..=60_000);
        check.range("poll_interval_ms", self.poll_interval_ms, 10..=60_000);
        check.range("subjects_max", self.subjects_max as u64, 1_000..=10_000_000);
        check.range("subject_stale_s", self.subject_stale_s, 1..=3_600);
        check.range("subject_fresh_s", self.subject_fresh_s, 1..=self.subject_stale_s);
        check.range("report_interval_s", self.report_interval_s, 1..=3_600);
    }
}
