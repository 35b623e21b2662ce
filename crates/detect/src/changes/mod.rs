//! Change points: where a series' level, spread or slope is no longer what it was.

pub mod offline;
pub mod online;

use serde::Serialize;

/// The version of the methods, in every finding they make.
pub const MODEL: &str = "changes-2";

/// What changed.
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
    /// The latest index at which it may have begun.
    pub latest: u64,
    /// What changed most.
    pub kind: ChangeKind,
    /// The level, standard deviation or slope a point before the change, in the unit of the series.
    pub before: f64,
    /// The same after it.
    pub after: f64,
    /// Level: the step, in standard deviations of the noise around the regimes. Slope: how far the shorter of the two
    /// regimes leads away from where the other slope would have led, likewise. Variance: the binary logarithm of the
    /// ratio of the standard deviations. Negative when it went down.
    pub effect: f64,
    /// In [0, 1]: the posterior odds of a change against none, as a probability.
    pub confidence: f64,
}
