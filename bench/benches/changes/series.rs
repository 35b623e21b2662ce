//! Series of many kinds with known changes. Each family draws its own length, noise, sizes and places.

use crate::random::Random;

/// A series and the first index of each new regime in it.
pub struct Labelled {
    pub values: Vec<f64>,
    pub changes: Vec<usize>,
}

/// A family of series.
pub struct Family {
    pub name: &'static str,
    pub make: fn(&mut Random) -> Labelled,
}

impl Family {
    /// The group over which its scores are averaged: the kind of change, or the families held out from tuning.
    pub fn group(&self) -> &'static str {
        self.name.split([':', ' ']).next().unwrap_or(self.name)
    }
}

const fn family(name: &'static str, make: fn(&mut Random) -> Labelled) -> Family {
    Family { name, make }
}

/// All families, in the order of the report.
pub const FAMILIES: [Family; 34] = [
    family("quiet: white noise", |r| {
        let n = length(r);
        let heavy = r.chance(0.4);
        plain(noise(r, n, 0.0, heavy))
    }),
    family("quiet: autocorrelated", |r| {
        let n = length(r);
        let phi = r.within(0.3, 0.9);
        plain(noise(r, n, phi, false))
    }),
    family("quiet: random walk", |r| {
        let n = length(r);
        let drift = if r.chance(0.5) { r.within(-0.2, 0.2) } else { 0.0 };
        plain(walk(r, n, drift))
    }),
    family("quiet: trend", |r| {
        let n = length(r);
        let phi = r.within(0.0, 0.6);
        let slope = r.sign() * r.within(3.0, 30.0) / n as f64;
        plain(add(noise(r, n, phi, false), |t| slope * t))
    }),
    family("quiet: seasonal", |r| {
        let (n, period) = seasonal_length(r);
        let season = season(r, period);
        let slope = if r.chance(0.5) {
            r.within(-6.0, 6.0) / n as f64
        } else {
            0.0
        };
        plain(add(noise(r, n, 0.2, false), |t| season(t) + slope * t))
    }),
    family("quiet: with spikes", |r| {
        let n = length(r).max(40);
        let mut values = noise(r, n, 0.0, false);
        spikes(r, &mut values);
        plain(values)
    }),
    family("level: one", |r| {
        let n = r.whole(40, 400);
        steps(r, n, 1, (2.0, 8.0), 0.0, false)
    }),
    family("level: several", |r| {
        let (n, count) = (r.whole(100, 1000), r.whole(2, 5));
        steps(r, n, count, (2.0, 8.0), 0.0, false)
    }),
    family("level: heavy tails", |r| {
        let (n, count) = (r.whole(60, 500), r.whole(1, 3));
        steps(r, n, count, (3.0, 8.0), 0.0, true)
    }),
    family("level: autocorrelated", |r| {
        let (n, count, phi) = (r.whole(80, 600), r.whole(1, 3), r.within(0.3, 0.7));
        steps(r, n, count, (4.0, 9.0), phi, false)
    }),
    family("level: with spikes", |r| {
        let (n, count) = (r.whole(60, 400), r.whole(1, 3));
        let mut series = steps(r, n, count, (3.0, 6.0), 0.0, false);
        spikes(r, &mut series.values);
        series
    }),
    family("level: on a trend", |r| {
        let (n, count) = (r.whole(60, 500), r.whole(1, 2));
        let series = steps(r, n, count, (5.0, 10.0), 0.0, false);
        let slope = r.sign() * r.within(5.0, 20.0) / n as f64;
        Labelled {
            values: add(series.values, |t| slope * t),
            ..series
        }
    }),
    family("level: seasonal", |r| {
        let (n, period) = seasonal_length(r);
        let season = season(r, period);
        let count = r.whole(1, 2);
        let series = steps(r, n, count, (3.0, 8.0), 0.2, false);
        Labelled {
            values: add(series.values, season),
            ..series
        }
    }),
    family("level: noiseless steps", |r| {
        let (n, count) = (r.whole(20, 400), r.whole(1, 4));
        let changes = places(r, n, count, 5);
        let values = piecewise(r, n, &changes, (1.0, 6.0));
        Labelled {
            values: values.iter().map(|v| v.round()).collect(),
            changes,
        }
    }),
    family("level: rounded", |r| {
        let (n, count) = (r.whole(40, 400), r.whole(1, 3));
        let mut series = steps(r, n, count, (3.0, 8.0), 0.0, false);
        let step = r.within(0.5, 1.5);
        for value in &mut series.values {
            *value = (*value / step).round() * step;
        }
        series
    }),
    family("level: there and back", |r| {
        let n = r.whole(80, 800);
        let (width, size) = (r.whole(10, n / 4), r.sign() * r.within(3.0, 8.0));
        let start = r.whole(15, n - width - 15);
        let values = add(noise(r, n, 0.0, false), |t| {
            if (start..start + width).contains(&(t as usize)) {
                size
            } else {
                0.0
            }
        });
        Labelled {
            values,
            changes: vec![start, start + width],
        }
    }),
    family("level: short series", |r| {
        let n = r.whole(15, 40);
        steps(r, n, 1, (4.0, 10.0), 0.0, false)
    }),
    family("level: small, quality control", |r| {
        let n = r.whole(80, 300);
        steps(r, n, 1, (1.5, 2.5), 0.0, false)
    }),
    family("level: counts", |r| {
        let (n, count) = (r.whole(50, 600), r.whole(1, 3));
        counts(r, n, count, 0.0)
    }),
    family("level: random walk with a jump", |r| {
        let n = r.whole(80, 800);
        let (at, size) = (r.whole(15, n - 15), r.sign() * r.within(10.0, 20.0));
        let values = add(walk(r, n, 0.0), |t| if t as usize >= at { size } else { 0.0 });
        Labelled {
            values,
            changes: vec![at],
        }
    }),
    family("slope: one kink", |r| {
        let n = r.whole(40, 500);
        kinks(r, n, 1, 0.0)
    }),
    family("slope: several kinks", |r| {
        let (n, count) = (r.whole(100, 800), r.whole(2, 4));
        kinks(r, n, count, 0.2)
    }),
    family("slope: short series", |r| {
        let n = r.whole(20, 45);
        kinks(r, n, 1, 0.0)
    }),
    family("slope: ramp between plateaus", |r| {
        let n = r.whole(80, 500);
        let (start, width) = (r.whole(n / 6, n / 3), r.whole(n / 6, n / 3));
        let size = r.sign() * r.within(8.0, 20.0);
        let values = add(noise(r, n, 0.0, false), |t| {
            size * ((t - start as f64) / width as f64).clamp(0.0, 1.0)
        });
        Labelled {
            values,
            changes: vec![start, start + width],
        }
    }),
    family("variance: one", |r| {
        let n = r.whole(100, 800);
        variances(r, n, 1, 0.0)
    }),
    family("variance: two", |r| {
        let n = r.whole(150, 1000);
        variances(r, n, 2, 0.0)
    }),
    family("variance and level", |r| {
        let n = r.whole(80, 600);
        let changes = places(r, n, 1, 20);
        let level = r.sign() * r.within(3.0, 8.0);
        let ratio = r.within(2.0, 4.0);
        let values = noise(r, n, 0.0, false)
            .iter()
            .enumerate()
            .map(|(t, e)| if t >= changes[0] { level + ratio * e } else { *e })
            .collect();
        Labelled { values, changes }
    }),
    family("held-out: quiet, second order", |r| {
        let n = length(r);
        plain(second_order(r, n))
    }),
    family("held-out: quiet, growing season", |r| {
        let (n, period) = seasonal_length(r);
        let season = season(r, period);
        let growth = r.within(0.5, 2.0) / n as f64;
        let values = add(noise(r, n, 0.2, false), |t| {
            (1.0 + growth * t) * (12.0 + season(t))
        });
        plain(values)
    }),
    family("held-out: quiet, smooth growth", |r| {
        let n = length(r);
        let (rate, noisy) = (r.within(1.0, 2.5), r.within(0.2, 1.0));
        plain(add(noise(r, n, 0.3, false), |t| {
            30.0 * (rate * t / n as f64).exp() / noisy
        }))
    }),
    family("held-out: level, overdispersed counts", |r| {
        let (n, count) = (r.whole(80, 500), r.whole(1, 2));
        counts(r, n, count, 0.25)
    }),
    family("held-out: level, seasonal growth", |r| {
        let (n, period) = seasonal_length(r);
        let season = season(r, period);
        let at = r.whole(n / 5, 4 * n / 5);
        let (factor, growth) = (r.within(1.5, 2.2), r.within(0.0, 1.0) / n as f64);
        let values = add(noise(r, n, 0.2, false), |t| {
            (1.0 + growth * t) * (12.0 + 0.6 * season(t)) * if t as usize >= at { factor } else { 1.0 }
        });
        Labelled {
            values,
            changes: vec![at],
        }
    }),
    family("held-out: level, moving average noise", |r| {
        let (n, count) = (r.whole(80, 600), r.whole(1, 3));
        let changes = places(r, n, count, 15);
        let means = piecewise(r, n, &changes, (4.0, 9.0));
        let white = noise(r, n + 3, 0.0, false);
        let values = (0..n)
            .map(|t| means[t] + white[t..t + 4].iter().sum::<f64>() / 2.0)
            .collect();
        Labelled { values, changes }
    }),
    family("held-out: crash and recovery", |r| {
        let n = r.whole(60, 300);
        let (at, size, pace) = (
            r.whole(n / 4, n / 2),
            r.within(10.0, 20.0),
            r.within(0.3, 0.6) * n as f64,
        );
        let slope = r.within(5.0, 15.0) / n as f64;
        let values = add(noise(r, n, 0.3, false), |t| {
            slope * t
                - if t as usize >= at {
                    size * (1.0 - (t - at as f64) / pace).max(0.0)
                } else {
                    0.0
                }
        });
        let back = at + pace as usize;
        let changes = if back + 8 < n { vec![at, back] } else { vec![at] };
        Labelled { values, changes }
    }),
];

const fn plain(values: Vec<f64>) -> Labelled {
    Labelled {
        values,
        changes: Vec::new(),
    }
}

/// A length of 15 to 1,500, more often short.
fn length(r: &mut Random) -> usize {
    (15.0 * 100.0_f64.powf(r.unit())) as usize
}

/// A length of at least six cycles, and their period.
fn seasonal_length(r: &mut Random) -> (usize, usize) {
    let period = [4, 7, 12, 12, 24, 52][r.whole(0, 5)];
    (
        period * r.whole(6, 14).min(900 / period) + r.whole(0, period - 1),
        period,
    )
}

/// A repeating pattern with an amplitude of two to five times the noise.
fn season(r: &mut Random, period: usize) -> impl Fn(f64) -> f64 + use<> {
    let (size, phase, second) = (r.within(2.0, 5.0), r.unit(), r.within(0.0, 0.8));
    move |t| {
        let angle = std::f64::consts::TAU * (t / period as f64 + phase);
        size * (angle.sin() + second * (2.0 * angle).cos())
    }
}

/// First-order autoregressive noise of variance one.
fn noise(r: &mut Random, n: usize, phi: f64, heavy: bool) -> Vec<f64> {
    let scale = (1.0 - phi * phi).sqrt();
    let mut last = r.normal();
    let mut next = || {
        let fresh = if heavy { r.heavy() } else { r.normal() };
        last = phi * last + scale * fresh;
        last
    };
    (0..n).map(|_| next()).collect()
}

fn walk(r: &mut Random, n: usize, drift: f64) -> Vec<f64> {
    let mut at = 0.0;
    let mut next = || {
        at += r.normal() + drift;
        at
    };
    (0..n).map(|_| next()).collect()
}

/// A slowly oscillating process: complex roots near the unit circle.
fn second_order(r: &mut Random, n: usize) -> Vec<f64> {
    let (radius, angle) = (r.within(0.7, 0.93), r.within(0.1, 1.0));
    let (a, b) = (2.0 * radius * f64::cos(angle), -radius * radius);
    let (mut one, mut two) = (0.0, 0.0);
    let mut next = || {
        let value = a * one + b * two + r.normal();
        (two, one) = (one, value);
        value
    };
    (0..n + 50).map(|_| next()).skip(50).collect()
}

fn add(values: Vec<f64>, more: impl Fn(f64) -> f64) -> Vec<f64> {
    values
        .iter()
        .enumerate()
        .map(|(t, v)| v + more(t as f64))
        .collect()
}

/// Adds single outliers of 6 to 15 times the noise.
fn spikes(r: &mut Random, values: &mut [f64]) {
    for _ in 0..r.whole(1, 2 + values.len() / 80) {
        let at = r.whole(0, values.len() - 1);
        values[at] += r.sign() * r.within(6.0, 15.0);
    }
}

/// Places at least `apart` from each other and from the ends, or closer if the series is too short.
fn places(r: &mut Random, n: usize, count: usize, apart: usize) -> Vec<usize> {
    let apart = apart.max(n / (4 * (count + 1))).min(n / (count + 2)).max(3);
    loop {
        let mut places: Vec<usize> = (0..count).map(|_| r.whole(apart, n - apart)).collect();
        places.sort_unstable();
        if places.windows(2).all(|pair| pair[1] - pair[0] >= apart) {
            return places;
        }
    }
}

/// A level for each regime, which differs from the one before by an amount within `size`.
fn piecewise(r: &mut Random, n: usize, changes: &[usize], size: (f64, f64)) -> Vec<f64> {
    let mut level = 0.0;
    let mut values = Vec::with_capacity(n);
    for t in 0..n {
        if changes.contains(&t) {
            level += r.sign() * r.within(size.0, size.1);
        }
        values.push(level);
    }
    values
}

fn steps(r: &mut Random, n: usize, count: usize, size: (f64, f64), phi: f64, heavy: bool) -> Labelled {
    let changes = places(r, n, count, 12);
    let means = piecewise(r, n, &changes, size);
    let values = add(noise(r, n, phi, heavy), |t| means[t as usize]);
    Labelled { values, changes }
}

/// Continuous changes of slope that move the line by many times the noise within a regime.
fn kinks(r: &mut Random, n: usize, count: usize, phi: f64) -> Labelled {
    let changes = places(r, n, count, 10);
    let mut slope = r.within(-10.0, 10.0) / n as f64;
    let mut at = 0.0;
    let mut line = Vec::with_capacity(n);
    let regime = n as f64 / (count + 1) as f64;
    for t in 0..n {
        if changes.contains(&t) {
            slope += -slope.signum() * r.within(10.0, 25.0) / regime;
        }
        line.push(at);
        at += slope;
    }
    Labelled {
        values: add(noise(r, n, phi, false), |t| line[t as usize]),
        changes,
    }
}

fn variances(r: &mut Random, n: usize, count: usize, phi: f64) -> Labelled {
    let changes = places(r, n, count, 30);
    let mut spread = 1.0;
    let mut wide = r.chance(0.5);
    let white = noise(r, n, phi, false);
    let mut values = Vec::with_capacity(n);
    for (t, e) in white.iter().enumerate() {
        if changes.contains(&t) {
            let ratio = r.within(2.5, 6.0);
            spread *= if wide { 1.0 / ratio } else { ratio };
            wide = !wide;
        }
        values.push(spread * e);
    }
    Labelled { values, changes }
}

/// Counts whose rate is multiplied or divided by 1.6 to 3; `dispersion` adds to the variance.
fn counts(r: &mut Random, n: usize, count: usize, dispersion: f64) -> Labelled {
    let changes = places(r, n, count, 15);
    let mut rate = r.within(8.0, 40.0);
    let mut values = Vec::with_capacity(n);
    for t in 0..n {
        if changes.contains(&t) {
            let factor = r.within(1.8, 3.0);
            rate *= if rate > 60.0 || (rate > 10.0 && r.chance(0.5)) {
                1.0 / factor
            } else {
                factor
            };
        }
        let mean = rate * (dispersion * r.normal() - dispersion * dispersion / 2.0).exp();
        values.push(r.poisson(mean));
    }
    Labelled { values, changes }
}
