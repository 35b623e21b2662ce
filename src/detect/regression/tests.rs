use proptest::prelude::*;

use super::*;

/// Normal numbers, the same everywhere.
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

/// Devices of different levels, whose medians differ by 3 from day to day, and whose world warms by half a beat a day.
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
fn one_beat_in_a_thousand_of_six_thousand_devices_is_found() {
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
        // The warming is not the firmware's.
        let difference = change.after - (low + high) / 2.0;
        assert!((difference - 1.0).abs() < 0.5, "seed {seed}: {difference}");
    }
    assert_eq!(found, 20);
}

#[test]
fn what_does_not_hold_is_not_found() {
    let cases = [
        ("nothing", 1_000, 5_000, [0.0, 0.0]),
        ("on the first day alone", 1_000, 5_000, [1.5, 0.0]),
        ("one way and the other", 1_000, 5_000, [1.5, -1.5]),
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
fn a_broken_device_does_not_speak_for_its_cohort() {
    let mut rows = fleet(3, 200, 1_000, "heart_rate", [0.0, 0.0]);
    for row in rows.iter_mut().filter(|row| row.treated && row.day > 0).take(4) {
        row.median = 1e9;
    }
    assert_eq!(assess(&[(rollout("2.1"), rows)]), []);
}

fn minutes(days: i64, value: impl Fn(i64) -> f64) -> Vec<Point> {
    (0..days * 1_440)
        .map(|minute| Point {
            minute: 20_000 * 1_440 + minute,
            value: value(minute),
        })
        .collect()
}

fn rejects(points: &[Point]) -> Series<'_> {
    Series {
        name: "reject_rate",
        label: "stale",
        unit: "%",
        worse: Direction::Above,
        points,
    }
}

#[test]
fn a_kpi_that_gets_worse_is_found_once_whenever_the_job_runs() {
    let noise = |minute: i64| Normal(minute.unsigned_abs()).next();
    let from = 2 * 1_440 + 300;
    let points = minutes(3, |minute| {
        5.0 + noise(minute) + if minute >= from { 3.0 } else { 0.0 }
    });
    let whole = shifts(&rejects(&points));
    assert_eq!(whole.len(), 1, "{whole:?}");
    let finding = &whole[0];
    assert_eq!(
        (finding.series.as_str(), finding.notify),
        ("kpi/reject_rate/stale", true)
    );
    let change = finding.change.as_ref().expect("a change");
    let truth = (20_000 * 1_440 + from) * 60_000;
    assert!((finding.time_ms - truth).abs() <= 5 * 60_000 && finding.detected_ms - truth <= 15 * 60_000);
    assert!((change.before - 5.0).abs() < 0.5 && change.after > 6.5);
    let end = usize::try_from(from).expect("small") + 20;
    assert_eq!(
        shifts(&rejects(&points[..end])),
        whole,
        "an earlier run says the same"
    );
    let better = minutes(3, |minute| {
        5.0 + noise(minute) - if minute >= from { 3.0 } else { 0.0 }
    });
    let better = shifts(&rejects(&better));
    assert!(
        better.len() == 1 && !better[0].notify,
        "an improvement is stored and nobody is told"
    );
}

#[test]
fn what_changed_before_yesterday_is_old_news() {
    let noise = |minute: i64| Normal(minute.unsigned_abs()).next();
    let points = minutes(3, |minute| noise(minute) + if minute >= 700 { 5.0 } else { 0.0 });
    assert_eq!(shifts(&rejects(&points)), []);
    assert_eq!(shifts(&rejects(&[])), []);
}

proptest! {
    #[test]
    fn any_rows_are_taken(
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
    fn any_points_are_taken(values in proptest::collection::vec((any::<i64>(), proptest::num::f64::ANY), 0..200)) {
        let points: Vec<Point> = values.into_iter().map(|(minute, value)| Point { minute, value }).collect();
        for finding in shifts(&rejects(&points)) {
            prop_assert!(!finding.json().is_empty());
        }
    }
}
