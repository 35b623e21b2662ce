//! The delay and the false alarms of the online detector.

use std::hint::black_box;
use std::time::Instant;

use pulsegate_detect::changes::online::ChangeDetector;

use crate::random::Random;

/// Number of points before the shift, and the maximum after it.
const KNOWN: u64 = 1_000;
const CENSORED: u64 = 3_000;
const RUNS: u64 = 300;
/// Shifts of the mean, in standard deviations.
const SHIFTS: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

type Shape = fn(u64, f64) -> f64;
const SHAPES: [(&str, Shape); 3] = [
    ("spread ×2", |_, noise| 2.0 * noise),
    ("spread ÷3", |_, noise| noise / 3.0),
    ("drift of .01 per point", |t, noise| noise + 0.01 * t as f64),
];

/// First-order autoregressive noise of variance one.
struct Noise {
    random: Random,
    last: f64,
    phi: f64,
}

impl Noise {
    fn new(seed: u64, phi: f64) -> Self {
        let mut random = Random::new(seed);
        let last = random.normal();
        Self { random, last, phi }
    }

    fn next(&mut self) -> f64 {
        self.last = self.phi * self.last + (1.0 - self.phi * self.phi).sqrt() * self.random.normal();
        self.last
    }
}

/// Prints the table.
pub fn report() {
    println!("Mean delay in points, {KNOWN} known before, {RUNS} runs censored at {CENSORED}");
    for phi in [0.0, 0.6] {
        let delays = SHIFTS.map(|size| format!("{:.1}", delay(phi, |_, noise| noise + size)));
        println!("φ {phi}: shifts of {SHIFTS:?} σ: {}", delays.join(" / "));
        for (name, shape) in SHAPES {
            println!("φ {phi}: {name}: {:.1}", delay(phi, shape));
        }
        println!("φ {phi}: {:.2} false alarms in 10,000 points", alarms(phi));
    }
    println!("{:.0} ns per point", nanoseconds());
}

/// Mean number of points from the change to its detection, inclusive; runs with an alarm before the change are
/// excluded.
fn delay(phi: f64, shape: impl Fn(u64, f64) -> f64) -> f64 {
    let (mut total, mut runs) = (0.0, 0.0);
    for seed in 0..RUNS {
        let (mut noise, mut detector) = (Noise::new(1_000 + seed, phi), ChangeDetector::new());
        if (0..KNOWN).any(|_| detector.observe(noise.next()).is_some()) {
            continue;
        }
        let found = (1..=CENSORED).find(|t| detector.observe(shape(*t, noise.next())).is_some());
        total += found.unwrap_or(CENSORED) as f64;
        runs += 1.0;
    }
    total / runs
}

/// False alarms per 10,000 points, after the known ones.
fn alarms(phi: f64) -> f64 {
    let mut alarms = 0;
    for seed in 0..RUNS {
        let (mut noise, mut detector) = (Noise::new(9_000 + seed, phi), ChangeDetector::new());
        for t in 0..KNOWN + CENSORED {
            alarms += u64::from(detector.observe(noise.next()).is_some() && t >= KNOWN);
        }
    }
    alarms as f64 * 1e4 / (RUNS * CENSORED) as f64
}

fn nanoseconds() -> f64 {
    let mut noise = Noise::new(1, 0.0);
    let values: Vec<f64> = (0..1_000_000).map(|_| noise.next()).collect();
    let mut detector = ChangeDetector::new();
    let begun = Instant::now();
    for value in &values {
        black_box(detector.observe(*value));
    }
    begun.elapsed().as_nanos() as f64 / values.len() as f64
}
