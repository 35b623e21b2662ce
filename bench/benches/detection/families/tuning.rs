//! The families that the detector was designed and tuned with.

use std::f64::consts::TAU;

use super::{Family, MINUTE_MS, Parts, exponent, percent, positive, same, tenths, whole};
use crate::random::Random;

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
    // Half a lunar day, 12.42 hours, in steps of ten minutes.
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
