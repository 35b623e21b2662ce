use proptest::prelude::*;

use super::*;
use crate::reading::CohortWindow;

/// Deterministic, nearly normal numbers.
struct Normal(u64);

impl Normal {
    fn next(&mut self) -> f64 {
        let mut sum = -6.0;
        for _ in 0..12 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            sum += (self.0 >> 40) as f64 / (1 << 24) as f64;
        }
        sum
    }
}

const DAY: i64 = 1_795_305_600_000;

fn rollout(firmware: &str) -> Rollout {
    Rollout {
        firmware: firmware.to_owned(),
        model: "band".to_owned(),
        day_ms: DAY,
        devices: 1_000,
    }
}

/// Devices with different levels, whose medians vary by 3 from day to day, and which all drift by half a beat per day.
fn fleet(seed: u64, treated: usize, controls: usize, metric: &str, shift: [f64; 2]) -> Vec<DeviceMedian> {
    let mut normal = Normal(seed);
    let mut rows = Vec::new();
    for device in 0..treated + controls {
        let is_treated = device < treated;
        let level = 65.0 + 8.0 * normal.next();
        for (day, shift) in [(-1, 0.0), (1, shift[0]), (2, shift[1])] {
            rows.push(DeviceMedian {
                device: Token::new(format!("{device:022}").as_bytes()).expect("letters"),
                treated: is_treated,
                metric: metric.to_owned(),
                unit: "/min".to_owned(),
                day,
                median: level
                    + 0.5 * f64::from(day)
                    + 3.0 * normal.next()
                    + if is_treated { shift } else { 0.0 },
                readings: 1_000,
            });
        }
    }
    rows
}

#[test]
fn a_shift_of_one_beat_in_a_thousand_devices_of_six_thousand_is_found() {
    let mut found = 0;
    for seed in 0..20 {
        let rows = fleet(seed, 1_000, 5_000, "heart_rate", [1.0, 1.0]);
        let findings = assess(&[(rollout("2.1"), rows)]);
        let Some(finding) = findings.first() else { continue };
        found += 1;
        let cohort = finding.cohort.as_ref().expect("a cohort");
        assert_eq!((cohort.devices, cohort.of, cohort.rank), (1_000, 5_000, 1));
        assert_eq!(finding.series, "cohort firmware=2.1 model=band/heart_rate");
        assert_eq!(
            (finding.direction, finding.time_ms, finding.notify),
            (Direction::Above, DAY, true)
        );
        let change = finding.change.as_ref().expect("a change");
        let (low, high) = finding.expected.expect("a range");
        // The common drift is not attributed to the firmware.
        let difference = change.after - (low + high) / 2.0;
        assert!((difference - 1.0).abs() < 0.5, "seed {seed}: {difference}");
    }
    assert_eq!(found, 20);
}

#[test]
fn an_effect_that_does_not_hold_is_not_found() {
    let cases = [
        ("nothing", 1_000, 5_000, [0.0, 0.0]),
        ("on the first day only", 1_000, 5_000, [1.5, 0.0]),
        ("up and then down", 1_000, 5_000, [1.5, -1.5]),
        ("too few devices", 19, 5_000, [30.0, 30.0]),
        ("too few controls", 5_000, 19, [30.0, 30.0]),
    ];
    for (name, treated, controls, shift) in cases {
        for seed in 0..5 {
            let rows = fleet(seed, treated, controls, "heart_rate", shift);
            assert_eq!(assess(&[(rollout("2.1"), rows)]), [], "{name}, seed {seed}");
        }
    }
}

#[test]
fn nothing_is_found_in_two_hundred_quiet_tests() {
    let rollouts: Vec<_> = (0..200)
        .map(|seed| {
            (
                rollout(&format!("2.{seed}")),
                fleet(seed, 100, 300, "spo2", [0.0, 0.0]),
            )
        })
        .collect();
    assert_eq!(assess(&rollouts).len(), 0);
}

#[test]
fn the_cohort_that_contributes_most_ranks_first() {
    let small = (rollout("2.1"), fleet(1, 300, 2_000, "heart_rate", [2.0, 2.0]));
    let large = (rollout("2.2"), fleet(2, 2_000, 2_000, "heart_rate", [-2.0, -2.0]));
    let findings = assess(&[small, large]);
    let ranked: Vec<_> = findings
        .iter()
        .filter_map(|finding| finding.cohort.as_ref())
        .map(|cohort| (cohort.firmware.as_str(), cohort.rank))
        .collect();
    assert_eq!(ranked, [("2.2", 1), ("2.1", 2)]);
    assert_eq!(findings[0].direction, Direction::Below);
}

#[test]
fn a_broken_device_does_not_dominate_its_cohort() {
    let mut rows = fleet(3, 200, 1_000, "heart_rate", [0.0, 0.0]);
    for row in rows.iter_mut().filter(|row| row.treated && row.day > 0).take(4) {
        row.median = 1e9;
    }
    assert_eq!(assess(&[(rollout("2.1"), rows)]), []);
}

const FIRST_DAY: i64 = 20_000;

/// The minutes of `days` days, with a thousand records each.
fn minutes(days: i64, value: impl Fn(i64) -> f64) -> Vec<Point> {
    (0..days * 1_440)
        .map(|minute| Point {
            minute: FIRST_DAY * 1_440 + minute,
            value: value(minute),
            records: 1_000,
        })
        .collect()
}

fn noise(minute: i64) -> f64 {
    Normal(minute.unsigned_abs()).next()
}

fn kpi(kpi: &str, label: &str, points: &[Point]) -> Vec<Series> {
    let stored = Stored {
        kpi: kpi.to_owned(),
        label: label.to_owned(),
        points: points.to_vec(),
    };
    pipeline(vec![stored], (FIRST_DAY + 3) * 1_440)
}

fn rejects(points: &[Point]) -> Vec<Series> {
    kpi("reject_rate", "stale", points)
}

fn after(from: i64, minute: i64, step: f64) -> f64 {
    if minute >= from { step } else { 0.0 }
}

#[test]
fn a_kpi_that_gets_worse_is_found_once_whenever_the_job_runs() {
    let from = 2 * 1_440 + 300;
    let points = minutes(3, |minute| {
        0.05 + 0.01 * noise(minute) + after(from, minute, 0.03)
    });
    let whole = shifts(&rejects(&points));
    assert_eq!(whole.len(), 1, "{whole:?}");
    let finding = &whole[0];
    assert_eq!(
        (
            finding.series.as_str(),
            finding.metric.as_str(),
            finding.kind,
            finding.notify
        ),
        ("kpi/reject_rate/stale", "reject_rate", Kind::Regression, true)
    );
    let change = finding.change.as_ref().expect("a change");
    let truth = (FIRST_DAY * 1_440 + from) * 60_000;
    assert!((finding.time_ms - truth).abs() <= 5 * 60_000 && finding.detected_ms - truth <= 15 * 60_000);
    assert!((change.before - 0.05).abs() < 0.005 && change.after > 0.065);
    for later in [20, 60, 500] {
        let end = usize::try_from(from + later).expect("small");
        assert_eq!(
            shifts(&rejects(&points[..end])),
            whole,
            "the same finding {later} minutes later"
        );
    }
    // On the next day it is found again, as yesterday's.
    let next = &minutes(4, |minute| {
        0.05 + 0.01 * noise(minute) + after(from, minute, 0.03)
    })[1_440..];
    assert_eq!(shifts(&rejects(next)), whole);
    let better = minutes(3, |minute| {
        0.05 + 0.01 * noise(minute) - after(from, minute, 0.03)
    });
    let better = shifts(&rejects(&better));
    assert!(
        better.len() == 1 && !better[0].notify,
        "an improvement is stored but not notified"
    );
}

#[test]
fn old_small_or_sparse_shifts_and_young_series_are_skipped() {
    let from = 2 * 1_440 + 300;
    let jump = minutes(3, |minute| {
        0.05 + 0.01 * noise(minute) + after(from, minute, 0.05)
    });
    assert_eq!(shifts(&rejects(&jump)).len(), 1);
    let old = minutes(3, |minute| 0.05 + 0.01 * noise(minute) + after(700, minute, 0.05));
    let small = minutes(3, |minute| {
        (1.0 + noise(minute) / 10.0 + after(from, minute, 4.0)) / 1e4
    });
    let rare = minutes(3, |minute| if minute % 97 == 0 { 0.001 } else { 0.0 });
    let thin: Vec<Point> = jump
        .iter()
        .map(|point| Point {
            records: 29,
            ..*point
        })
        .collect();
    let cases = [
        ("it changed before yesterday", old.as_slice()),
        ("the series is not a day old", &jump[1_000 + 1_440..]),
        ("five times a negligible rate", &small),
        ("one in a thousand now and then", &rare),
        ("too few records", &thin),
        ("no points", &[]),
    ];
    for (case, points) in cases {
        assert_eq!(shifts(&rejects(points)), [], "{case}");
    }
    assert_eq!(kpi("readings", "", &jump), [], "a KPI that is not judged");
}

#[test]
fn the_daily_rhythm_is_not_notified_but_a_stop_is() {
    let is_night = |minute: i64| !(360..1_320).contains(&minute.rem_euclid(1_440));
    let level = |minute| if is_night(minute) { 500.0 } else { 1_000.0 } + 10.0 * noise(minute);
    let points = minutes(3, level);
    let throughput = |points: &[Point]| shifts(&kpi("throughput", "", points));
    let rhythm = throughput(&points);
    assert!(rhythm.len() >= 3, "two mornings and an evening: {rhythm:?}");
    for finding in &rhythm {
        assert!(!finding.notify, "{finding:?}");
        assert!(
            finding.change.as_ref().expect("a change").of != "level"
                || finding.reason.ends_with(", as on the day before"),
            "{}",
            finding.reason
        );
    }
    // Nothing is settled for an hour from noon, so there are no rows.
    let noon = (FIRST_DAY + 2) * 1_440 + 720;
    // Or nothing is settled from noon on.
    for end in [noon + 60, i64::MAX] {
        let mut stopped = points.clone();
        stopped.retain(|point| !(noon..end).contains(&point.minute));
        let told: Vec<_> = throughput(&stopped)
            .into_iter()
            .filter(|finding| finding.notify)
            .collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!((told[0].time_ms - noon * 60_000).abs() <= 5 * 60_000, "{told:?}");
        assert_eq!((told[0].direction, told[0].value), (Direction::Below, Some(0.0)));
    }
}

#[test]
fn a_kpi_that_keeps_shifting_is_notified_three_times_a_day() {
    let points = minutes(3, |minute| {
        let steps = (minute - 2 * 1_440).max(0) / 100;
        0.05 + 0.01 * noise(minute) + 0.05 * steps as f64
    });
    let found = shifts(&rejects(&points));
    assert!(found.len() > 6, "{} found", found.len());
    assert_eq!(found.iter().filter(|finding| finding.notify).count(), 3);
}

/// One series alone raises one false alarm in 10,000 points; many together raise no more.
#[test]
fn quiet_series_are_quiet_together() {
    for phi in [0.0, 0.6] {
        let series: Vec<Series> = (0..40)
            .flat_map(|seed| {
                let (mut normal, mut last) = (Normal(seed), 0.0);
                let mut points = minutes(3, |_| 0.0);
                for point in &mut points {
                    last = phi * last + f64::sqrt(1.0 - phi * phi) * normal.next();
                    point.value = 0.5 + 0.05 * last;
                }
                rejects(&points)
            })
            .collect();
        let found = shifts(&series);
        assert!(
            found.len() <= 2,
            "φ {phi}: {} alarms in 40 series of two days",
            found.len()
        );
    }
}

#[test]
fn a_shift_that_moves_by_minutes_stays_one_shift() {
    let from = 2 * 1_440 + 300;
    let jump = |from: i64| {
        let points = minutes(3, |minute| {
            0.05 + 0.01 * noise(minute) + after(from, minute, 0.03)
        });
        shifts(&rejects(&points))
    };
    let (found, moved) = (jump(from), jump(from + 1));
    assert!(
        found.len() == 1 && moved.len() == 1 && found[0].id != moved[0].id,
        "{found:?}\n{moved:?}"
    );
    let known: Vec<Known> = news(found.clone(), vec![]).iter().map(Known::of).collect();
    assert_eq!(known.len(), 1);
    assert_eq!(news(moved.clone(), known.clone()), [], "already known");
    let elsewhere = Known {
        series: "kpi/reject_rate/misrouted".to_owned(),
        ..known[0].clone()
    };
    assert_eq!(news(moved, vec![elsewhere]).len(), 1, "another series");
    let earlier = Known {
        time_ms: known[0].time_ms - 3_600_000,
        between_ms: (known[0].time_ms - 3_600_000, known[0].time_ms - 3_000_000),
        ..known[0].clone()
    };
    assert_eq!(news(found, vec![earlier]).len(), 1, "another shift");
}

/// Five-minute windows of two cohorts of one model, whose heart rates follow the hour and differ by `step` from the
/// minute `from` on.
fn cohort_windows(from: i64, step: f64, good: impl Fn(i64) -> u64) -> Vec<CohortWindow> {
    let mut normal = Normal(5);
    let mut windows = Vec::new();
    for minute in (0..3 * 1_440).step_by(5) {
        let hour = 10.0 * (minute as f64 / 1_440.0 * std::f64::consts::TAU).sin();
        for (firmware, good, step) in [("1", 4_000, 0.0), ("2", good(minute), after(from, minute, step))] {
            let mean = 65.0 + hour + step + 12.0 * normal.next() / f64::sqrt(good as f64);
            windows.push(CohortWindow {
                minute: FIRST_DAY * 1_440 + minute,
                metric: "heart_rate".to_owned(),
                firmware: firmware.to_owned(),
                model: "band".to_owned(),
                good,
                total: mean * good as f64,
                squares: 144.0 * good as f64,
            });
        }
    }
    windows
}

fn known(name: &str) -> Option<&'static str> {
    (name == "heart_rate").then_some("/min")
}

#[test]
fn a_cohort_that_departs_from_its_model_is_found_whatever_the_hour() {
    let from = 2 * 1_440 + 300;
    let found = shifts(&cohorts(&cohort_windows(from, 2.0, |_| 1_000), known));
    assert_eq!(found.len(), 1, "{found:?}");
    let finding = &found[0];
    let truth = (FIRST_DAY * 1_440 + from) * 60_000;
    assert_eq!(finding.series, "cohort firmware=2 model=band/heart_rate");
    assert!((finding.time_ms - truth).abs() <= 15 * 60_000 && finding.detected_ms - truth <= 60 * 60_000);
    assert_eq!(
        (finding.direction, finding.unit.as_str(), finding.notify),
        (Direction::Above, "/min", true)
    );
    let change = finding.change.as_ref().expect("a change");
    assert!(
        change.before.abs() < 0.3 && (change.after - 2.0).abs() < 0.6,
        "{change:?}"
    );
}

#[test]
fn common_small_sparse_or_incomparable_changes_of_a_cohort_are_not_found() {
    let from = 2 * 1_440 + 300;
    let of = |windows: &[CohortWindow]| shifts(&cohorts(windows, known));
    assert_eq!(
        of(&cohort_windows(from, 0.0, |_| 1_000)),
        [],
        "only common changes"
    );
    assert_eq!(
        of(&cohort_windows(from, 1.0, |_| 1_000)),
        [],
        "too small a change"
    );
    assert_eq!(of(&cohort_windows(from, 9.0, |_| 29)), [], "too few readings");
    let mut alone = cohort_windows(from, 9.0, |_| 1_000);
    alone.retain(|window| window.firmware == "2");
    assert_eq!(of(&alone), [], "nothing to compare it with");
    let mut unknown = cohort_windows(from, 9.0, |_| 1_000);
    unknown
        .iter_mut()
        .for_each(|window| window.metric = "x".to_owned());
    assert_eq!(of(&unknown), [], "an unknown metric");
    // The cohort grows from 1,000 to 2,500 readings as it changes: the new members may be the cause.
    let joined = of(&cohort_windows(from, 2.0, |minute| {
        if minute < from { 1_000 } else { 2_500 }
    }));
    assert!(joined.len() == 1 && !joined[0].notify, "{joined:?}");
}

proptest! {
    #[test]
    fn any_rows_are_accepted(
        medians in proptest::collection::vec((proptest::num::f64::ANY, any::<bool>(), -3_i32..4), 0..400),
    ) {
        let rows = medians.into_iter().zip(0..).map(|((median, treated, day), device)| DeviceMedian {
            device: Token::new(format!("{:022}", device / 3).as_bytes()).expect("letters"),
            treated,
            metric: "heart_rate".to_owned(),
            unit: "/min".to_owned(),
            day,
            median,
            readings: 1,
        });
        for finding in assess(&[(rollout("2.1"), rows.collect())]) {
            prop_assert!(!finding.json().is_empty());
        }
    }

    #[test]
    fn any_points_are_accepted(values in proptest::collection::vec((any::<i64>(), proptest::num::f64::ANY), 0..200)) {
        let point = |(minute, value)| Point { minute, value, records: 1_000 };
        let points: Vec<Point> = values.into_iter().map(point).collect();
        for finding in shifts(&rejects(&points)) {
            prop_assert!(!finding.json().is_empty());
        }
    }
}
