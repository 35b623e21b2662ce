//! The whole of the settings: one member for each section.

use pulsegate_settings::LOCAL;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{gate, watch};

/// All settings.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The environment's name. Devices sign for it (`aud` is `<environment>/<topic>`), sealed fields are bound to it, and
    /// outside `local` every connection must be encrypted. Default: the name of the profile.
    pub environment: String,
    /// How to reach Kafka.
    pub kafka: crate::io::kafka::Config,
    /// The names of the topics.
    pub topics: crate::io::kafka::Topics,
    /// The gate: its workers, batches and stages.
    pub gate: gate::Config,
    /// The watch: its workers, batches and stages.
    pub watch: watch::Config,
    /// Events: their schemas, and their limits.
    pub event: pulsegate_core::event::Config,
    /// The schema registry.
    pub registry: crate::io::registry::Config,
    /// Where the key encryption key comes from.
    pub kek: pulsegate_core::crypto::kek::Config,
    /// The vault: device keys and subject keys.
    pub vault: crate::io::vault::Config,
    /// TimescaleDB: where the watch stores readings and findings.
    pub timescale: crate::io::timescale::Config,
    /// The audit log: its database, and the key that signs it.
    pub audit: crate::io::audit::Config,
    /// The databases, as `pulsegate topology` reaches them.
    pub databases: crate::io::postgres::Config,
    /// Settings that may differ between installations that share the declared topology.
    pub topology: crate::io::topology::Config,
    /// Health, readiness and metrics over HTTP.
    pub http: crate::io::http::Config,
    /// Logs.
    pub log: crate::telemetry::log::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            environment: LOCAL.to_owned(),
            kafka: Default::default(),
            topics: Default::default(),
            gate: Default::default(),
            watch: Default::default(),
            event: Default::default(),
            registry: Default::default(),
            kek: Default::default(),
            vault: Default::default(),
            timescale: Default::default(),
            audit: Default::default(),
            databases: Default::default(),
            topology: Default::default(),
            http: Default::default(),
            log: Default::default(),
        }
    }
}
