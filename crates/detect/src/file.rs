//! Reads a series from a CSV file: rows of `timestamp,value`, with or without that header.
//!
//! A timestamp is RFC 3339, a date and time without a zone (`2026-01-31 23:59:59`, taken as UTC), or Unix time in
//! seconds or, from 10^11, in milliseconds. A value is a number; an empty one, `NaN`, `NA` or `null` is missing. With a
//! header the columns may be in any order and among others.

use std::fmt;
use std::io::{self, Read};

use csv::StringRecord;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use thiserror::Error;

/// Longest line, in bytes.
pub const LINE_BYTES_MAX: usize = 16_384;
/// Most rows of a series. Callers may hold them all in memory.
pub const ROWS_MAX: u64 = 10_000_000;
/// Numeric timestamps from here on are milliseconds: in seconds this would be the year 5138.
const MILLISECONDS_FROM: f64 = 1e11;
/// Numeric timestamps beyond this many seconds or milliseconds, the year 287396, are invalid.
const NUMERIC_MAX: f64 = 9e15;

/// A row of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Line on which the row begins, counted from 1.
    pub line: u64,
    /// Timestamp as written in the file.
    pub timestamp: String,
    /// Value as written in the file.
    pub text: String,
    /// Timestamp in milliseconds since 1970; 0 if an untimed series has another label.
    pub time_ms: i64,
    /// Numeric value; NaN if missing.
    pub value: f64,
}

/// Iterator over the rows of a file. Ends after the first error.
pub struct Rows<R> {
    reader: csv::Reader<Lines<R>>,
    record: StringRecord,
    /// Positions of timestamp and value, known after the first row.
    columns: Option<(usize, usize)>,
    /// Whether timestamps must be times; otherwise they may be any label or missing, as only the order matters.
    timed: bool,
    read: u64,
    failed: bool,
}

/// Why a series could not be read on.
#[derive(Debug, Error)]
pub enum FileError {
    /// A row is not what it must be. The text quotes none of it.
    #[error("line {line}: {problem}")]
    Row {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// The file could not be read.
    #[error("failed to read line {line}: {error}")]
    Unreadable {
        /// The line, from 1.
        line: u64,
        /// What the operating system says.
        error: io::Error,
    },
}

impl<R: Read> Rows<R> {
    /// Reads rows from a reader.
    pub fn new(reader: R) -> Self {
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(Lines { reader, length: 0 });
        Self {
            reader,
            record: StringRecord::new(),
            columns: None,
            timed: true,
            read: 0,
            failed: false,
        }
    }

    /// Accepts any text as a timestamp, and values alone in one column. A text that is not a time is at 0 ms.
    #[must_use]
    pub fn untimed(mut self) -> Self {
        self.timed = false;
        self
    }

    fn advance(&mut self) -> Result<Option<Row>, FileError> {
        loop {
            let line = self.reader.position().line();
            if !self
                .reader
                .read_record(&mut self.record)
                .map_err(|error| unreadable(error, line))?
            {
                return Ok(None);
            }
            let line = self.record.position().map_or(line, csv::Position::line);
            let Some(columns) = self.columns else {
                let (columns, is_header) = columns(&self.record, self.timed).ok_or_else(|| {
                    wrong(
                        line,
                        "neither a row `timestamp,value` nor a header with these column names",
                    )
                })?;
                self.columns = Some(columns);
                if is_header {
                    continue;
                }
                return self.row(line, columns).map(Some);
            };
            return self.row(line, columns).map(Some);
        }
    }

    fn row(&mut self, line: u64, (timestamp, value): (usize, usize)) -> Result<Row, FileError> {
        self.read += 1;
        if self.read > ROWS_MAX {
            return Err(wrong(
                line,
                format_args!("more than {ROWS_MAX} rows; split the file"),
            ));
        }
        let field = |at: usize, name: &str| {
            let missing = || {
                wrong(
                    line,
                    format_args!("no {name}: the row has only {} columns", self.record.len()),
                )
            };
            self.record.get(at).ok_or_else(missing)
        };
        let (timestamp, text) = (field(timestamp, "timestamp")?, field(value, "value")?);
        let time_ms = match time_ms(timestamp) {
            Some(time_ms) => time_ms,
            None if !self.timed => 0,
            None => {
                return Err(wrong(
                    line,
                    "the timestamp is neither RFC 3339, `YYYY-MM-DD HH:MM:SS` nor Unix time",
                ));
            }
        };
        let value = number(text).ok_or_else(|| wrong(line, "the value is not a number"))?;
        Ok(Row {
            line,
            timestamp: timestamp.to_owned(),
            text: text.to_owned(),
            time_ms,
            value,
        })
    }
}

impl<R: Read> Iterator for Rows<R> {
    type Item = Result<Row, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = self.advance().transpose();
        self.failed = matches!(row, Some(Err(_)));
        row
    }
}

fn wrong(line: u64, problem: impl fmt::Display) -> FileError {
    FileError::Row {
        line,
        problem: problem.to_string(),
    }
}

/// The CSV reader's own messages can quote the line, which may contain health data.
fn unreadable(error: csv::Error, line: u64) -> FileError {
    let line = error.position().map_or(line, csv::Position::line);
    match error.into_kind() {
        csv::ErrorKind::Utf8 { .. } => wrong(line, "not UTF-8"),
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::InvalidData => wrong(line, error),
        csv::ErrorKind::Io(error) => FileError::Unreadable { line, error },
        _ => wrong(line, "not valid CSV"),
    }
}

/// Positions of timestamp and value, and whether the record is a header.
fn columns(first: &StringRecord, timed: bool) -> Option<((usize, usize), bool)> {
    let named = |name: &str| {
        first
            .iter()
            .position(|field| field.trim().eq_ignore_ascii_case(name))
    };
    if let (Some(timestamp), Some(value)) = (named("timestamp"), named("value")) {
        return Some(((timestamp, value), true));
    }
    if !timed {
        // A single column holds values; of several unnamed ones the second does.
        let value = named("value").unwrap_or_else(|| first.len().clamp(1, 2) - 1);
        let timestamp = named("timestamp").unwrap_or(0);
        return Some(((timestamp, value), number(first.get(value)?).is_none()));
    }
    let is_row = first.get(0).is_some_and(|field| time_ms(field).is_some())
        && first.get(1).is_some_and(|field| number(field).is_some());
    is_row.then_some(((0, 1), false))
}

/// Parses a timestamp into milliseconds since 1970.
fn time_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        let ms = if number.abs() < MILLISECONDS_FROM {
            number * 1_000.0
        } else {
            number
        };
        // Truncation is intended: a fraction of a millisecond does not matter.
        return (ms.abs() <= NUMERIC_MAX).then_some(ms as i64);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_millisecond());
    }
    let civil: DateTime = text.parse().ok()?;
    civil
        .to_zoned(TimeZone::UTC)
        .ok()
        .map(|time| time.timestamp().as_millisecond())
}

/// Parses a value; NaN if it is missing.
fn number(text: &str) -> Option<f64> {
    match text.trim() {
        "" | "NA" | "null" => Some(f64::NAN),
        text => text.parse().ok(),
    }
}

/// Refuses overlong lines before the CSV reader buffers them.
struct Lines<R> {
    reader: R,
    /// Bytes of the current line so far.
    length: usize,
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        for piece in buffer
            .get(..read)
            .unwrap_or_default()
            .split_inclusive(|byte| *byte == b'\n')
        {
            self.length += piece.len();
            if self.length > LINE_BYTES_MAX {
                let problem = format!("longer than {LINE_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
            if piece.ends_with(b"\n") {
                self.length = 0;
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_yield_rows_or_one_error(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b','), Just(b'\n'), Just(b'1')], 0..400),
        ) {
            let rows: Vec<_> = Rows::new(bytes.as_slice()).collect();
            let errors = rows.iter().filter(|row| row.is_err()).count();
            prop_assert!(errors <= 1);
            prop_assert_eq!(errors == 1, rows.last().is_some_and(Result::is_err));
            let lines: Vec<u64> = rows.into_iter().flatten().map(|row| row.line).collect();
            prop_assert!(lines.is_sorted_by(|a, b| a < b), "{:?}", lines);
        }

        #[test]
        fn rows_are_read_as_they_were_written(
            rows in proptest::collection::vec((-60_000_000_000_i64..60_000_000_000, proptest::num::f64::NORMAL), 1..50),
        ) {
            let text: String = rows.iter().map(|(second, value)| format!("{second},{value}\n")).collect();
            let read: Vec<Row> = Rows::new(text.as_bytes()).collect::<Result<_, _>>().expect("rows");
            let expected: Vec<_> = rows.iter().map(|(second, value)| (second * 1_000, *value)).collect();
            let read: Vec<_> = read.iter().map(|row| (row.time_ms, row.value)).collect();
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn an_endless_line_is_refused_before_it_is_buffered() {
        let endless = std::io::repeat(b'1');
        let error = Rows::new(endless).next().and_then(Result::err).expect("an error");
        assert_eq!(
            error.to_string(),
            format!("line 1: longer than {LINE_BYTES_MAX} bytes")
        );
    }
}
