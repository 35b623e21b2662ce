//! Leaves that are neither free text nor an enum: Avro scalars, and strings with a fixed form (UUIDs, dates, times, identities).

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::plan::Kind as Type;
use super::tags::TimeUnit;
use super::violation::Kind;
use super::wire::Cursor;

/// Days and seconds of the years 0000 to 9999 (RFC 3339 §1), relative to 1970.
const DAYS: std::ops::RangeInclusive<i32> = -719_528..=2_932_896;
const SECONDS: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_207_200;

/// A leaf that is neither a string nor an enum.
pub(super) enum Scalar {
    Boolean(bool),
    Long(i64),
    Float(f32),
    Double(f64),
    Date(Option<jiff::civil::Date>),
    Timestamp(Option<jiff::Timestamp>),
}

impl Scalar {
    /// Reads a leaf that is neither a string nor an enum.
    pub fn read(kind: &Type, cursor: &mut Cursor<'_>) -> Option<Self> {
        Some(match kind {
            Type::Boolean => Self::Boolean(cursor.boolean()?),
            Type::Int => Self::Long(i64::from(cursor.int()?)),
            Type::Long => Self::Long(cursor.long()?),
            Type::Float => Self::Float(cursor.float()?),
            Type::Double => Self::Double(cursor.double()?),
            Type::Date => Self::Date(date_from_days(cursor.int()?)),
            Type::Timestamp(unit) => Self::Timestamp(timestamp_from_units(cursor.long()?, *unit)),
            _ => return None,
        })
    }

    /// What is wrong with the value, if anything is.
    pub fn problem(&self) -> Option<Kind> {
        match self {
            Self::Float(number) if !number.is_finite() => Some(Kind::OutOfRange),
            Self::Double(number) if !number.is_finite() => Some(Kind::OutOfRange),
            Self::Date(None) => Some(Kind::BadDate),
            Self::Timestamp(None) => Some(Kind::BadTimestamp),
            _ => None,
        }
    }

    /// Writes the JSON form, without the quotes of a date or a time.
    pub fn write(&self, out: &mut Vec<u8>) {
        use std::io::Write;
        // Writing to a vector and serializing a finite number cannot fail.
        let _ = match self {
            Self::Boolean(truth) => write!(out, "{truth}"),
            Self::Long(number) => write!(out, "{number}"),
            Self::Float(number) => serde_json::to_writer(out, number).map_err(Into::into),
            Self::Double(number) => serde_json::to_writer(out, number).map_err(Into::into),
            Self::Date(date) => date.map_or(Ok(()), |date| write!(out, "{date}")),
            Self::Timestamp(at) => at.map_or(Ok(()), |at| write!(out, "{at}")),
        };
    }
}

/// Whether the text is a UUID in its hyphenated form (RFC 9562 §4), of any version.
pub(super) fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse_ascii(text).is_ok()
}

/// Whether the text may name a device or a subject in a database, a log line or a message: no control characters.
pub(super) fn is_identity(text: &[u8], bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && !text.iter().any(u8::is_ascii_control)
}

/// Parses a full-date of RFC 3339 §5.6.
pub(super) fn date(text: &[u8]) -> Option<Date> {
    if text.len() != 10 || text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    jiff::fmt::temporal::DateTimeParser::new()
        .parse_date(text)
        .ok()
        .filter(|date| date.year() >= 0)
}

/// Parses a date-time of RFC 3339 §5.6; other forms of ISO 8601 are refused.
pub(super) fn timestamp(text: &[u8]) -> Option<Timestamp> {
    const PARSER: jiff::fmt::temporal::DateTimeParser = jiff::fmt::temporal::DateTimeParser::new();
    let (head, tail) = text.split_at_checked(19)?;
    let dashed = head[4] == b'-' && head[7] == b'-' && head[13] == b':' && head[16] == b':';
    let zoned = match tail {
        [.., b'Z' | b'z'] => tail.len() - 1,
        [.., b'+' | b'-', _, _, b':', _, _] => tail.len() - 6,
        _ => return None,
    };
    let fraction = match &tail[..zoned] {
        [] => true,
        [b'.', digits @ ..] => (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !dashed || !matches!(head[10], b'T' | b't') || !fraction {
        return None;
    }
    PARSER
        .parse_timestamp(text)
        .ok()
        .filter(|at| SECONDS.contains(&at.as_second()))
}

/// The date of an Avro `date`; `None` outside the years of RFC 3339.
pub(super) fn date_from_days(days: i32) -> Option<Date> {
    if !DAYS.contains(&days) {
        return None;
    }
    Date::constant(1970, 1, 1)
        .checked_add(jiff::Span::new().days(days))
        .ok()
}

/// Days since 1970.
pub(super) fn days_from_date(date: Date) -> i32 {
    const DAY_SECONDS: i64 = 86_400;
    let since: SignedDuration = date.duration_since(Date::constant(1970, 1, 1));
    i32::try_from(since.as_secs() / DAY_SECONDS).unwrap_or(i32::MAX)
}

/// The instant of an Avro timestamp; `None` outside the years of RFC 3339.
pub(super) fn timestamp_from_units(units: i64, unit: TimeUnit) -> Option<Timestamp> {
    let at = match unit {
        TimeUnit::Milliseconds => Timestamp::from_millisecond(units),
        TimeUnit::Microseconds => Timestamp::from_microsecond(units),
        TimeUnit::Nanoseconds => Timestamp::from_nanosecond(i128::from(units)),
    };
    at.ok().filter(|at| SECONDS.contains(&at.as_second()))
}

/// The Avro timestamp of an instant, truncated to the unit. `None` if it is out of range for the unit.
pub(super) fn units_from_timestamp(at: Timestamp, unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Milliseconds => Some(at.as_millisecond()),
        TimeUnit::Microseconds => Some(at.as_microsecond()),
        TimeUnit::Nanoseconds => i64::try_from(at.as_nanosecond()).ok(),
    }
}
