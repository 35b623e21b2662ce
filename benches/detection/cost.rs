//! What a value costs when the state is not in a cache: a million series, visited in an order that no prefetcher guesses.

use std::hint::black_box;
use std::time::Instant;

use pulsegate_detect::anomaly::Detector;

const SERIES: usize = 1_000_000;
const ROUNDS: usize = 6;
/// Series that differ; the others are copies of them.
const KNOWN: usize = 256;
/// Values that they have seen: enough that every feature is scored, as in all but the first hours of a series.
const SEEN: usize = 500;
/// A step that is coprime to the number of series.
const STRIDE: usize = 611_953;

/// Nanoseconds a value and bytes a series.
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
        "{SERIES} series: {:.0} ns a value with cache misses (median; at most {:.0}), {} bytes a series; one series: {:.0} ns",
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
