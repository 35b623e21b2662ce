//! Base signals without anomalies: two disjoint sets of families, one to design and tune with, one held out to report on.

use std::f64::consts::TAU;

use crate::random::Random;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// A normal series in parts, so that an anomaly can change one of them.
pub struct Parts {
    pub times_ms: Vec<i64>,
    /// Trend and regimes.
    pub level: Vec<f64>,
    /// What comes again and again; empty where nothing does.
    pub cycle: Vec<f64>,
    /// Values a cycle, where there is one.
    pub period: usize,
    pub noise: Vec<f64>,
    /// From the sum of the parts to the value.
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

    /// Sets noise that remembers: each value is `memory` of the last plus fresh noise.
    fn autoregressive(&mut self, random: &mut Random, memory: f64, deviation: f64) {
        let mut last = 0.0;
        for noise in &mut self.noise {
            last = memory * last + deviation * random.normal();
            *noise += last;
        }
    }

    /// Makes the time stamps irregular and drops some rows, as loggers do.
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

/// The families to tune with.
pub const TUNING: &[Family] = &[
    Family {
        name: "cpu with usual spikes",
        make: cpu_spikes,
    },
    Family {
        name: "idle cpu, quantised",
        make: cpu_idle,
    },
    Family {
        name: "disk bytes, sparse bursts",
        make: disk_bursts,
    },
    Family {
        name: "network with an hourly job",
        make: network_job,
    },
    Family {
        name: "machine temperature",
        make: machine_temperature,
    },
    Family {
        name: "requests, integer, daily",
        make: requests,
    },
    Family {
        name: "road occupancy",
        make: occupancy,
    },
    Family {
        name: "advert price, heavy tails",
        make: advert_price,
    },
    Family {
        name: "white noise",
        make: white,
    },
    Family {
        name: "random walk",
        make: walk,
    },
    Family {
        name: "daemon counter, constant",
        make: constant,
    },
    Family {
        name: "latency, skewed",
        make: latency,
    },
    Family {
        name: "daily plateau",
        make: plateau,
    },
    Family {
        name: "tide gauge",
        make: tide,
    },
    Family {
        name: "visitors, weekly, hourly",
        make: visitors,
    },
];

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

fn cpu_spikes(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, percent);
    let (base, rate, size) = (
        random.between(10.0, 50.0),
        random.between(0.003, 0.03),
        random.between(10.0, 35.0),
    );
    let (memory, deviation) = (random.between(0.0, 0.7), random.between(0.5, 3.0));
    parts.autoregressive(random, memory, deviation);
    for (level, noise) in parts.level.iter_mut().zip(&mut parts.noise) {
        *level = base;
        if random.chance(rate) {
            *noise += size * random.between(0.5, 1.2);
        }
    }
    parts
}

fn cpu_idle(random: &mut Random, length: usize) -> Parts {
    fn quantised(value: f64) -> f64 {
        (value.max(0.0) * 500.0).round() / 500.0
    }
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, quantised);
    let deviation = random.between(0.001, 0.006);
    let rate = random.between(0.0, 0.004);
    for (level, noise) in parts.level.iter_mut().zip(&mut parts.noise) {
        *level = 0.1;
        *noise = deviation * random.normal();
        if random.chance(rate) {
            *noise += random.between(0.02, 0.08);
        }
    }
    parts
}

fn disk_bursts(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, positive);
    let (rate, size) = (random.between(0.01, 0.06), random.between(1e4, 1e7));
    let mut left = 0;
    for noise in &mut parts.noise {
        if random.chance(rate) {
            left = 1 + random.below(4);
        }
        if left > 0 {
            left -= 1;
            *noise = (size * (0.5 * random.normal()).exp()).round();
        }
    }
    parts
}

fn network_job(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, exponent);
    let (base, job, period) = (
        random.between(8.0, 16.0),
        random.between(0.6, 2.5),
        12 * (1 + random.below(4)),
    );
    let deviation = random.between(0.05, 0.3);
    parts.period = period;
    parts.cycle = (0..length)
        .map(|index| if index % period == 3 { job } else { 0.0 })
        .collect();
    parts.level = vec![base; length];
    parts.autoregressive(random, 0.3, deviation);
    parts
}

fn machine_temperature(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, same);
    let (slow, noise) = (random.between(0.1, 0.5), random.between(0.2, 0.8));
    let mut drift = 0.0;
    for level in &mut parts.level {
        drift = 0.998 * drift + slow * random.normal();
        *level = 85.0 + drift;
    }
    parts.autoregressive(random, 0.8, noise);
    parts
}

fn requests(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, whole);
    let (peak, phase) = (random.between(20.0, 400.0), random.unit());
    parts.daily(|day, _| peak * (0.55 + 0.45 * (TAU * (day - phase)).sin()));
    let cycle = parts.cycle.clone();
    for (noise, mean) in parts.noise.iter_mut().zip(cycle) {
        *noise = random.poisson(mean) - mean;
        if random.chance(0.002) {
            *noise += peak * random.between(0.2, 0.6);
        }
    }
    parts
}

fn occupancy(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, |value| {
        tenths(value.clamp(0.0, 100.0))
    });
    let (morning, evening) = (random.between(5.0, 20.0), random.between(5.0, 25.0));
    parts.daily(|day, number| {
        let rush = |at: f64, wide: f64| (-((day - at) / wide).powi(2)).exp();
        let weekend = if number.rem_euclid(7) >= 5 { 0.5 } else { 1.0 };
        0.5 + 4.0 * rush(0.55, 0.2) + weekend * (morning * rush(0.33, 0.05) + evening * rush(0.72, 0.06))
    });
    let cycle = parts.cycle.clone();
    for (noise, mean) in parts.noise.iter_mut().zip(cycle) {
        *noise = (0.2 + 0.2 * mean) * random.normal();
        if random.chance(0.01) {
            *noise += mean * random.between(0.3, 1.0);
        }
    }
    parts.irregular(random, 5 * MINUTE_MS, 0.01);
    parts
}

fn advert_price(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 60 * MINUTE_MS, exponent);
    let (base, daily) = (random.between(-2.5, 0.5), random.between(0.0, 0.2));
    parts.daily(|day, _| daily * (TAU * day).sin());
    for (level, noise) in parts.level.iter_mut().zip(&mut parts.noise) {
        *level = base;
        *noise = 0.18 * random.normal();
        if random.chance(0.02) {
            *noise += 0.3 * random.exponential();
        }
    }
    parts
}

fn white(random: &mut Random, length: usize) -> Parts {
    let finish: fn(f64) -> f64 = if random.chance(0.5) { same } else { f64::round };
    let mut parts = Parts::new(random, length, MINUTE_MS, finish);
    let (base, deviation) = (random.between(-100.0, 100.0), random.between(0.8, 20.0));
    for (level, noise) in parts.level.iter_mut().zip(&mut parts.noise) {
        (*level, *noise) = (base, deviation * random.normal());
    }
    parts
}

fn walk(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, same);
    let trend = random.between(-0.05, 0.05);
    let mut at = 1_000.0;
    for (level, noise) in parts.level.iter_mut().zip(&mut parts.noise) {
        at += trend + random.normal();
        (*level, *noise) = (at, 0.5 * random.normal());
    }
    parts
}

fn constant(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, whole);
    let (base, rate) = (random.between(0.0, 500.0).round(), random.between(0.0, 0.01));
    for (level, noise) in parts.level.iter_mut().zip(&mut parts.noise) {
        *level = base;
        if random.chance(rate) {
            *noise = random.sign();
        }
    }
    parts
}

fn latency(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, same);
    let (base, tail) = (random.between(20.0, 60.0), random.between(2.0, 4.0));
    let mut busy = 0.0;
    for (level, noise) in parts.level.iter_mut().zip(&mut parts.noise) {
        busy = 0.9 * busy + 0.05 * random.normal();
        *level = base * (1.0 + 0.3 * busy);
        *noise = base * 0.05 * random.pareto(tail);
    }
    parts
}

fn plateau(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 5 * MINUTE_MS, positive);
    let (low, high, from) = (
        random.between(5.0, 40.0),
        random.between(20.0, 80.0),
        random.between(0.2, 0.5),
    );
    let until = from + random.between(0.2, 0.45);
    parts.daily(|day, _| if (from..until).contains(&day) { high } else { 0.0 });
    let noise = random.between(0.5, 4.0);
    for (level, part) in parts.level.iter_mut().zip(&mut parts.noise) {
        (*level, *part) = (low, noise * (random.unit() - 0.5) * 2.0);
    }
    parts
}

fn tide(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 10 * MINUTE_MS, |value| {
        (value * 100.0).round() / 100.0
    });
    let height = random.between(0.5, 3.0);
    // The moon's half day, 12.42 hours, in steps of ten minutes.
    parts.period = 75;
    parts.cycle = (0..length)
        .map(|index| {
            height * (TAU * index as f64 / 74.52).sin() * (1.0 + 0.3 * (TAU * index as f64 / 2_126.0).cos())
        })
        .collect();
    parts.level = vec![5.0; length];
    parts.autoregressive(random, 0.95, 0.02 * height);
    parts
}

fn visitors(random: &mut Random, length: usize) -> Parts {
    let mut parts = Parts::new(random, length, 60 * MINUTE_MS, whole);
    let (size, weekend) = (random.between(20.0, 2_000.0), random.between(0.1, 0.7));
    parts.daily(|day, number| {
        let open = (-((day - 0.55) / 0.16).powi(2)).exp();
        size * open * if number.rem_euclid(7) >= 5 { weekend } else { 1.0 }
    });
    let cycle = parts.cycle.clone();
    for (noise, mean) in parts.noise.iter_mut().zip(cycle) {
        let luck = random.between(0.85, 1.15);
        *noise = random.poisson(mean * luck) - mean;
    }
    parts
}

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
