//! Why a value is not an event: the place and the kind of the problem, never the content.

use std::fmt;

/// Why a value is not an event. It contains neither the value nor a name that the sender chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The value is not JSON, or not a complete Avro datum of the schema.
    Undecodable,
    /// The value can be decoded, but does not match the schema or exceeds a limit.
    Schema {
        /// Path of the place, such as `readings[2].value`; empty for the event itself.
        path: Box<str>,
        /// Kind of the problem.
        kind: Kind,
    },
}

/// Kind of a problem at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The value has another type than the schema's.
    WrongType,
    /// A required member is missing.
    Missing,
    /// An object has a member that is not in the schema. Escaped names count as unknown.
    Unknown,
    /// An object or a map has the same member twice.
    Duplicate,
    /// A number is not finite, or is outside the range of its type.
    OutOfRange,
    /// The value is not an RFC 3339 full date between the years 0000 and 9999.
    BadDate,
    /// The value is not an RFC 3339 date-time between the years 0000 and 9999.
    BadTimestamp,
    /// The value is not a UUID in its hyphenated form (RFC 9562 §4).
    BadUuid,
    /// The value is not one of the symbols of an enum.
    UnknownSymbol,
    /// A device id or subject id is empty, longer than the limit, or has control characters.
    BadIdentity,
    /// A string is longer than the limit.
    TooLong,
    /// An array or a map has more items than the limit.
    TooMany,
    /// JSON text that represents no value, such as a lone surrogate.
    Unrepresentable,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecodable => f.write_str("neither well-formed JSON nor Avro with a known framing"),
            Self::Schema { path, kind } if path.is_empty() => write!(f, "the event {kind}"),
            Self::Schema { path, kind } => write!(f, "`{path}` {kind}"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongType => "does not have the type that the schema requires",
            Self::Missing => "is missing",
            Self::Unknown => "has a member that is not in the schema",
            Self::Duplicate => "has the same member twice",
            Self::OutOfRange => "is not finite or out of range",
            Self::BadDate => "is not an RFC 3339 full date",
            Self::BadTimestamp => "is not an RFC 3339 date-time",
            Self::BadUuid => "is not a UUID",
            Self::UnknownSymbol => "is not one of the symbols of the enum",
            Self::BadIdentity => "is empty, is too long or has control characters",
            Self::TooLong => "is longer than the limit",
            Self::TooMany => "has more items than the limit",
            Self::Unrepresentable => "is JSON text that represents no value",
        })
    }
}

impl std::error::Error for Violation {}
