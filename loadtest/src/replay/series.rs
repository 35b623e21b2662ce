//! Measured series in CSV: one column of time, the others are metrics. Rows become readings of one device, a batch of
//! rows becomes one event.

use std::io::Read;

use crate::fleet::event::Reading;

/// Which metric a column is; `None` for columns that are known and are none.
type Column = Option<(&'static str, &'static str)>;

/// Rows of a series that go into one event unless said otherwise: three metrics a row stay below the gate's 1,024 items, and
/// a month of heart rate below its burst of 1,000 events.
pub const ROWS_PER_EVENT: usize = 300;

/// One event's worth of readings.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Milliseconds on the series' own clock of the first row: since the Unix epoch, or since the record began.
    pub at_ms: i64,
    /// Readings of all its rows, with offsets from the first.
    pub readings: Vec<Reading>,
}

/// A series that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Time is counted from the start of the record (`t_s`), not from the Unix epoch (`ts`).
    pub relative: bool,
    /// The events.
    pub batches: Vec<Batch>,
}

/// Why a series cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// Not CSV.
    #[error("not CSV: {0}")]
    Csv(#[from] csv::Error),
    /// The header has no time in its first column.
    #[error("the first column must be `ts` (Unix seconds) or `t_s` (seconds from the start)")]
    NoTime,
    /// A column that nobody knows.
    #[error("column `{0}` is not a metric that is known here")]
    UnknownColumn(String),
    /// A cell that is not a number.
    #[error("line {line}, column `{column}`: not a number")]
    BadCell {
        /// The line, from 1.
        line: u64,
        /// The column's name.
        column: String,
    },
}

/// The metric of a column, by the names that recordings use.
fn column(name: &str) -> Result<Column, SeriesError> {
    Ok(match name {
        "hr_bpm" | "hr" | "heart_rate" => Some(("heart_rate", "/min")),
        "rr_ms" | "rr_interval" => Some(("rr_interval", "ms")),
        "spo2" => Some(("spo2", "%")),
        "resp" | "respiratory_rate" => Some(("respiratory_rate", "/min")),
        "steps" => Some(("steps", "{steps}")),
        "temp" | "temperature" | "body_temperature" => Some(("body_temperature", "Cel")),
        "skin_temperature" => Some(("skin_temperature", "Cel")),
        // A second source of the heart rate, pressures, and annotations: no metric of ours.
        "pulse" | "nbpsys" | "nbpdias" | "nbpmean" | "beat" => None,
        _ => return Err(SeriesError::UnknownColumn(name.to_owned())),
    })
}

/// Reads a series. Empty cells are skipped, rows without any value too. A batch ends after `rows_per_event` rows, or
/// before a row that is more than an hour after the batch's first.
///
/// # Errors
/// When it is not CSV of that kind.
pub fn read(input: impl Read, rows_per_event: usize) -> Result<Series, SeriesError> {
    const SPAN_MS_MAX: i64 = 3_600_000;
    let mut reader = csv::Reader::from_reader(input);
    let header = reader.headers()?.clone();
    let relative = match header.get(0) {
        Some("t_s") => true,
        Some("ts") => false,
        _ => return Err(SeriesError::NoTime),
    };
    let columns = header.iter().skip(1).map(column).collect::<Result<Vec<_>, _>>()?;
    let mut series = Series {
        relative,
        batches: Vec::new(),
    };
    let mut rows = 0;
    for row in reader.records() {
        let row = row?;
        let line = row.position().map_or(0, csv::Position::line);
        let number = |index: usize| -> Result<Option<f64>, SeriesError> {
            let cell = row.get(index).unwrap_or_default().trim();
            let bad = || SeriesError::BadCell {
                line,
                column: header.get(index).unwrap_or_default().to_owned(),
            };
            if cell.is_empty() {
                return Ok(None);
            }
            cell.parse()
                .ok()
                .filter(|number: &f64| number.is_finite())
                .map(Some)
                .ok_or_else(bad)
        };
        let Some(seconds) = number(0)? else { continue };
        // Times of a recording are far inside what an i64 of milliseconds holds; the cast saturates beyond.
        let at_ms = (seconds * 1000.0).round() as i64;
        let far = |batch: &Batch| at_ms.saturating_sub(batch.at_ms) > SPAN_MS_MAX || at_ms < batch.at_ms;
        if rows >= rows_per_event.max(1) || series.batches.last().is_none_or(far) {
            series.batches.push(Batch {
                at_ms,
                readings: Vec::new(),
            });
            rows = 0;
        }
        rows += 1;
        let Some(batch) = series.batches.last_mut() else {
            continue;
        };
        let offset_ms = Some(at_ms - batch.at_ms).filter(|offset| *offset > 0);
        for (index, column) in columns.iter().enumerate() {
            let Some((metric, unit)) = *column else { continue };
            if let Some(value) = number(index + 1)? {
                batch.readings.push(Reading {
                    metric,
                    value,
                    unit: Some(unit),
                    quality: None,
                    offset_ms,
                });
            }
        }
    }
    series.batches.retain(|batch| !batch.readings.is_empty());
    Ok(series)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn irregular_rows_with_holes_become_batches_with_offsets() {
        let csv = "t_s,hr,pulse,spo2\n0,60.5,1,\n1.25,,2,97\n2,,,\n4000,61,1,98\n4001,62,1,99\n";
        let series = read(csv.as_bytes(), 60).expect("reads");
        assert!(series.relative);
        let found: Vec<_> = series
            .batches
            .iter()
            .map(|batch| {
                let readings = batch.readings.iter().map(|r| (r.metric, r.value, r.offset_ms));
                (batch.at_ms, readings.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(
            found,
            [
                (0, vec![("heart_rate", 60.5, None), ("spo2", 97.0, Some(1250))]),
                (
                    4_000_000,
                    vec![
                        ("heart_rate", 61.0, None),
                        ("spo2", 98.0, None),
                        ("heart_rate", 62.0, Some(1000)),
                        ("spo2", 99.0, Some(1000)),
                    ]
                ),
            ]
        );
        assert_eq!(read(csv.as_bytes(), 1).expect("reads").batches.len(), 4);
    }

    #[test]
    fn what_is_no_series_is_named() {
        let problem = |csv: &str| read(csv.as_bytes(), 60).expect_err("no series").to_string();
        assert!(problem("hr,t_s\n1,2\n").contains("first column"));
        assert!(problem("t_s,colour\n1,2\n").contains("`colour`"));
        assert!(problem("t_s,hr\n1,fast\n").contains("line 2, column `hr`"));
        assert!(problem("t_s,hr\n1,NaN\n").contains("not a number"));
    }

    #[test]
    fn every_recording_at_hand_reads() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/physio");
        let Ok(files) = std::fs::read_dir(folder) else {
            eprintln!("skipped: no recordings at {folder}");
            return;
        };
        let csv = files
            .flatten()
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|e| e == "csv"));
        for path in csv {
            let series = read(std::fs::File::open(&path).expect("opens"), ROWS_PER_EVENT);
            let series = series.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let readings: usize = series.batches.iter().map(|batch| batch.readings.len()).sum();
            assert!(readings > 900, "{} has {readings} readings", path.display());
        }
    }
}
