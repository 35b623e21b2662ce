//! Base signals without anomalies: two disjoint sets of families, one for design and tuning, one held out for
//! reporting.

mod held_out;
mod tuning;

pub use held_out::HELD_OUT;
pub use tuning::TUNING;

use crate::random::Random;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// A normal series split into parts, so that an anomaly can change one of them.
pub struct Parts {
    pub times_ms: Vec<i64>,
    /// Trend and regimes.
    pub level: Vec<f64>,
    /// The repeating component; empty if there is none.
    pub cycle: Vec<f64>,
    /// Length of a cycle, in values; 0 without a cycle.
    pub period: usize,
    pub noise: Vec<f64>,
    /// Converts the sum of the parts to the value.
    pub finish: fn(f64) -> f64,
}

impl Parts {
    fn new(random: &mut Random, length: usize, step_ms: i64, finish: fn(f64) -> f64) -> Self {
        let start_ms = 1_400_000_000_000 + random.below(400 * 1_440) as i64 * MINUTE_MS;
        Self {
            times_ms: (0..length as i64)
                .map(|index| start_ms + index * step_ms)
                .collect(),
            level: vec![0.0; length],
            cycle: Vec::new(),
            period: 0,
            noise: vec![0.0; length],
            finish,
        }
    }

    /// Sets the cycle from the time of day (0 to 1) and the day's number.
    fn daily(&mut self, mut shape: impl FnMut(f64, i64) -> f64) {
        self.period = match *self.times_ms.as_slice() {
            [first, second, ..] => (DAY_MS / (second - first).max(1)) as usize,
            _ => 0,
        };
        self.cycle = self
            .times_ms
            .iter()
            .map(|ms| {
                shape(
                    ms.rem_euclid(DAY_MS) as f64 / DAY_MS as f64,
                    ms.div_euclid(DAY_MS),
                )
            })
            .collect();
    }

    /// Adds autoregressive noise: each value is `memory` times the last plus new noise.
    fn autoregressive(&mut self, random: &mut Random, memory: f64, deviation: f64) {
        let mut last = 0.0;
        for noise in &mut self.noise {
            last = memory * last + deviation * random.normal();
            *noise += last;
        }
    }

    /// Makes the timestamps irregular and skips some rows, as loggers do.
    fn irregular(&mut self, random: &mut Random, step_ms: i64, lost: f64) {
        let mut offset_ms = 0;
        for ms in &mut self.times_ms {
            if random.chance(lost) {
                offset_ms += step_ms * (1 + random.below(12) as i64);
            }
            *ms += offset_ms + (random.between(0.0, 0.4) * step_ms as f64) as i64;
        }
    }
}

/// A family of series.
pub struct Family {
    pub name: &'static str,
    pub make: fn(&mut Random, usize) -> Parts,
}

fn same(value: f64) -> f64 {
    value
}
fn percent(value: f64) -> f64 {
    value.clamp(0.0, 100.0)
}
fn whole(value: f64) -> f64 {
    value.round().max(0.0)
}
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
fn positive(value: f64) -> f64 {
    value.max(0.0)
}
fn exponent(value: f64) -> f64 {
    value.min(60.0).exp()
}
