//! The detector's result for one value.

use serde::Serialize;

/// How surprising one value is, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// From 0, nothing unusual, to 1; a score of [`ALERT`](super::ALERT) or more is worth an alert. Comparable between
    /// series of every kind. An anomaly is reported once: while it lasts, and for a rest after it, only a more unusual
    /// value scores.
    pub score: f64,
    /// −log10 of the probability, by the series' own history, that a few values in a row are together this unusual. It
    /// stays high while the anomaly lasts, so use it for thresholds that open and close an episode.
    pub surprise: f64,
    /// The range in which the value was expected, in the series' unit.
    pub expected: (f64, f64),
    /// The side of the expected range on which the value lies.
    pub direction: Direction,
    /// Distance from the expected value, in standard deviations of the series' usual noise; negative is below.
    pub effect: f64,
    /// The most unusual feature of the value.
    pub reason: AnomalyReason,
    /// Number of values that the detector had learnt.
    pub baseline_n: u32,
    /// Milliseconds from the first value learnt to this one.
    pub baseline_age_ms: i64,
}

impl Score {
    /// The score of a missing value.
    pub(super) fn quiet(expected: f64, baseline_n: u32, baseline_age_ms: i64) -> Self {
        Self {
            score: 0.0,
            surprise: 0.0,
            expected: (expected, expected),
            direction: Direction::Neither,
            effect: 0.0,
            reason: AnomalyReason::Jump,
            baseline_n,
            baseline_age_ms: baseline_age_ms.max(0),
        }
    }
}

/// The side of the expected range on which a value lies.
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

/// The most unusual feature of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AnomalyReason {
    /// The value is far from the last few.
    Jump,
    /// The value is far from the usual one at this hour.
    Hour,
    /// Recent values have been too high or too low for some time.
    Level,
    /// The value is far from everything seen so far.
    Novelty,
    /// Recent values vary less than usual.
    Quiet,
    /// The value has not changed for unusually long.
    Stuck,
}

impl AnomalyReason {
    /// The name in findings, labels and columns.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jump => "jump",
            Self::Hour => "hour",
            Self::Level => "level",
            Self::Novelty => "novelty",
            Self::Quiet => "quiet",
            Self::Stuck => "stuck",
        }
    }

    /// The reason in words, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Jump => "a sudden change, larger than usual",
            Self::Hour => "unusual for this hour",
            Self::Level => "at an unusual level for some time",
            Self::Novelty => "outside the range seen so far",
            Self::Quiet => "varies less than usual",
            Self::Stuck => "has not changed for unusually long",
        }
    }
}
