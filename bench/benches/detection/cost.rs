//! The cost of a value when the state is not cached: a million series, visited in an order that no prefetcher can
//! predict.

use std::hint::black_box;
use std::time::Instant;

use pulsegate_detect::anomaly::Detector;

const SERIES: usize = 1_000_000;
const ROUNDS: usize = 6;
/// Number of distinct series; the others are copies of them.
const KNOWN: usize = 256;
/// Number of values already seen: enough that every feature is scored, as after the first hours of a series.
const SEEN: usize = 500;
/// A step coprime to the number of series.
const STRIDE: usize = 611_953;

/// A report of the nanoseconds per value and the bytes per series.
pub fn measure() -> String {
    let known: Vec<Detector> = (0..KNOWN).map(well_known).collect();
    let mut detectors: Vec<Detector> = known.iter().copied().cycle().take(SERIES).collect();
    let mut rounds: Vec<f64> = (SEEN..SEEN + ROUNDS)
        .map(|minute| {
            let started = Instant::now();
            for visit in 0..SERIES {
                let index = visit * STRIDE % SERIES;
                if let Some(detector) = detectors.get_mut(index) {
                    black_box(observe(detector, index % KNOWN, minute));
                }
            }
            started.elapsed().as_nanos() as f64 / SERIES as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    format!(
        "{SERIES} series: {:.0} ns/value with cache misses (median; max {:.0}), {} bytes/series; one series: {:.0} ns",
        rounds[ROUNDS / 2],
        rounds[ROUNDS - 1],
        Detector::BYTES,
        warm_ns()
    )
}

fn well_known(series: usize) -> Detector {
    let mut detector = Detector::new();
    for minute in 0..SEEN {
        observe(&mut detector, series, minute);
    }
    detector
}

fn observe(detector: &mut Detector, series: usize, minute: usize) -> f64 {
    let value = 60.0 + ((series * 31 + minute * 17) % 23) as f64;
    detector
        .observe(minute as i64 * 60_000 + 1_700_000_000_000, value)
        .score
}

/// Nanoseconds per value of a single series, long enough that every feature is scored.
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
