//! The tables of the report.

use std::time::Duration;

use comfy_table::{Table, presets};

use crate::families::Family;
use crate::scorer::{PROFILES, Tally, at};
use crate::series::Series;

/// A summary of the series.
pub fn about(all: &[Series], is_tuning: bool) -> String {
    let values: usize = all.iter().map(|series| series.values.len()).sum();
    let labels: usize = all.iter().map(|series| series.labels.len()).sum();
    let days: f64 = all.iter().map(Series::days).sum();
    let set = if is_tuning { "tuning" } else { "held-out" };
    format!(
        "{set} set: {} series, {values} values, {days:.0} days, {labels} anomalies",
        all.len()
    )
}

pub fn contenders() -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let points = PROFILES.iter().map(|profile| format!("points, {}", profile.name));
    let rest = [
        "precision",
        "recall",
        "median delay",
        "false/day",
        "threshold",
        "ns/value",
    ]
    .map(str::to_owned);
    table.set_header([String::new()].into_iter().chain(points).chain(rest));
    table
}

/// Adds one contender's row, at the threshold that is best for the standard profile.
pub fn add(table: &mut Table, name: &str, tallies: &[Tally], elapsed: Duration, all: &[Series]) {
    let Some(standard) = tallies.first() else { return };
    let values: usize = all.iter().map(|series| series.values.len()).sum();
    let points = tallies.iter().map(|tally| format!("{:.1}", tally.points));
    let rest = [
        format!("{:.2}", standard.precision()),
        format!("{:.2}", standard.recall()),
        standard.median_delay().to_string(),
        format!("{:.3}", standard.false_a_day()),
        format!("{:.3}", standard.threshold),
        format!("{:.0}", elapsed.as_nanos() as f64 / values as f64),
    ];
    table.add_row([name.to_owned()].into_iter().chain(points).chain(rest));
}

/// The number of anomalies found, by kind.
pub fn kinds(tally: &Tally) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_header(["anomaly", "found", "of"]);
    for (kind, found, of) in &tally.kinds {
        table.add_row([kind.name().to_owned(), found.to_string(), of.to_string()]);
    }
    table
}

/// The number of anomalies found in each family, at one threshold for all.
pub fn families(families: &[Family], all: &[Series], scores: &[Vec<f64>], threshold: f64) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_header(["family", "found", "of", "false", "false/day"]);
    for family in families {
        let mut sum = Tally::default();
        for (series, scores) in all
            .iter()
            .zip(scores)
            .filter(|(series, _)| series.family == family.name)
        {
            let tally = at(
                std::slice::from_ref(series),
                std::slice::from_ref(scores),
                threshold,
            );
            sum.found += tally.found;
            sum.windows += tally.windows;
            sum.false_alarms += tally.false_alarms;
            sum.days += tally.days;
        }
        let counts = [sum.found, sum.windows, sum.false_alarms].map(|count| count.to_string());
        let [found, of, false_alarms] = counts;
        table.add_row([
            family.name.to_owned(),
            found,
            of,
            false_alarms,
            format!("{:.3}", sum.false_a_day()),
        ]);
    }
    table
}
