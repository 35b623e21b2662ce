//! Measured series in CSV: one column of time, the others are metrics. Rows become readings of one device, and a batch
//! of rows becomes one event.

use std::io::Read;

use crate::fleet::event::Reading;

/// Metric of a column; `None` for known columns that carry no metric.
type Column = Option<(&'static str, &'static str)>;

/// Default number of rows of a series in one event: three metrics per row stay below the gate's 1,024 items, and a
/// month of heart rate below its burst of 1,000 events.
pub const ROWS_PER_EVENT: usize = 300;

/// The readings of one event.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Time of the first row in milliseconds on the series' own clock: since the Unix epoch, or since the recording
    /// began.
    pub at_ms: i64,
    /// Readings of all rows, with offsets from the first row.
    pub readings: Vec<Reading>,
}

/// A parsed series.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Whether times count from the start of the recording (`t_s`) rather than from the Unix epoch (`ts`).
    pub relative: bool,
    /// Events in order of time.
    pub batches: Vec<Batch>,
}

/// Why a series cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// The input is not CSV.
    #[error("not CSV: {0}")]
    Csv(#[from] csv::Error),
    /// The first column of the header is not a time.
    #[error("the first column must be `ts` (Unix seconds) or `t_s` (seconds from the start)")]
    NoTime,
    /// The column is not a known metric.
    #[error("unknown metric in column `{0}`; rename the column or remove it")]
    UnknownColumn(String),
    /// A cell is not a number.
    #[error("line {line}, column `{column}`: not a number")]
    BadCell {
        /// Line number, from 1.
        line: u64,
        /// Column name.
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
        // A second heart rate source, blood pressures and annotations: not metrics of ours.
        "pulse" | "nbpsys" | "nbpdias" | "nbpmean" | "beat" => None,
        _ => return Err(SeriesError::UnknownColumn(name.to_owned())),
    })
}

/// Reads a series. Empty cells and rows without any value are skipped. A batch ends after `rows_per_event` rows, or
/// before a row that is more than an hour after the batch's first.
///
/// # Errors
/// When the input is not CSV of this form.
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
        // Times of a recording are far within the range of an i64 of milliseconds; the cast saturates beyond it.
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
    fn an_invalid_series_is_refused_with_its_problem() {
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
