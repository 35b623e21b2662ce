//! Scores a series, given as CSV with the columns `timestamp` and `value` on standard input: prints each row with its anomaly
//! score between 0 and 1, which depends on the rows before it alone.
//!
//! `cargo run -p pulsegate-detect --example score <series.csv`

use std::io;
use std::process::ExitCode;

use pulsegate_detect::anomaly::Detector;
use pulsegate_detect::file::Rows;

fn main() -> ExitCode {
    let mut detector = Detector::new();
    println!("timestamp,value,anomaly_score");
    for row in Rows::new(io::stdin().lock()) {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        let score = detector.observe(row.time_ms, row.value);
        println!("{},{},{:.6}", row.timestamp, row.text, score.score);
    }
    ExitCode::SUCCESS
}
