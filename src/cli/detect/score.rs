//! `pulsegate detect score`: an anomaly score for each row of a series.

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use super::series::open;
use crate::cli::{Context, print, print_json};
use crate::roles::Failure;
use pulsegate_detect::anomaly::{Detector, MODEL};
use pulsegate_detect::file::{FileError, Row};

/// Arguments of `pulsegate detect score`.
#[derive(clap::Args)]
#[command(
    after_help = "A new detector reads the rows once, in order, and scores each row from the rows before it \
                        alone."
)]
pub struct Args {
    /// The series: CSV with the columns timestamp and value
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Output file: the rows with a third column anomaly_score; not written if a row is invalid
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// Summary of the scores.
#[derive(Serialize)]
struct Summary {
    model: &'static str,
    rows: u64,
    /// Number of rows without a value, which score 0.
    missing: u64,
    /// Row with the highest score, the first of equal ones; `None` if every score is 0.
    highest: Option<Highest>,
}

#[derive(Serialize)]
struct Highest {
    line: u64,
    timestamp: String,
    score: f64,
    surprise: f64,
    reason: &'static str,
}

/// Runs the command.
///
/// # Errors
///
/// `Wrong` with the line number if a row is invalid, `Usage` if a file cannot be read or written.
pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let (scored, summary) = scored(open(&args.input)?)?;
    fs::write(&args.output, scored)
        .map_err(|error| Failure::Usage(format!("failed to write {}: {error}", args.output.display())))?;
    if context.json {
        return print_json(&summary);
    }
    let highest = match &summary.highest {
        Some(Highest {
            line,
            timestamp,
            score,
            reason,
            ..
        }) => format!("highest {score:.3} at {timestamp} (line {line}): {reason}"),
        None => "no row stands out".to_owned(),
    };
    print(&format!(
        "{} rows scored, {} without a value; {highest}",
        summary.rows, summary.missing
    ))
}

/// Builds the output file in memory, so that an invalid row leaves no partial file.
fn scored(rows: impl Iterator<Item = Result<Row, FileError>>) -> Result<(Vec<u8>, Summary), Failure> {
    let mut detector = Detector::new();
    let mut output = csv::Writer::from_writer(Vec::new());
    let mut summary = Summary {
        model: MODEL,
        rows: 0,
        missing: 0,
        highest: None,
    };
    write(&mut output, ["timestamp", "value", "anomaly_score"])?;
    for row in rows {
        let row = row?;
        let score = detector.observe(row.time_ms, row.value);
        write(
            &mut output,
            [row.timestamp.as_str(), &row.text, &format!("{:.6}", score.score)],
        )?;
        summary.rows += 1;
        summary.missing += u64::from(!row.value.is_finite());
        let highest = summary.highest.as_ref().map_or(0.0, |highest| highest.score);
        if score.score > highest {
            summary.highest = Some(Highest {
                line: row.line,
                timestamp: row.timestamp,
                score: score.score,
                surprise: score.surprise,
                reason: score.reason.words(),
            });
        }
    }
    let output = output
        .into_inner()
        .map_err(|error| Failure::Usage(format!("failed to write CSV: {error}")))?;
    Ok((output, summary))
}

fn write<'f>(
    output: &mut csv::Writer<Vec<u8>>,
    fields: impl IntoIterator<Item = &'f str>,
) -> Result<(), Failure> {
    output
        .write_record(fields)
        .map_err(|error| Failure::Usage(format!("failed to write CSV: {error}")))
}
