//! Sums over a regime, and what they say of its mean, spread and autocorrelation.

/// An autocorrelation beyond this is taken for this: a random walk has no level that could change.
const PHI_MAX: f64 = 0.95;

/// Sums over the regime so far. Times count from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    pub count: f64,
    pub value: f64,
    pub square: f64,
    /// Of time and value.
    pub timed: f64,
    /// Of each value and the one before it.
    pub lagged: f64,
    /// Of the values as they were, not clipped.
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
        // Small samples see less than there is: (1 + 4φ)/n (Kendall 1954) is put back.
        let seen = (self.lagged / self.count - self.mean().powi(2)) / variance;
        (seen + (1.0 + 4.0 * seen) / self.count).clamp(0.0, PHI_MAX)
    }

    /// What came before `after`; without its sum of times, which no baseline needs.
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

    /// What came after `before`, with times from its start.
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
