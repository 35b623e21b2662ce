//! The outcomes of a record: one closed set of names for the metric label, the deadletter header, the log field and the
//! ledger.

use std::fmt;

/// The stage that decided a rejection (`pg-stage` on the deadletter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Size, signature, key, audience, freshness and home partition.
    Verify,
    /// Framing, schema and validation of the payload.
    Decode,
    /// Binding, replay and rate.
    Admit,
}

impl Stage {
    /// Name in headers, labels, logs and the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Decode => "decode",
            Self::Admit => "admit",
        }
    }
}

/// Why a record was rejected, in the order of the checks. Always a fault of the message, never of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// The value is larger than the limit, or the record has more headers than the limit.
    TooLarge,
    /// The record has no signature header.
    MissingSignature,
    /// A signature header is repeated, oversized or not in its exact form.
    MalformedSignature,
    /// No device key has this key id (or, for webhooks, no device has this record key).
    UnknownKey,
    /// The key exists but may not sign: pending, or revoked.
    KeyNotActive,
    /// The signature does not match, or its algorithm is not the one that the key is pinned to.
    BadSignature,
    /// Signed for another environment or topic.
    WrongAudience,
    /// Signed too long before or after the broker appended it, or too far behind the device's replay window to judge.
    Stale,
    /// The record is not in the home partition of its key.
    Misrouted,
    /// The value is neither JSON nor Avro, or its framing is unknown.
    Undecodable,
    /// The value is framed with a schema that the registry does not have or that no local plan protects.
    UnknownSchema,
    /// The value can be decoded, but does not match the schema.
    SchemaViolation,
    /// Signing key, record key and payload do not name the same device.
    BindingMismatch,
    /// The device exceeds its rate, or the lane's budget of failed verifications is spent.
    RateLimited,
}

/// Outcome of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Sealed and produced to the clean topic.
    Clean,
    /// A replay of a record that was seen before: counted, not produced.
    Duplicate,
    /// Sealed as received to the deadletter topic.
    Rejected(Reason),
}

impl Reason {
    /// Every reason, in the order of the checks.
    pub const ALL: [Self; 14] = [
        Self::TooLarge,
        Self::MissingSignature,
        Self::MalformedSignature,
        Self::UnknownKey,
        Self::KeyNotActive,
        Self::BadSignature,
        Self::WrongAudience,
        Self::Stale,
        Self::Misrouted,
        Self::Undecodable,
        Self::UnknownSchema,
        Self::SchemaViolation,
        Self::BindingMismatch,
        Self::RateLimited,
    ];

    /// Name in headers, labels, logs and the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::MissingSignature => "missing_signature",
            Self::MalformedSignature => "malformed_signature",
            Self::UnknownKey => "unknown_key",
            Self::KeyNotActive => "key_not_active",
            Self::BadSignature => "bad_signature",
            Self::WrongAudience => "wrong_audience",
            Self::Stale => "stale",
            Self::Misrouted => "misrouted",
            Self::Undecodable => "undecodable",
            Self::UnknownSchema => "unknown_schema",
            Self::SchemaViolation => "schema_violation",
            Self::BindingMismatch => "binding_mismatch",
            Self::RateLimited => "rate_limited",
        }
    }

    /// The stage that rejects for this reason.
    #[must_use]
    pub const fn stage(self) -> Stage {
        match self {
            Self::TooLarge
            | Self::MissingSignature
            | Self::MalformedSignature
            | Self::UnknownKey
            | Self::KeyNotActive
            | Self::BadSignature
            | Self::WrongAudience
            | Self::Stale
            | Self::Misrouted => Stage::Verify,
            Self::Undecodable | Self::UnknownSchema | Self::SchemaViolation => Stage::Decode,
            Self::BindingMismatch | Self::RateLimited => Stage::Admit,
        }
    }
}

impl Outcome {
    /// Number of outcomes; `index` is below it.
    pub const COUNT: usize = Reason::ALL.len() + 2;

    /// Every outcome: clean, duplicate, then the reasons in the order of the checks.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Clean, Self::Duplicate]
            .into_iter()
            .chain(Reason::ALL.into_iter().map(Self::Rejected))
    }

    /// Name in headers, labels, logs and the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Duplicate => "duplicate",
            Self::Rejected(reason) => reason.as_str(),
        }
    }

    /// A dense index for counters.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Clean => 0,
            Self::Duplicate => 1,
            Self::Rejected(reason) => reason as usize + 2,
        }
    }
}

impl From<Reason> for Outcome {
    fn from(reason: Reason) -> Self {
        Self::Rejected(reason)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_dense_and_names_are_unique() {
        let all: Vec<_> = Outcome::all().collect();
        assert_eq!(all.len(), Outcome::COUNT);
        for (index, outcome) in all.iter().enumerate() {
            assert_eq!(outcome.index(), index);
        }
        let names: std::collections::HashSet<_> = all.iter().map(|outcome| outcome.as_str()).collect();
        assert_eq!(names.len(), Outcome::COUNT);
    }
}
