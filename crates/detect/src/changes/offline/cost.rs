//! The unexplained part of a regime: the squared innovations around a constant or a line with first-order
//! autoregressive noise.
//!
//! Noise `e[t] = φ e[t−1] + innovation` is whitened: within a regime, each value but the first becomes its difference
//! from φ times its predecessor, `z[t] = x[t] − φ x[t−1]`, and the first has the variance of the stationary process.
//! With sums from the start of the series, the least squares of any regime take a few multiplications.

/// The prefix sums of a series for one φ.
pub struct Costs<'v> {
    values: &'v [f64],
    /// φ, in [0, 1).
    pub phi: f64,
    /// For each index, the sums of `z`, `z²` and `t·z` over all indices before it.
    sums: Vec<[f64; 3]>,
}

/// The squared innovations of one regime, and its fitted parameters.
#[derive(Clone, Copy, Debug)]
pub struct Residuals {
    /// Sum of squared innovations around the constant.
    pub constant: f64,
    /// Sum of squared innovations around the line.
    pub line: f64,
    /// The fitted constant.
    pub mean: f64,
    /// The value of the line at the regime's first index.
    pub start: f64,
    /// The slope of the line per point.
    pub slope: f64,
}

impl<'v> Costs<'v> {
    pub fn new(values: &'v [f64], phi: f64) -> Self {
        let mut sums = Vec::with_capacity(values.len() + 1);
        let (mut sum, mut last) = ([0.0; 3], 0.0);
        sums.push(sum);
        for (t, value) in values.iter().enumerate() {
            let z = value - phi * last;
            last = *value;
            sum = [sum[0] + z, sum[1] + z * z, sum[2] + t as f64 * z];
            sums.push(sum);
        }
        Self { values, phi, sums }
    }

    pub const fn values(&self) -> &'v [f64] {
        self.values
    }

    /// The ratio of the variance of the noise to that of its innovations.
    pub fn gain(&self) -> f64 {
        1.0 / (1.0 - self.phi * self.phi)
    }

    /// The description length that a regime's first value adds, because it varies as the noise and not as an
    /// innovation.
    pub fn first_log(&self) -> f64 {
        self.gain().ln()
    }

    /// The fit of the regime from `start` up to but not including `end`, of at least one point.
    pub fn residuals(&self, start: usize, end: usize) -> Residuals {
        let (phi, step) = (self.phi, 1.0 - self.phi);
        let (low, high) = (&self.sums[start + 1], &self.sums[end]);
        let (z, zz) = (high[0] - low[0], high[1] - low[1]);
        let uz = high[2] - low[2] - start as f64 * z;
        let first = self.values[start];
        let weight = 1.0 - phi * phi;
        // Regressors of the whitened values: `step` for the constant, and for the line step·u + φ at u = 1 … rest.
        let rest = (end - start - 1) as f64;
        let (u, uu) = (
            rest * (rest + 1.0) / 2.0,
            rest * (rest + 1.0) * (2.0 * rest + 1.0) / 6.0,
        );
        let s_aa = weight + rest * step * step;
        let s_az = weight * first + step * z;
        let s_zz = weight * first * first + zz;
        let mean = s_az / s_aa;
        let constant = (s_zz - s_az * mean).max(0.0);
        let s_ab = step * (step * u + phi * rest);
        let s_bb = step * step * uu + 2.0 * step * phi * u + phi * phi * rest;
        let s_bz = step * uz + phi * z;
        let spread = s_bb - s_ab * s_ab / s_aa;
        let slope = if spread > 0.0 {
            (s_bz - s_ab * mean) / spread
        } else {
            0.0
        };
        let line = (constant - slope * slope * spread).max(0.0);
        Residuals {
            constant,
            line,
            mean,
            start: mean - slope * s_ab / s_aa,
            slope,
        }
    }
}
