//! Events: schemas compiled to plans, walkers over JSON and Avro, and the rewriting of protected fields.
//!
//! A record is processed in three steps. [`Catalog::locate`] finds the plan and the format from the first bytes of
//! the value. [`Plan::walk`] reads the value once, validates it strictly, finds the event id, the device and the
//! subject, and records every span to be replaced. [`Rewriter::rewrite`] copies the untouched spans and writes the
//! replacements in the format of the clean topic; the caller provides the replacement values.
//!
//! Nothing here does I/O or allocates per record: everything that a batch needs is in one [`Arena`].

mod arena;
mod avro;
mod catalog;
mod clean;
mod compile;
mod json;
mod plan;
mod rewrite;
mod scalar;
mod violation;
mod walk;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use arena::{Action, Arena, Edit, Seal, Text, Walk};
pub use catalog::{Catalog, CatalogError, Ids, Located, Source, Verdict};
pub use clean::{Sealed, Untranscodable};
pub use compile::PlanError;
pub use plan::{Plan, Protect, Role};
pub use rewrite::Rewriter;
pub use violation::{Kind as ViolationKind, Violation};

/// Encoding of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object (RFC 8259).
    #[default]
    Json,
    /// An Avro datum (Avro 1.12), framed by the Confluent wire format or as a single object.
    Avro,
}

/// Schemas and limits of events, and the format of clean events.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory of the schemas, one `.avsc` file per event type. Default `schemas`.
    pub directory: PathBuf,
    /// Event type (file name without `.avsc`) of a value in plain JSON. Default `biometric_event`.
    pub default_event: String,
    /// Format of the clean topic, `json` or `avro`. Default `json`.
    pub clean_format: Format,
    /// Maximum length of a string in an event, in received bytes. Default 16384.
    pub string_bytes_max: u32,
    /// Maximum number of items in an array or entries in a map. Default 1024.
    pub items_max: u32,
    /// Maximum length of a device id, subject id or map key, in bytes. Default 256.
    pub identity_bytes_max: u32,
    /// Maximum number of protected leaves in one event; each is sealed separately. Default 1024.
    pub protected_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("schemas"),
            default_event: "biometric_event".to_owned(),
            clean_format: Format::Json,
            string_bytes_max: 16_384,
            items_max: 1_024,
            identity_bytes_max: 256,
            protected_max: 1_024,
        }
    }
}

#[cfg(test)]
mod tests;
