//! The families used for reporting; nothing was tuned with them.

use std::f64::consts::TAU;

use super::{Family, MINUTE_MS, Parts, exponent, percent, same, tenths, whole};
use crate::random::Random;

/// The families to report on.
pub const HELD_OUT: &[Family] = &[
    Family {
        name: "taxi demand, weekly",
        make: taxi,
    },
    Family {
        name: "road speed, irregular",
        make: speed,
    },
    Family {
        name: "advert exchange, hourly",
        make: exchange,
    },
    Family {
        name: "queue length",
        make: queue,
    },
    Family {
        name: "room temperature, hourly",
        make: room,
    },
    Family {
        name: "memory saw-tooth",
        make: sawtooth,
    },
    Family {
        name: "mentions, integer bursts",
        make: mentions,
    },
    Family {
        name: "heart rate, 1 min",
        make: heart,
    },
    Family {
        name: "batch on and off",
        make: batch,
    },
    Family {
        name: "deploy regimes",
        make: regimes,
    },
    Family {
        name: "sparse errors",
        make: errors,
    },
    Family {
        name: "trending sales",
        make: sales,
    },
];

fn taxi(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 30 * MINUTE_MS, whole);
    let size = random.between(3_000.0, 20_000.0);
    parts.daily(|day, number| {
        let night = number.rem_euclid(7) >= 4;
        let trough = 0.45 * (-((day - 0.2) / 0.09).powi(2)).exp() * if night { 0.6 } else { 1.0 };
        let evening = 0.25 * (-((day - 0.8) / 0.1).powi(2)).exp() * if night { 1.3 } else { 1.0 };
        let week = 1.0 + 0.05 * (TAU * number.rem_euclid(7) as f64 / 7.0).sin();
        size * week * (0.7 - trough + evening + 0.08 * (2.0 * TAU * day).sin())
    });
    parts.autoregressive(random, 0.8, size * 0.015);
    parts
}

fn speed(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, |value| {
        value.round().clamp(0.0, 90.0)
    });
    let depth = random.between(3.0, 25.0);
    parts.daily(|day, number| {
        let rush = |at: f64| (-((day - at) / 0.05).powi(2)).exp();
        let weekend = if number.rem_euclid(7) >= 5 { 0.2 } else { 1.0 };
        -depth * weekend * (rush(0.35) + rush(0.73))
    });
    parts.level = vec![66.0; length];
    let deviation = random.between(1.5, 4.0);
    parts.autoregressive(random, 0.5, deviation);
    for noise in &mut parts.noise {
        if random.chance(0.008) {
            *noise -= random.between(5.0, 20.0);
        }
    }
    parts.irregular(random, 5 * MINUTE_MS, 0.03);
    parts
}

fn exchange(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 60 * MINUTE_MS, exponent);
    let daily = random.between(0.1, 0.4);
    parts.daily(|day, number| {
        daily * (TAU * (day - 0.3)).sin() + if number.rem_euclid(7) >= 5 { -0.1 } else { 0.0 }
    });
    let mut drift = random.between(-1.0, 1.0);
    for (level, noise) in parts.level.iter_mut().zip(&mut parts.noise) {
        drift += 0.01 * random.normal();
        *level = drift;
        *noise = 0.12 * random.normal()
            + if random.chance(0.01) {
                0.5 * random.exponential()
            } else {
                0.0
            };
    }
    parts
}

fn queue(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, MINUTE_MS, whole);
    let (load, capacity) = (random.between(0.75, 0.93), random.between(5.0, 40.0));
    let mut waiting = 0.0;
    for noise in &mut parts.noise {
        waiting = (waiting + random.poisson(load * capacity) - capacity).max(0.0);
        *noise = waiting;
    }
    parts
}

fn room(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 60 * MINUTE_MS, same);
    let (swing, year) = (random.between(0.5, 3.0), random.unit());
    parts.daily(|day, _| swing * (TAU * (day - 0.35)).sin());
    for (index, level) in parts.level.iter_mut().enumerate() {
        *level = 70.0 + 4.0 * (TAU * (index as f64 / 8_760.0 + year)).sin();
    }
    parts.autoregressive(random, 0.9, 0.4);
    parts
}

fn sawtooth(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, same);
    let (period, height) = (20 + random.below(180), random.between(5.0, 60.0));
    parts.period = period;
    parts.cycle = (0..length)
        .map(|index| height * (index % period) as f64 / period as f64)
        .collect();
    parts.level = vec![30.0; length];
    parts.autoregressive(random, 0.5, 0.03 * height);
    parts
}

fn mentions(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, whole);
    let (mean, excitement) = (random.between(3.0, 60.0), random.between(0.3, 0.6));
    parts.daily(|day, _| 0.5 * mean * (TAU * (day - 0.4)).sin());
    let (cycle, mut excited) = (parts.cycle.clone(), 0.0);
    for (noise, cycle) in parts.noise.iter_mut().zip(cycle) {
        let base = (mean + cycle) * (1.0 - excitement);
        let burst = if random.chance(0.003) {
            mean * random.pareto(1.8)
        } else {
            0.0
        };
        let count = random.poisson(base + excitement * excited) + burst.min(20.0 * mean);
        excited = 0.6 * excited + 0.4 * count;
        *noise = count - cycle;
    }
    parts
}

fn heart(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, MINUTE_MS, whole);
    let (rest, mut active) = (random.between(52.0, 72.0), 0.0_f64);
    parts.daily(|day, _| if (0.3..0.95).contains(&day) { 14.0 } else { 0.0 });
    let awake = parts.cycle.clone();
    for (noise, awake) in parts.noise.iter_mut().zip(awake) {
        if awake > 0.0 && random.chance(0.02) {
            active = random.between(10.0, 60.0);
        }
        active *= 0.93;
        *noise = active;
    }
    parts.level = vec![rest; length];
    parts.autoregressive(random, 0.7, 2.0);
    parts
}

fn batch(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, percent);
    let (period, high) = (24 + random.below(120), random.between(40.0, 90.0));
    let on = period / (2 + random.below(4));
    parts.period = period;
    parts.cycle = (0..length)
        .map(|index| if index % period < on { high } else { 0.0 })
        .collect();
    parts.level = vec![4.0; length];
    let deviation = random.between(0.5, 2.0);
    parts.autoregressive(random, 0.3, deviation);
    parts
}

fn regimes(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, tenths);
    let mut level = random.between(20.0, 60.0);
    for part in &mut parts.level {
        if random.chance(1.0 / 900.0) {
            level = random.between(20.0, 60.0);
        }
        *part = level;
    }
    parts.autoregressive(random, 0.4, 1.5);
    parts
}

fn errors(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, MINUTE_MS, whole);
    let (rate, mean) = (random.between(0.005, 0.1), random.between(1.0, 6.0));
    for noise in &mut parts.noise {
        if random.chance(rate) {
            *noise = 1.0 + random.poisson(mean);
        }
    }
    parts
}

fn sales(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 60 * MINUTE_MS, whole);
    let (base, growth) = (random.between(30.0, 300.0), random.between(-0.5, 2.0));
    parts.daily(|day, number| {
        let weekend = if number.rem_euclid(7) >= 5 { 1.3 } else { 1.0 };
        0.4 * base * weekend * (TAU * (day - 0.3)).sin()
    });
    for (index, (level, noise)) in parts.level.iter_mut().zip(&mut parts.noise).enumerate() {
        *level = base * (1.0 + growth * index as f64 / length as f64);
        *noise = level.abs().sqrt() * 1.5 * random.normal();
    }
    parts
}
