//! Properties that hold for every series, and checks that each kind of anomaly is found while quiet series stay quiet.

use proptest::prelude::*;

use super::{ALERT, AnomalyReason, Detector, Direction, Score};

const MINUTE_MS: i64 = 60_000;

/// Deterministic noise between −1 and 1 (SplitMix64).
fn noise(index: usize) -> f64 {
    let mut state = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((state ^ (state >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// Roughly normal noise.
fn bell(index: usize) -> f64 {
    (0..4).map(|part| noise(4 * index + part)).sum::<f64>() * 0.87
}

fn scores(step_ms: i64, values: impl IntoIterator<Item = f64>) -> Vec<Score> {
    let mut detector = Detector::new();
    let timed = values.into_iter().zip(0_i64..);
    timed
        .map(|(value, index)| detector.observe(1_700_000_000_000 + index * step_ms, value))
        .collect()
}

/// Indices at or after `from` whose score is worth an alert.
fn alerts(scores: &[Score], from: usize) -> Vec<usize> {
    (from..scores.len())
        .filter(|index| scores[*index].score >= ALERT)
        .collect()
}

/// Asserts that there is an alert within `delay` values of `onset` and at most one false alarm between the 1000th value
/// and `onset`, and returns the score of the first alert.
fn found(scores: &[Score], onset: usize, delay: usize) -> Score {
    let (before, after): (Vec<_>, Vec<_>) = alerts(scores, 1_000)
        .into_iter()
        .partition(|index| *index < onset);
    assert!(before.len() <= 1, "false alarms at {before:?}");
    let first = after.first().copied().unwrap_or(usize::MAX);
    assert!(first <= onset + delay, "found at {first}, began at {onset}");
    scores[first]
}

/// A day of five-minute values, from 0 to 1 and back.
fn day(index: usize) -> f64 {
    0.5 - 0.5 * (std::f64::consts::TAU * index as f64 / 288.0).cos()
}

proptest! {
    #[test]
    fn any_values_at_any_times_are_scored(
        rows in proptest::collection::vec((any::<i64>(), proptest::num::f64::ANY), 1..200),
    ) {
        let mut detector = Detector::new();
        for (time_ms, value) in rows {
            let score = detector.observe(time_ms, value);
            prop_assert!((0.0..=1.0).contains(&score.score), "{score:?}");
            prop_assert!(score.surprise >= 0.0 && score.surprise.is_finite(), "{score:?}");
            prop_assert!(score.effect.is_finite() && score.expected.0 <= score.expected.1, "{score:?}");
            prop_assert!(score.baseline_age_ms >= 0);
        }
        prop_assert_eq!(Detector::from_bytes(&detector.to_bytes()), Some(detector));
    }

    #[test]
    fn a_restored_detector_continues_as_if_never_interrupted(seed in 0_usize..1_000_000, cut in 1_usize..600) {
        let value = |index: usize| 20.0 * day(index) + bell(seed + index) + if index == 550 { 60.0 } else { 0.0 };
        let mut whole = Detector::new();
        let mut parts = Detector::new();
        for index in 0..600 {
            let time_ms = index as i64 * 5 * MINUTE_MS;
            if index == cut {
                parts = Detector::from_bytes(&parts.to_bytes()).expect("its own bytes");
            }
            prop_assert_eq!(whole.observe(time_ms, value(index)), parts.observe(time_ms, value(index)));
        }
        prop_assert_eq!(whole.to_bytes(), parts.to_bytes());
    }

    #[test]
    fn damaged_snapshots_are_rejected_or_harmless(
        flips in proptest::collection::vec((0..Detector::BYTES, any::<u8>()), 1..8),
        values in proptest::collection::vec(proptest::num::f64::ANY, 1..20),
    ) {
        let mut detector = Detector::new();
        for index in 0..300 {
            detector.observe(index as i64 * MINUTE_MS, bell(index));
        }
        let mut bytes = detector.to_bytes();
        for (at, byte) in flips {
            bytes[at] = byte;
        }
        if let Some(mut detector) = Detector::from_bytes(&bytes) {
            for (value, index) in values.into_iter().zip(300_i64..) {
                let score = detector.observe(index * MINUTE_MS, value).score;
                prop_assert!((0.0..=1.0).contains(&score), "{}", score);
            }
        }
    }
}

#[test]
fn a_snapshot_of_another_layout_or_length_is_rejected() {
    let mut bytes = Detector::new().to_bytes();
    assert!(Detector::from_bytes(&bytes).is_some());
    assert!(Detector::from_bytes(&bytes[1..]).is_none());
    // The layout version follows five numbers of eight bytes.
    bytes[40] ^= 1;
    assert!(Detector::from_bytes(&bytes).is_none());
}

#[test]
fn the_state_is_small() {
    assert_eq!(Detector::BYTES, 408);
}

#[test]
fn quiet_series_stay_quiet() {
    let steady = |index: usize| 50.0 + bell(index);
    let daily = |index: usize| (200.0 * day(index) + 10.0 * bell(index)).round();
    let trend = |index: usize| 0.01 * index as f64 + bell(index);
    let still = |_: usize| 7.0;
    for (name, series) in [
        ("steady", &steady as &dyn Fn(usize) -> f64),
        ("daily", &daily),
        ("trend", &trend),
        ("still", &still),
    ] {
        let alerts = alerts(&scores(5 * MINUTE_MS, (0..8_000).map(series)), 500);
        // 26 days.
        assert!(alerts.len() <= 3, "{name}: {alerts:?}");
    }
}

#[test]
fn usual_spikes_become_usual() {
    let spiky = |index: usize| {
        20.0 + bell(index)
            + if index.is_multiple_of(97) {
                30.0 + 5.0 * noise(index)
            } else {
                0.0
            }
    };
    let alerts = alerts(&scores(5 * MINUTE_MS, (0..8_000).map(spiky)), 2_000);
    assert!(alerts.len() <= 3, "{alerts:?}");
}

#[test]
fn a_spike_is_found_at_once_and_reported_once() {
    let spike = |index: usize| {
        50.0 + bell(index)
            + if (3_000..3_004).contains(&index) {
                15.0
            } else {
                0.0
            }
    };
    let scores = scores(MINUTE_MS, (0..3_400).map(spike));
    let first = found(&scores, 3_000, 0);
    assert_eq!(first.direction, Direction::Above);
    assert!(first.effect > 8.0 && first.expected.1 < 60.0, "{first:?}");
    assert_eq!(first.baseline_n, 3_000);
    assert!(alerts(&scores, 3_001).len() <= 1, "{:?}", alerts(&scores, 3_001));
    // The surprise stays high while the score rests.
    assert!(scores[3_003].surprise > 1.3, "{:?}", scores[3_003]);
}

#[test]
fn a_dip_is_found_where_spikes_are_usual() {
    let dip = |index: usize| {
        let usual = if index.is_multiple_of(83) { 30.0 } else { 0.0 };
        50.0 + bell(index) + if index == 4_003 { -30.0 } else { usual }
    };
    assert_eq!(
        found(&scores(MINUTE_MS, (0..4_100).map(dip)), 4_003, 0).direction,
        Direction::Below
    );
}

#[test]
fn a_level_shift_is_found_and_then_learnt() {
    let shift = |index: usize| bell(index) + if index >= 3_000 { 8.0 } else { 0.0 };
    let scores = scores(MINUTE_MS, (0..8_000).map(shift));
    found(&scores, 3_000, 0);
    assert!(alerts(&scores, 3_100).len() <= 2, "{:?}", alerts(&scores, 3_100));
    let last = scores[7_999];
    assert!(last.expected.0 < 8.0 && 8.0 < last.expected.1, "{last:?}");
}

/// A shift of eight deviations, thousands of values after an atypical start.
#[test]
fn an_atypical_start_hides_no_later_anomaly() {
    let shift = |index: usize| bell(index) + if index >= 3_000 { 8.0 } else { 0.0 };
    let began = |began: fn(usize) -> Option<f64>| {
        let values = (0..3_400).map(|index| began(index).unwrap_or_else(|| shift(index)));
        found(&scores(5 * MINUTE_MS, values), 3_000, 3);
    };
    began(|index| (index < 31).then_some(0.0));
    began(|index| (index < 400).then_some(7.0));
    began(|index| (index == 22).then_some(300.0));
    began(|index| (index == 41).then_some(-300.0));
}

#[test]
fn a_drift_is_found() {
    let drift = |index: usize| bell(index) + 0.05 * index.saturating_sub(3_000) as f64;
    found(&scores(MINUTE_MS, (0..3_300).map(drift)), 3_000, 150);
}

#[test]
fn more_variance_is_found() {
    let wild = |index: usize| bell(index) * if index >= 3_000 { 4.0 } else { 1.0 };
    found(&scores(MINUTE_MS, (0..3_100).map(wild)), 3_000, 30);
}

#[test]
fn a_stuck_sensor_is_found() {
    let stuck = |index: usize| bell(index.min(3_000));
    let first = found(&scores(MINUTE_MS, (0..3_200).map(stuck)), 3_000, 60);
    assert!(
        matches!(first.reason, AnomalyReason::Stuck | AnomalyReason::Quiet),
        "{first:?}"
    );
}

#[test]
fn a_missing_day_is_found() {
    let missing = |index: usize| {
        100.0
            * if (12 * 288..13 * 288).contains(&index) {
                0.0
            } else {
                day(index)
            }
    };
    let series = (0..14 * 288).map(|index| missing(index) + 5.0 * bell(index));
    found(&scores(5 * MINUTE_MS, series), 12 * 288, 150);
}

#[test]
fn missing_values_and_gaps_are_not_anomalies() {
    let mut detector = Detector::new();
    let mut alerts = 0;
    for index in 0..6_000_usize {
        // Two hours are missing every day, and one value in seven is not a number.
        if index % 288 < 24 {
            continue;
        }
        let value = if index.is_multiple_of(7) {
            f64::NAN
        } else {
            100.0 * day(index) + 5.0 * bell(index)
        };
        let score = detector.observe(index as i64 * 5 * MINUTE_MS, value);
        assert!(value.is_finite() || (score.score == 0.0 && score.surprise == 0.0));
        alerts += usize::from(index > 500 && score.score >= ALERT);
    }
    assert!(alerts <= 3, "{alerts}");
}
