use proptest::prelude::*;

use super::*;
use crate::changes::ChangeKind;

/// Deterministic, bounded noise.
fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1 << 24) as f64 - 0.5
    };
    // The sum of twelve uniform numbers is nearly normal, with variance one.
    (0..n).map(|_| (0..12).map(|_| next()).sum()).collect()
}

fn series(seed: u64, n: usize, shape: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    noise(seed, n)
        .into_iter()
        .enumerate()
        .map(|(t, noise)| shape(t as f64, noise))
        .collect()
}

fn after(t: f64, at: f64) -> f64 {
    if t >= at { 1.0 } else { 0.0 }
}

/// Each case: name, length, shape, and the expected changes with their margins.
#[test]
fn each_kind_of_change_is_found_where_it_is() {
    type Shape = fn(f64, f64) -> f64;
    type Expected = &'static [(u64, u64, ChangeKind)];
    let cases: [(&str, usize, Shape, Expected); 9] = [
        (
            "a step in 50 points",
            50,
            |t, e| e + 5.0 * after(t, 30.0),
            &[(30, 2, ChangeKind::Level)],
        ),
        (
            "a step down in 20 points",
            20,
            |t, e| e - 9.0 * after(t, 11.0),
            &[(11, 1, ChangeKind::Level)],
        ),
        (
            "there and back",
            200,
            |t, e| e + 6.0 * (after(t, 80.0) - after(t, 120.0)),
            &[(80, 1, ChangeKind::Level), (120, 1, ChangeKind::Level)],
        ),
        (
            "a kink",
            200,
            |t, e| e + 0.3 * (t - 120.0).max(0.0),
            &[(120, 8, ChangeKind::Slope)],
        ),
        (
            "a spread",
            300,
            |t, e| e * (1.0 + 4.0 * after(t, 150.0)),
            &[(150, 6, ChangeKind::Variance)],
        ),
        (
            "a step on a trend",
            120,
            |t, e| e + 0.2 * t + 8.0 * after(t, 70.0),
            &[(70, 1, ChangeKind::Level)],
        ),
        (
            "a step in a season",
            140,
            |t, e| e / 2.0 + 4.0 * (t * std::f64::consts::TAU / 7.0).sin() + 6.0 * after(t, 63.0),
            &[(63, 2, ChangeKind::Level)],
        ),
        (
            "a step without noise",
            60,
            |t, _| after(t, 17.0),
            &[(17, 0, ChangeKind::Level)],
        ),
        (
            "counts",
            100,
            |t, e| (e + 3.0 + 8.0 * after(t, 40.0)).round(),
            &[(40, 1, ChangeKind::Level)],
        ),
    ];
    for (name, n, shape, expected) in cases {
        for seed in 1..6 {
            let found = changes(&series(seed, n, shape));
            let near = |(change, (index, margin, kind)): (&Change, &(u64, u64, ChangeKind))| {
                change.index.abs_diff(*index) <= *margin && change.kind == *kind && change.confidence > 0.9
            };
            assert!(
                found.len() == expected.len() && found.iter().zip(expected).all(near),
                "{name}, seed {seed}: {found:?}"
            );
        }
    }
}

#[test]
fn nothing_is_found_where_nothing_happened() {
    type Shape = fn(f64, f64) -> f64;
    let cases: [(&str, Shape); 6] = [
        ("noise", |_, e| e),
        ("a constant", |_, _| 3.25),
        ("a trend", |t, e| e + 0.1 * t),
        ("a line without noise", |t, _| 0.1 * t),
        ("a season", |t, e| {
            e / 2.0 + 4.0 * (t * std::f64::consts::TAU / 12.0).cos()
        }),
        ("a spike", |t, e| e + if t == 60.0 { 40.0 } else { 0.0 }),
    ];
    for (name, shape) in cases {
        for seed in 1..6 {
            for n in [15, 40, 120, 400] {
                if name == "a season" && n < 60 {
                    // A season is recognised only after five cycles.
                    continue;
                }
                let found = changes(&series(seed, n, shape));
                assert!(found.is_empty(), "{name}, seed {seed}, {n} points: {found:?}");
            }
        }
    }
}

#[test]
fn a_wandering_series_has_few_changes() {
    for seed in 1..6 {
        let mut at = 0.0;
        let wandering: Vec<f64> = noise(seed, 1_000)
            .into_iter()
            .map(|step| {
                at += step;
                at
            })
            .collect();
        assert!(changes(&wandering).len() <= 6, "seed {seed}");
    }
}

#[test]
fn proportional_growth_is_described_by_logarithms() {
    // Growth by half per year, with a December peak that grows with it, and no changes.
    let growing = |t: f64, e: f64| {
        let december = if (t as usize).is_multiple_of(12) { 0.6 } else { 0.0 };
        (4.0 + t / 24.0 + december + 0.08 * e).exp()
    };
    let falling = |t: f64, e: f64| (3.0 + 0.5 * e - 1.5 * after(t, 60.0)).exp();
    for seed in 1..6 {
        let found = changes(&series(seed, 120, growing));
        assert!(found.is_empty(), "seed {seed}: {found:?}");
        let found = changes(&series(seed, 120, falling));
        assert_eq!(found.len(), 1, "seed {seed}: {found:?}");
        let change = found[0];
        assert!(change.index.abs_diff(60) <= 2, "seed {seed}: {change:?}");
        assert!(
            (15.0..27.0).contains(&change.before) && (3.0..6.5).contains(&change.after),
            "seed {seed}: in the unit of the series, not of logarithms: {change:?}"
        );
    }
}

#[test]
fn one_extreme_outlier_hides_no_change() {
    for far in [1e8, 1e20, 1e300, -1e300] {
        for seed in 1..4 {
            let mut values = series(seed, 300, |t, e| e + 5.0 * after(t, 150.0));
            values[40] = far;
            let found = changes(&values);
            assert_eq!(found.len(), 1, "{far}, seed {seed}: {found:?}");
            assert!(found[0].index.abs_diff(150) <= 2, "{far}, seed {seed}: {found:?}");
        }
    }
}

#[test]
fn rare_events_make_no_regimes() {
    for every in [10, 50] {
        for seed in 1..6 {
            let mut rare = noise(seed, 400);
            for value in &mut rare {
                *value = f64::from(u8::from(((*value * 1e6).abs() as u64).is_multiple_of(every)));
            }
            assert!(changes(&rare).len() <= 2, "one in {every}, seed {seed}");
        }
    }
}

#[test]
fn a_season_stays_in_phase_across_missing_values() {
    for seed in 1..6 {
        let shape =
            |t: f64, e: f64| e / 2.0 + 6.0 * (t * std::f64::consts::TAU / 12.0).sin() + 5.0 * after(t, 90.0);
        let mut values = series(seed, 180, shape);
        for at in (7..180).step_by(19) {
            values[at] = f64::NAN;
        }
        let found = changes(&values);
        assert_eq!(found.len(), 1, "seed {seed}: {found:?}");
        assert!(found[0].index.abs_diff(90) <= 2, "seed {seed}: {found:?}");
    }
}

#[test]
fn sizes_are_in_the_unit_of_the_series() {
    let found = changes(&series(3, 100, |t, e| 1e6 + 1e3 * (e + 6.0 * after(t, 50.0))));
    assert_eq!(found.len(), 1);
    let change = found[0];
    assert!(
        (change.before - 1e6).abs() < 500.0 && (change.after - 1.006e6).abs() < 500.0,
        "{change:?}"
    );
    assert!((change.effect - 6.0).abs() < 1.5, "{change:?}");
    assert!(
        change.earliest <= 50 && change.latest >= 50 && change.latest - change.earliest < 8,
        "{change:?}"
    );
}

#[test]
fn a_change_in_a_long_series_is_located_exactly() {
    let found = changes(&series(5, 20_000, |t, e| e + 3.0 * after(t, 12_345.0)));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].index.abs_diff(12_345) <= 3, "{found:?}");
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -100.0..100.0,
        1 => (-3_i32..3).prop_map(f64::from),
        1 => proptest::num::f64::ANY,
    ]
}

proptest! {
    #[test]
    fn any_values_give_changes_in_order(values in proptest::collection::vec(any_value(), 0..200)) {
        let found = changes(&values);
        for pair in found.windows(2) {
            prop_assert!(pair[0].index < pair[1].index);
        }
        for change in found {
            prop_assert!(change.earliest <= change.index && change.index <= change.latest);
            prop_assert!((change.latest as usize) < values.len());
            prop_assert!(values[change.index as usize].is_finite());
            prop_assert!((0.0..=1.0).contains(&change.confidence));
            prop_assert!(change.before.is_finite() && change.after.is_finite() && change.effect.is_finite());
        }
    }

    /// The unit of a series does not affect its changes, and neither does its zero, unless the series is positive:
    /// logarithms then give zero a meaning.
    #[test]
    fn scale_and_level_do_not_matter(
        seed in 0_u64..1_000,
        exponent in -40_i32..40,
        shift in -3.0..3.0,
    ) {
        let values = series(seed, 60, |t, e| e + 6.0 * after(t, 25.0));
        // A power of two changes no digit.
        let scale = f64::from(exponent).exp2();
        let scaled: Vec<f64> = values.iter().map(|value| value * scale).collect();
        let indices = |values: &[f64]| changes(values).iter().map(|change| change.index).collect::<Vec<_>>();
        prop_assert_eq!(indices(&values), indices(&scaled));
        let shifted = |by: f64| values.iter().map(|value| value - 50.0 + by).collect::<Vec<_>>();
        prop_assert_eq!(indices(&shifted(0.0)).len(), indices(&shifted(shift)).len());
    }
}
