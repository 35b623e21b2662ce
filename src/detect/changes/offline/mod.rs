//! Change points of a whole series.
//!
//! ```text
//! values ─▶ scale, spikes, season ─▶ shortest description ─▶ kinks, doubtful ones dropped ─▶ changes
//! ```
//!
//! On series made here (`benches/changes`; 15 a family, of 15 to 1,500 points, with the seed that the defaults were chosen
//! with), F1 with a margin of five points and covering, where the start of a series counts as a change that is found:
//!
//! | families | F1 | covering | found | true |
//! |---|---|---|---|---|
//! | quiet: noise, AR(1), random walk, trend, season, spikes (6) | .974 | .974 | 0.09 | 0 |
//! | level: iid, AR(1), heavy tails, spikes, trend, season, steps, counts, short … (14) | .978 | .980 | 1.82 | 1.84 |
//! | slope: kinks, ramps, short (4) | .911 | .936 | 1.65 | 1.72 |
//! | variance, with and without level (3) | .989 | .991 | 1.33 | 1.33 |
//! | held out: AR(2), growing seasons, smooth growth, overdispersed counts, MA, crashes (7) | .940 | .942 | 0.97 | 0.84 |
//!
//! The weakest are smooth growth that has no kink (.789) and several kinks (.834), whose places are uncertain by more than
//! the margin. Defaults were chosen on the first four rows; the last was seen while they were chosen.

mod cost;
mod kink;
mod partition;
mod prepare;
mod report;
#[cfg(test)]
mod tests;

use super::Change;

/// Fewer values than this say nothing about regimes.
const VALUES_MIN: usize = 8;

/// The change points of a series, in order. Values that are not finite count as missing: they are skipped, and indices
/// stay those of `values`.
///
/// Time is bounded by about 10⁷ evaluations of a regime, whatever the length, and a few passes over the values.
#[must_use]
pub fn changes(values: &[f64]) -> Vec<Change> {
    let Some(prepared) = prepare::prepare(values) else {
        return Vec::new();
    };
    report::changes(&prepared, partition::best(&prepared.values))
}
