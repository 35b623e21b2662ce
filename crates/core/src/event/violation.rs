//! Why a value is not an event: the place and the kind, never what stands there.

use std::fmt;

use super::arena::Arena;
use super::plan::Node;
use pulsegate_ledger::outcome::Reason;

/// Why a value is not an event. Neither the value nor a name that the sender chose is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Not JSON, or not a whole datum of the schema.
    Undecodable,
    /// Decodable, but not what the schema or a limit allows.
    Schema {
        /// The place, such as `readings[2].value`; empty for the event itself.
        path: Box<str>,
        /// What is wrong there.
        kind: Kind,
    },
}

/// What is wrong at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value of another type.
    WrongType,
    /// A required member is not there.
    Missing,
    /// An object has a member that the schema does not know. Escaped names count as unknown.
    Unknown,
    /// An object or a map has a member twice.
    Duplicate,
    /// A number that is not finite, or beyond the range of its type.
    OutOfRange,
    /// Not an RFC 3339 full date between the years 0000 and 9999.
    BadDate,
    /// Not an RFC 3339 date-time between the years 0000 and 9999.
    BadTimestamp,
    /// Not a UUID in its hyphenated form (RFC 9562 §4).
    BadUuid,
    /// Not one of the symbols of an enum.
    UnknownSymbol,
    /// A device id or subject id that is empty, longer than the limit, or has control characters.
    BadIdentity,
    /// A string beyond the limit.
    TooLong,
    /// An array or a map beyond the limit.
    TooMany,
    /// JSON that cannot stand for a value, such as a lone surrogate.
    Unrepresentable,
}

/// Where and why a walk ended early. Small enough for two registers, since every step of a walk returns it.
pub(super) enum Stop<'p> {
    Undecodable,
    Schema(&'p Node, Kind),
}

impl Stop<'_> {
    /// Renders the path. The steps of the walk are still in the arena.
    #[cold]
    pub fn violation(&self, arena: &Arena) -> Violation {
        let Self::Schema(at, kind) = self else {
            return Violation::Undecodable;
        };
        let mut path = String::new();
        arena.render(at, None, &mut path);
        Violation::Schema {
            path: path.into(),
            kind: *kind,
        }
    }
}

impl Violation {
    /// The outcome that it leads to.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Undecodable => Reason::Undecodable,
            Self::Schema { .. } => Reason::SchemaViolation,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecodable => f.write_str("not well-formed JSON or Avro of a known framing"),
            Self::Schema { path, kind } if path.is_empty() => write!(f, "the event {kind}"),
            Self::Schema { path, kind } => write!(f, "`{path}` {kind}"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongType => "is not of the type that the schema gives it",
            Self::Missing => "is missing",
            Self::Unknown => "has a member that the schema does not know",
            Self::Duplicate => "has a member twice",
            Self::OutOfRange => "is not finite or out of range",
            Self::BadDate => "is not an RFC 3339 full date",
            Self::BadTimestamp => "is not an RFC 3339 date-time",
            Self::BadUuid => "is not a UUID",
            Self::UnknownSymbol => "is not a symbol of the enum",
            Self::BadIdentity => "is empty, too long or has control characters",
            Self::TooLong => "is longer than the limit",
            Self::TooMany => "has more items than the limit",
            Self::Unrepresentable => "has no value that the schema can hold",
        })
    }
}

impl std::error::Error for Violation {}
