//! The configuration: its settings, their sources, and the checks on their values.
//!
//! Every stage keeps its own settings beside its logic; here they are composed, layered ([`layers`]) and checked
//! together. Integers carry their unit last in the name (`batch.time_max_ms`).

mod checks;
pub mod layers;
mod secret;

use std::fmt;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};

pub use layers::{Inputs, Loaded};
pub use secret::{REDACTED, Secret};

/// The environment in which a development stack runs; the only one where plaintext connections are accepted.
pub const LOCAL: &str = "local";

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
    pub gate: crate::gate::Config,
    /// The watch: its workers, batches and stages.
    pub watch: crate::io::kafka::watch::Config,
    /// Events: their schemas, and their limits.
    pub event: crate::event::Config,
    /// The schema registry.
    pub registry: crate::io::registry::Config,
    /// Where the key encryption key comes from.
    pub kek: crate::crypto::kek::Config,
    /// The vault: device keys and subject keys.
    pub vault: crate::io::vault::Config,
    /// TimescaleDB: where the watch stores readings and findings.
    pub timescale: crate::io::timescale::Config,
    /// The audit log: its database, and the key that signs it.
    pub audit: crate::io::audit::Config,
    /// The databases, as `pulsegate topology` reaches them.
    pub databases: crate::io::topology::databases::Config,
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

/// One problem of the configuration. It names a setting, never its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The dotted path of the setting, such as `gate.batch.records_max`; empty when there is no single one.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
    /// Source of the value, unless it is a default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Problem {
    /// A problem of one setting.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            source: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, " (from {source})"),
            None => Ok(()),
        }
    }
}

/// An invalid configuration, with all its problems.
#[derive(Debug)]
pub struct Invalid(pub Vec<Problem>);

impl std::error::Error for Invalid {}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [problem] => write!(f, "the configuration has a problem: {problem}"),
            problems => {
                write!(f, "the configuration has {} problems:", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl Config {
    /// All problems of the values themselves, in the order of the settings.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check {
            local: self.environment == LOCAL,
            problems: Vec::new(),
        };
        checks::check(self, &mut check);
        self.kafka.check(&mut check);
        self.topics.check(&mut check);
        self.gate.check(&mut check);
        self.watch.check(&mut check);
        self.registry.check(&mut check);
        self.vault.check(&mut check);
        self.timescale.check(&mut check);
        self.audit.check(&mut check);
        self.databases.check(&mut check);
        self.topology.check(&mut check);
        self.http.check(&mut check);
        self.log.check(&mut check);
        check.problems
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
        whoami::hostname().map_err(|error| {
            let message = format!("must be set, because reading the host's name failed: {error}");
            Invalid(vec![Problem::new("gate.instance", message)])
        })
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

/// Collects problems while each section checks itself.
pub struct Check {
    /// Whether the environment is `local`, where plaintext connections are accepted.
    pub local: bool,
    problems: Vec<Problem>,
}

impl Check {
    /// Adds a problem of the setting at `path`.
    pub fn problem(&mut self, path: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(path, message));
    }

    /// Adds a problem if the setting at `path` is outside `range`.
    pub fn range(&mut self, path: &str, value: u64, range: std::ops::RangeInclusive<u64>) {
        if !range.contains(&value) {
            self.problem(
                path,
                format!("must be between {} and {}", range.start(), range.end()),
            );
        }
    }
}

#[cfg(test)]
mod tests;
