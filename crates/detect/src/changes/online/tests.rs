use proptest::prelude::*;

use super::*;

/// Deterministic autocorrelated noise of variance one.
struct Noise {
    state: u64,
    last: f64,
    phi: f64,
}

impl Noise {
    fn next(&mut self) -> f64 {
        let mut sum = -6.0;
        for _ in 0..12 {
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            sum += (self.state >> 40) as f64 / (1 << 24) as f64;
        }
        self.last = self.phi * self.last + (1.0 - self.phi * self.phi).sqrt() * sum;
        self.last
    }
}

/// All changes of a series of 2,000 points whose shape begins at 1,000.
fn found(seed: u64, phi: f64, shape: fn(f64, f64) -> f64) -> Vec<(u64, Change)> {
    let mut noise = Noise {
        state: seed,
        last: 0.0,
        phi,
    };
    let mut detector = ChangeDetector::new();
    (0..2_000_u32)
        .filter_map(|t| {
            let value = shape((f64::from(t) - 999.0).max(0.0), noise.next());
            detector.observe(value).map(|change| (u64::from(t), change))
        })
        .collect()
}

#[test]
fn each_kind_of_change_is_found_soon_and_at_its_place() {
    type Shape = fn(f64, f64) -> f64;
    // With so few points, a small step can look like a drift, a few wide values like a step, and an early drift mostly
    // like a step: the last number says in how many of seven runs the kind must be right.
    let cases: [(&str, Shape, ChangeKind, u64, u64, u32); 5] = [
        (
            "a step of 4 σ",
            |t, e| e + 4.0 * t.min(1.0),
            ChangeKind::Level,
            8,
            4,
            4,
        ),
        (
            "a step of 1 σ",
            |t, e| e - t.min(1.0),
            ChangeKind::Level,
            80,
            40,
            4,
        ),
        (
            "a spread",
            |t, e| if t > 0.0 { 4.0 * e } else { e },
            ChangeKind::Variance,
            30,
            20,
            4,
        ),
        (
            "a smaller spread",
            |t, e| if t > 0.0 { e / 8.0 } else { e },
            ChangeKind::Variance,
            30,
            20,
            4,
        ),
        ("a drift", |t, e| e + 0.02 * t, ChangeKind::Slope, 110, 60, 1),
    ];
    for (name, shape, kind, delay, margin, right_min) in cases {
        let mut right = 0;
        for seed in 1..8 {
            let found = found(seed, 0.0, shape);
            let Some((at, change)) = found.iter().find(|(at, _)| *at >= 1_000) else {
                panic!("{name}, seed {seed}: nothing")
            };
            assert!(at - 1_000 <= delay, "{name}, seed {seed}: found at {at}");
            assert!(
                change.index.abs_diff(1_000) <= margin,
                "{name}, seed {seed}: {change:?}"
            );
            right += u32::from(change.kind == kind);
            assert!(change.earliest <= change.index && change.index <= change.latest);
        }
        assert!(right >= right_min, "{name}: the right kind {right} of 7 times");
    }
}

#[test]
fn noise_makes_few_alarms_whatever_its_autocorrelation() {
    for phi in [0.0, 0.3, 0.6, 0.9] {
        let alarms: usize = (0..30).map(|seed| found(seed, phi, |_, e| e).len()).sum();
        // The target is one in 10,000; these are 60,000 points including their baselines.
        assert!(alarms <= 20, "φ {phi}: {alarms} alarms in 60,000 points");
    }
}

#[test]
fn a_spike_and_a_constant_are_not_changes() {
    let mut detector = ChangeDetector::new();
    assert!((0..500).all(|_| detector.observe(7.5).is_none()));
    assert!(detector.observe(9.0).is_none(), "one point is not a regime");
    let spiky: fn(f64, f64) -> f64 = |t, e| if t == 1.0 { 1e6 } else { e };
    for seed in 1..8 {
        let found = found(seed, 0.0, spiky);
        assert!(
            found.iter().all(|(at, _)| !(1_000..1_100).contains(at)),
            "{found:?}"
        );
    }
}

#[test]
fn sizes_are_in_the_unit_of_the_series() {
    let found = found(3, 0.0, |t, e| 1_000.0 + 10.0 * (e + 8.0 * t.min(1.0)));
    let change = found.iter().find(|(at, _)| *at >= 1_000).expect("a change").1;
    assert!(
        (change.before - 1_000.0).abs() < 2.0 && (change.after - 1_080.0).abs() < 25.0,
        "{change:?}"
    );
}

proptest! {
    #[test]
    fn any_values_are_accepted_and_a_restored_detector_continues_the_same(
        values in proptest::collection::vec(
            prop_oneof![6 => -5.0..5.0, 1 => proptest::num::f64::ANY, 1 => Just(1e308)],
            0..300,
        ),
        cut in 0_usize..300,
    ) {
        let mut detector = ChangeDetector::new();
        let mut copy = None;
        for (index, value) in values.into_iter().enumerate() {
            if index == cut {
                copy = ChangeDetector::from_bytes(&detector.to_bytes());
                prop_assert!(copy.is_some());
            }
            let change = detector.observe(value);
            if let Some(copy) = &mut copy {
                prop_assert_eq!(copy.observe(value), change);
                prop_assert!(copy.to_bytes() == detector.to_bytes());
            }
            if let Some(change) = change {
                prop_assert!(change.earliest <= change.index && change.index <= change.latest);
                prop_assert!(change.latest <= index as u64);
                prop_assert!(change.effect.is_finite() && (0.0..=1.0).contains(&change.confidence));
            }
        }
    }
}
