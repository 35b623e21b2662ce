//! Change points of a whole series.

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
