//! Compares the anomaly detector with common ones, on synthetic series with known anomalies: points, precision, recall,
//! delay and false alarms per day, results by kind and family, and time and memory per series. `--tuning` uses the
//! families that the detector was designed with; the default is the held-out families. A further argument selects the
//! contenders whose names contain it.

mod contenders;
mod cost;
mod families;
mod memory;
mod random;
mod report;
mod scorer;
mod series;

use contenders::CONTENDERS;
use scorer::{PROFILES, best};

/// Seeds of the two sets; no seed is in both.
const TUNING_SEEDS: std::ops::Range<u64> = 0..10;
const HELD_OUT_SEEDS: std::ops::Range<u64> = 1_000..1_010;

fn main() {
    // Measure memory first, before freed memory could be reused.
    println!("{}", memory::measure());
    let is_tuning = std::env::args().any(|argument| argument == "--tuning");
    let (families, seeds) = if is_tuning {
        (families::TUNING, TUNING_SEEDS)
    } else {
        (families::HELD_OUT, HELD_OUT_SEEDS)
    };
    let all = series::series(families, seeds);
    println!("{}", report::about(&all, is_tuning));
    let mut table = report::contenders();
    let wanted = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"))
        .unwrap_or_default();
    for contender in CONTENDERS
        .iter()
        .filter(|contender| contender.name.contains(&wanted))
    {
        let started = std::time::Instant::now();
        let scores: Vec<Vec<f64>> = all.iter().map(contender.score).collect();
        let elapsed = started.elapsed();
        let tallies = PROFILES.map(|profile| best(&all, &scores, &profile));
        report::add(&mut table, contender.name, &tallies, elapsed, &all);
        if contender.name == CONTENDERS[0].name {
            println!("{}", report::kinds(&tallies[0]));
            println!(
                "{}",
                report::families(families, &all, &scores, tallies[0].threshold)
            );
        }
    }
    println!("{table}");
    println!("{}", cost::measure());
}
