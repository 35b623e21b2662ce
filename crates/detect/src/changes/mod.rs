//! Change points: the times at which a series' level, spread or slope changes.

pub mod offline;
pub mod online;

use serde::Serialize;

/// The version of the methods, stored in every finding they make.
pub const MODEL: &str = "changes-2";

/// The property that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The mean.
    Level,
    /// The standard deviation around it.
    Variance,
    /// The slope.
    Slope,
}

impl ChangeKind {
    /// The name in findings and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Level => "level",
            Self::Variance => "variance",
            Self::Slope => "slope",
        }
    }
}

/// One change of regime.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The first index of the new regime.
    pub index: u64,
    /// The earliest index at which the new regime may have begun.
    pub earliest: u64,
    /// The latest index at which the new regime may have begun.
    pub latest: u64,
    /// The property that changed most.
    pub kind: ChangeKind,
    /// The level, standard deviation or slope per point before the change, in the unit of the series.
    pub before: f64,
    /// The level, standard deviation or slope per point after the change, in the unit of the series.
    pub after: f64,
    /// Level: the step, in standard deviations of the noise around the regimes. Slope: the distance, over the shorter
    /// of the two regimes, from where the other slope would have led, in the same unit. Variance: the binary logarithm
    /// of the ratio of the standard deviations. Negative for a decrease.
    pub effect: f64,
    /// Probability of a change, in [0, 1], from the posterior odds of a change against none.
    pub confidence: f64,
}
