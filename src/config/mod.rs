//! The configuration: its settings, their sources, and the checks on their values.
//!
//! Every stage keeps its own settings beside its logic; here they are composed, layered ([`layers`]) and checked
//! together. Integers carry their unit last in the name (`batch.time_max_ms`).

mod checks;
pub mod gate;
pub mod layers;
mod stores;
pub mod watch;

use pulsegate_settings::{Check, Invalid, LOCAL, Problem};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};

pub use layers::{Inputs, Loaded};

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

impl Config {
    /// All problems of the values themselves, in the order of the settings.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::new(&self.environment);
        checks::check(self, &mut check);
        check.section("kafka", |check| self.kafka.check(check));
        check.section("topics", |check| self.topics.check(check));
        check.section("gate", |check| self.gate.check(check));
        check.section("watch", |check| self.watch.check(check));
        check.section("registry", |check| self.registry.check(check));
        check.section("vault", |check| self.vault.check(check));
        check.section("timescale", |check| self.timescale.check(check));
        check.section("audit", |check| self.audit.check(check));
        check.section("databases", |check| self.databases.check(check));
        check.section("topology", |check| self.topology.check(check));
        check.section("http", |check| self.http.check(check));
        check.section("log", |check| self.log.check(check));
        check.into_problems()
    }

    /// Name of this process in its group: `gate.instance`, or the host's name.
    ///
    /// # Errors
    ///
    /// When `gate.instance` is not set and the host's name can't be read.
    pub fn instance(&self) -> Result<String, Invalid> {
        if !self.gate.instance.is_empty() {
            return Ok(self.gate.instance.clone());
        }
        crate::io::host::name().ok_or_else(|| {
            let message = "must be set, because this host has no name";
            Invalid(vec![Problem::new("gate.instance", message)])
        })
    }

    /// SHA-256, in hex, of the configuration that a process runs with. Secrets do not go into it.
    #[must_use]
    pub fn digest(&self) -> String {
        pulsegate_ledger::log::entry::digest(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// The JSON schema of the configuration file.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        // Inline, because most sections are called `Config` in the code.
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        settings
            .into_generator()
            .into_root_schema_for::<Self>()
            .to_value()
    }
}

#[cfg(test)]
mod tests;
