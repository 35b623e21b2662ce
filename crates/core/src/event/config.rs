//! The section of events: schemas, limits and formats.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
