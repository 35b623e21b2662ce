//! The configuration: its settings, their sources, and the checks on their values.
//!
//! Every stage keeps its own settings beside its logic; here they are composed, layered ([`layers`]) and checked
//! together. Integers carry their unit last in the name (`batch.time_max_ms`).

mod checks;
pub mod gate;
pub mod layers;
mod sections;
mod stores;
pub mod watch;

use pulsegate_settings::{Invalid, Problem};
use schemars::generate::SchemaSettings;

pub use layers::{Inputs, Loaded};
pub use sections::Config;

impl Config {
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
