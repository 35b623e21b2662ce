//! The clean side of a plan as data: its schema and framing, and the protected leaves of a clean event.

use serde_json::Value;

use super::config::Format;
use super::tags::{Fingerprint, Protect, Role};
use super::wire::CONFLUENT;

/// Clean schema and framing of a plan.
pub(crate) struct Clean {
    pub source: Value,
    pub fingerprint: Fingerprint,
    pub format: Format,
    pub(super) prefix: Vec<u8>,
}

/// A rewritten value cannot be encoded in the other format, or a value is not a clean event of this plan.
#[derive(Debug, thiserror::Error)]
#[error("`{path}` does not match the clean schema: the record was not produced by a gate with this schema")]
pub struct Untranscodable {
    pub(super) path: Box<str>,
}

/// A protected leaf of a clean event.
pub struct Sealed<'a> {
    /// Protection of the leaf.
    pub protect: Protect,
    /// Role of the leaf, if it has one.
    pub role: Option<Role>,
    /// Path that the leaf was sealed with.
    pub path: &'a str,
    /// Whether the plaintext is the content of a JSON string; otherwise it is the JSON text of a number or a boolean.
    pub is_text: bool,
    /// Value of the leaf: base64, a token or a year.
    pub leaf: &'a mut Value,
}

impl Clean {
    /// Bytes before the datum of a clean value.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Frames Avro values with the registry's id of the clean schema instead of as single objects.
    pub fn frame(&mut self, id: u32) {
        if self.format == Format::Avro {
            self.prefix = [&[CONFLUENT][..], &id.to_be_bytes()].concat();
        }
    }
}
