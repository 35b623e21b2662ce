//! What a value costs when the state is not in a cache: a million series, visited in an order that no prefetcher guesses.

use std::hint::black_box;
use std::time::Instant;

use pulsegate::detect::anomaly::Detector;

const SERIES: usize = 1_000_000;
const ROUNDS: usize = 6;
/// A step that is coprime to the number of series.
const STRIDE: usize = 611_953;

/// Nanoseconds a value and bytes a series.
pub fn measure() -> String {
    let mut detectors = vec![Detector::new(); SERIES];
    let mut fastest_ns = f64::INFINITY;
    for round in 0..ROUNDS {
        let started = Instant::now();
        let mut sum = 0.0;
        for visit in 0..SERIES {
            let index = visit * STRIDE % SERIES;
            let value = 60.0 + ((index * 31 + round * 17) % 23) as f64;
            let time_ms = round as i64 * 60_000 + 1_700_000_000_000;
            if let Some(detector) = detectors.get_mut(index) {
                sum += detector.observe(time_ms, value).score;
            }
        }
        black_box(sum);
        fastest_ns = fastest_ns.min(started.elapsed().as_nanos() as f64 / SERIES as f64);
    }
    let one = warm_ns();
    format!(
        "{SERIES} series: {fastest_ns:.0} ns a value with cache misses, {} bytes a series; one series: {one:.0} ns a value",
        Detector::BYTES
    )
}

/// Nanoseconds a value of one series, long enough that every feature is scored.
fn warm_ns() -> f64 {
    const VALUES: i64 = 2_000_000;
    let mut detector = Detector::new();
    let started = Instant::now();
    for index in 0..VALUES {
        let value = 60.0 + (index * 31 % 23) as f64;
        black_box(detector.observe(index * 60_000, black_box(value)));
    }
    started.elapsed().as_nanos() as f64 / VALUES as f64
}
