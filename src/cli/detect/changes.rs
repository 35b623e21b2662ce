//! `pulsegate detect changes`: the change points of a series.

use std::path::PathBuf;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use super::series::open;
use crate::cli::{Context, print, print_json};
use crate::roles::Failure;
use pulsegate_detect::changes::{Change, MODEL, offline};
use pulsegate_detect::file::{FileError, Row};

/// Arguments of `pulsegate detect changes`.
#[derive(clap::Args)]
#[command(
    after_help = "Indices count rows from 0, rows without a value included. A change is at the first row of the new \
                        regime."
)]
pub struct Args {
    /// The series: CSV with the columns timestamp and value, or a column of values alone
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
}

/// Changes found in the series.
#[derive(Serialize)]
struct Answer {
    model: &'static str,
    rows: usize,
    /// Number of rows without a value.
    missing: usize,
    changes: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    change: Change,
    /// Timestamp of the row as written in the file.
    timestamp: String,
}

/// Runs the command.
///
/// # Errors
///
/// `Wrong` with the line number if a row is invalid, `Usage` if the file cannot be read.
pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let answer = answer(open(&args.input)?.untimed())?;
    if context.json {
        return print_json(&answer);
    }
    if answer.changes.is_empty() {
        return print(&format!("no changes in {} rows", answer.rows));
    }
    print(&table(&answer.changes).to_string())
}

fn answer(rows: impl Iterator<Item = Result<Row, FileError>>) -> Result<Answer, Failure> {
    let (mut values, mut timestamps) = (Vec::new(), Vec::new());
    for row in rows {
        let row = row?;
        values.push(row.value);
        timestamps.push(row.timestamp);
    }
    let found = offline::changes(&values).into_iter().map(|change| {
        // No index of a change is past the rows.
        let row = usize::try_from(change.index)
            .ok()
            .and_then(|index| timestamps.get(index));
        Found {
            change,
            timestamp: row.cloned().unwrap_or_default(),
        }
    });
    Ok(Answer {
        model: MODEL,
        rows: values.len(),
        missing: values.iter().filter(|value| !value.is_finite()).count(),
        changes: found.collect(),
    })
}

fn table(changes: &[Found]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
        "INDEX",
        "TIMESTAMP",
        "BETWEEN",
        "CHANGE",
        "BEFORE",
        "AFTER",
        "EFFECT",
        "CONFIDENCE",
    ]);
    for Found { change, timestamp } in changes {
        table.add_row([
            change.index.to_string(),
            timestamp.clone(),
            format!("{} and {}", change.earliest, change.latest),
            change.kind.as_str().to_owned(),
            format!("{:.6}", change.before),
            format!("{:.6}", change.after),
            format!("{:+.2}", change.effect),
            format!("{:.4}", change.confidence),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Answer, Failure> {
        answer(pulsegate_detect::file::Rows::new(text.as_bytes()).untimed())
    }

    #[test]
    fn every_layout_yields_the_same_change() {
        let values: Vec<String> = (0..40)
            .map(|t| format!("{}", t % 3 + if t < 20 { 0 } else { 9 }))
            .collect();
        let rows = |row: &dyn Fn(usize, &str) -> String| -> String {
            values
                .iter()
                .enumerate()
                .map(|(t, value)| row(t, value) + "\n")
                .collect()
        };
        let layouts = [
            "timestamp,value\n".to_owned() + &rows(&|t, value| format!("2026-01-01 00:{t:02}:00,{value}")),
            "timestamp,value\n".to_owned() + &rows(&|t, value| format!("{},{value}", t + 1)),
            "timestamp,value\n".to_owned() + &rows(&|t, value| format!("Q{t},{value}")),
            "month,sales\n".to_owned() + &rows(&|t, value| format!("Q{t},{value}")),
            "value\n".to_owned() + &rows(&|_, value| value.to_owned()),
            rows(&|_, value| value.to_owned()),
        ];
        for layout in layouts {
            let answer = read(&layout).expect("readable");
            let indices: Vec<u64> = answer.changes.iter().map(|found| found.change.index).collect();
            assert_eq!((answer.rows, indices), (40, vec![20]), "{}", &layout[..20]);
        }
    }

    #[test]
    fn rows_without_a_value_keep_their_index() {
        let text: String = (0..60)
            .map(|t| match t {
                t if t % 5 == 1 => format!("{t},\n"),
                t => format!("{t},{}\n", t % 3 + if t < 30 { 0 } else { 9 }),
            })
            .collect();
        let answer = read(&text).expect("readable");
        assert_eq!(answer.missing, 12);
        assert_eq!(answer.changes.len(), 1);
        assert_eq!(
            (
                answer.changes[0].change.index,
                answer.changes[0].timestamp.as_str()
            ),
            (30, "30")
        );
    }

    #[test]
    fn an_invalid_value_is_reported_by_its_line() {
        let Err(Failure::Wrong(text)) = read("timestamp,value\n1,2\n2,secret\n") else {
            panic!("must be refused")
        };
        assert!(text.contains("line 3") && !text.contains("secret"), "{text}");
    }
}
