//! Deterministic random numbers from the distributions that the series use.

/// A seeded generator.
pub struct Random(fastrand::Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        self.0.f64()
    }

    /// Uniform from `low` to `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// One of `0..count`.
    pub fn below(&mut self, count: usize) -> usize {
        self.0.usize(..count.max(1))
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// −1 or 1.
    pub fn sign(&mut self) -> f64 {
        if self.0.bool() { 1.0 } else { -1.0 }
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().max(1e-300).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Standard exponential.
    pub fn exponential(&mut self) -> f64 {
        -self.unit().max(1e-300).ln()
    }

    /// Pareto with a minimum of 1 and this tail index.
    pub fn pareto(&mut self, index: f64) -> f64 {
        self.unit().max(1e-12).powf(-1.0 / index)
    }

    /// Poisson; above a mean of 50, its normal approximation.
    pub fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0);
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.unit(), 0.0);
        while product > limit {
            product *= self.unit();
            count += 1.0;
        }
        count
    }
}
