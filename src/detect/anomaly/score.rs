//! What the detector says about one value.

use serde::Serialize;

/// How surprising one value is, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// From 0, nothing unusual, to 1. Comparable between series of every kind; most values score near 0.
    pub score: f64,
    /// −log10 of the probability of something this unusual under the series' own past.
    pub surprise: f64,
    /// The range in which the value was expected, in the series' unit.
    pub expected: (f64, f64),
    /// On which side of the expected range the value stands.
    pub direction: Direction,
    /// Distance from what was expected, in standard deviations of the series' usual noise; negative is below.
    pub effect: f64,
    /// What was most unusual.
    pub reason: AnomalyReason,
    /// How many values the detector had learnt from.
    pub baseline_n: u32,
    /// Milliseconds from the first value learnt to this one.
    pub baseline_age_ms: i64,
}

impl Score {
    /// Nothing to say.
    pub(super) fn quiet(expected: f64, baseline_n: u32, baseline_age_ms: i64) -> Self {
        Self {
            score: 0.0,
            surprise: 0.0,
            expected: (expected, expected),
            direction: Direction::Neither,
            effect: 0.0,
            reason: AnomalyReason::Level,
            baseline_n,
            baseline_age_ms: baseline_age_ms.max(0),
        }
    }
}

/// The side of the expected range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Higher than expected.
    Above,
    /// Lower than expected.
    Below,
    /// Inside the range: something other than the level is unusual.
    Neither,
}

impl Direction {
    /// The name in findings and columns.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Above => "above",
            Self::Below => "below",
            Self::Neither => "neither",
        }
    }
}

/// What was most unusual about a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AnomalyReason {
    /// The change from the value before.
    Jump,
    /// The level of the last values, beside what is usual at this hour.
    Level,
    /// The spread of the last values is larger than usual.
    Unsteady,
    /// The spread of the last values is smaller than usual.
    Flat,
    /// Outside the range seen so far.
    Novelty,
}

impl AnomalyReason {
    /// The name in findings, labels and columns.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jump => "jump",
            Self::Level => "level",
            Self::Unsteady => "unsteady",
            Self::Flat => "flat",
            Self::Novelty => "novelty",
        }
    }

    /// The reason in words, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Jump => "an unusually large change from the value before",
            Self::Level => "an unusual level for this time",
            Self::Unsteady => "unusually unsteady",
            Self::Flat => "unusually steady",
            Self::Novelty => "outside the range seen so far",
        }
    }
}
