//! Sums over a regime, and its mean, variance and autocorrelation computed from them.

/// Upper limit of the estimated autocorrelation: a random walk has no level that could change.
const PHI_MAX: f64 = 0.95;

/// Sums over the regime so far. Times count from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    pub count: f64,
    pub value: f64,
    pub square: f64,
    /// Sum of the products of time and value.
    pub timed: f64,
    /// Sum of the products of each value and its predecessor.
    pub lagged: f64,
    /// Sum of the unclipped values.
    pub raw: f64,
}

impl Sums {
    pub const WORDS: usize = 6;

    pub fn words(&self) -> [f64; Self::WORDS] {
        [
            self.count,
            self.value,
            self.square,
            self.timed,
            self.lagged,
            self.raw,
        ]
    }

    pub const fn from_words([count, value, square, timed, lagged, raw]: [f64; Self::WORDS]) -> Self {
        Self {
            count,
            value,
            square,
            timed,
            lagged,
            raw,
        }
    }

    pub fn mean(&self) -> f64 {
        self.value / self.count
    }

    pub fn variance(&self) -> f64 {
        (self.square / self.count - self.mean().powi(2)).max(0.0)
    }

    pub fn phi(&self) -> f64 {
        let variance = self.variance();
        if variance <= 0.0 {
            return 0.0;
        }
        // The estimate is too low in small samples; this corrects the bias of (1 + 4φ)/n (Kendall 1954).
        let seen = (self.lagged / self.count - self.mean().powi(2)) / variance;
        (seen + (1.0 + 4.0 * seen) / self.count).clamp(0.0, PHI_MAX)
    }

    /// The sums before `after`, except `timed`, which a baseline does not need.
    pub fn before(&self, after: &Self) -> Self {
        Self {
            count: self.count - after.count,
            value: self.value - after.value,
            square: self.square - after.square,
            timed: 0.0,
            lagged: self.lagged - after.lagged,
            raw: self.raw - after.raw,
        }
    }

    /// The sums after `before`, with times counted from there.
    pub fn since(&self, before: &Self) -> Self {
        let value = self.value - before.value;
        Self {
            count: self.count - before.count,
            value,
            square: self.square - before.square,
            timed: self.timed - before.timed - before.count * value,
            lagged: self.lagged - before.lagged,
            raw: self.raw - before.raw,
        }
    }
}
