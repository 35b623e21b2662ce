//! Outcomes of a record, named as on the wire. Written from the contract, not from the gate's code.

use serde::Serialize;

/// One outcome. The variants are in the order of the checks: the first that applies to a record is its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Outcome {
    /// Sealed and produced to the clean topic.
    Clean,
    /// A repeat of an accepted record: counted, not produced.
    Duplicate,
    /// Value or headers exceed their limits.
    TooLarge,
    /// No signature header.
    MissingSignature,
    /// Signature headers that are repeated or not in their exact form.
    MalformedSignature,
    /// The key id is not in the registry.
    UnknownKey,
    /// A key that may not sign (pending or revoked).
    KeyNotActive,
    /// The signature does not match.
    BadSignature,
    /// Signed for another environment or topic.
    WrongAudience,
    /// Signed too long before or after the broker appended it.
    Stale,
    /// Not in the partition that the device id hashes to.
    Misrouted,
    /// Neither JSON nor Avro.
    Undecodable,
    /// The schema is not in the catalog.
    UnknownSchema,
    /// Decodable, but violates the schema.
    SchemaViolation,
    /// Key, record key and payload name different devices.
    BindingMismatch,
    /// The device exceeded its rate, or the lane's budget of failed verifications is spent.
    RateLimited,
}

impl Outcome {
    /// Every outcome: clean, duplicate, then the rejections in the order of the checks.
    pub const ALL: [Self; 16] = [
        Self::Clean,
        Self::Duplicate,
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

    /// Name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Duplicate => "duplicate",
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

    /// The outcome with that wire name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str().as_bytes() == name)
    }

    /// The stage that decides it (`pg-stage`); `None` for outcomes that do not go to the deadletter.
    #[must_use]
    pub const fn stage(self) -> Option<&'static str> {
        match self {
            Self::Clean | Self::Duplicate => None,
            Self::Undecodable | Self::UnknownSchema | Self::SchemaViolation => Some("decode"),
            Self::BindingMismatch | Self::RateLimited => Some("admit"),
            _ => Some("verify"),
        }
    }

    /// Whether the record goes to the deadletter.
    #[must_use]
    pub const fn is_rejection(self) -> bool {
        !matches!(self, Self::Clean | Self::Duplicate)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of outcomes: those that an observer without the gate's state must accept for one record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcomes(u32);

impl Outcomes {
    /// A set of the given outcomes.
    #[must_use]
    pub fn of(outcomes: &[Outcome]) -> Self {
        outcomes.iter().fold(Self(0), |set, outcome| set.with(*outcome))
    }

    /// This set with one more outcome.
    #[must_use]
    pub const fn with(self, outcome: Outcome) -> Self {
        Self(self.0 | 1 << outcome as u8)
    }

    /// This set without one outcome.
    #[must_use]
    pub const fn without(self, outcome: Outcome) -> Self {
        Self(self.0 & !(1 << outcome as u8))
    }

    /// Whether the outcome is in the set.
    #[must_use]
    pub const fn contains(self, outcome: Outcome) -> bool {
        self.0 & 1 << outcome as u8 != 0
    }

    /// Members in the order of the checks.
    pub fn iter(self) -> impl Iterator<Item = Outcome> {
        Outcome::ALL
            .into_iter()
            .filter(move |outcome| self.contains(*outcome))
    }
}

impl From<Outcome> for Outcomes {
    fn from(outcome: Outcome) -> Self {
        Self::of(&[outcome])
    }
}

impl std::fmt::Display for Outcomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, outcome) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(" or ")?;
            }
            f.write_str(outcome.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_sets_hold_what_was_put_in() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_name(outcome.as_str().as_bytes()), Some(outcome));
            assert!(Outcomes::from(outcome).contains(outcome));
            assert!(!Outcomes::from(outcome).without(outcome).contains(outcome));
            assert_eq!(outcome.is_rejection(), outcome.stage().is_some());
        }
        let two = Outcomes::of(&[Outcome::Stale, Outcome::Clean]);
        assert_eq!(two.to_string(), "clean or stale");
        assert_eq!(two.iter().count(), 2);
    }
}
