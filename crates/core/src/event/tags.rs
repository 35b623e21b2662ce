//! The vocabulary of a schema's attributes: what a field means, how it is protected, and how a schema is told from others.

use apache_avro::Schema;
use apache_avro::rabin::Rabin;

/// Protection of a field, from `pulsegate:protect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protect {
    /// The value becomes a ciphertext that only the holder of the subject's key can open.
    Encrypt,
    /// The value becomes a token: equal values can be joined, and nothing else is disclosed.
    Token,
    /// Only the year of a date or a time is kept.
    Year,
    /// The field is removed from the clean event.
    Drop,
}

/// Meaning of a field, from `pulsegate:role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The id of the event, which every ciphertext is bound to.
    EventId,
    /// The device that signed.
    Device,
    /// The person whose keys protect the event.
    Subject,
    /// The time at which the device took the readings.
    RecordedAt,
    /// The array of readings.
    Readings,
    /// What a reading measures.
    Metric,
    /// The measured number.
    Value,
    /// The unit of the number.
    Unit,
    /// The device's own assessment of the reading.
    Quality,
    /// The device's firmware version.
    Firmware,
    /// The device's model.
    Model,
}

/// The unit of an Avro timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeUnit {
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl Protect {
    /// Name in a schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Token => "token",
            Self::Year => "year",
            Self::Drop => "drop",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Encrypt, Self::Token, Self::Year, Self::Drop]
            .into_iter()
            .find(|protect| protect.as_str() == name)
    }
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 11] = [
        Self::EventId,
        Self::Device,
        Self::Subject,
        Self::RecordedAt,
        Self::Readings,
        Self::Metric,
        Self::Value,
        Self::Unit,
        Self::Quality,
        Self::Firmware,
        Self::Model,
    ];

    /// Name in a schema.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EventId => "event-id",
            Self::Device => "device",
            Self::Subject => "subject",
            Self::RecordedAt => "recorded-at",
            Self::Readings => "readings",
            Self::Metric => "metric",
            Self::Value => "value",
            Self::Unit => "unit",
            Self::Quality => "quality",
            Self::Firmware => "firmware",
            Self::Model => "model",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// A Rabin fingerprint (CRC-64-AVRO) of a schema's canonical form, little endian as in the single-object header.
pub(crate) type Fingerprint = [u8; 8];

/// Rabin fingerprint of the canonical form, which does not contain our attributes.
///
/// apache-avro 0.22 writes `{"type":"string"}` into the canonical form of a logical type, where the rule \[PRIMITIVES\]
/// of the specification has `"string"`, as Java and Python do. Parsing the canonical form again gives the correct one.
pub(super) fn fingerprint(schema: &Schema) -> Fingerprint {
    let again = Schema::parse_str(&schema.canonical_form());
    let bytes = again.as_ref().unwrap_or(schema).fingerprint::<Rabin>().bytes;
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(&bytes);
    fingerprint
}
