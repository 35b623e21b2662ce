use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_795_341_600_000;
/// Minutes after which the baseline is old enough for notices: more than a day.
const KNOWN: i64 = 25 * 60;

fn schema() -> Value {
    json!({"type": "record", "name": "Clean", "fields": [
        {"name": "device_id", "type": "string", "pulsegate:role": "device"},
        {"name": "recorded_at", "type": {"type": "long", "logicalType": "timestamp-micros"},
         "pulsegate:role": "recorded-at"},
        {"name": "firmware", "type": "string", "pulsegate:role": "firmware"},
        {"name": "readings", "pulsegate:role": "readings", "type": {"type": "array", "items":
            {"type": "record", "name": "Reading", "fields": [
                {"name": "metric", "type": "string", "pulsegate:role": "metric"},
                {"name": "value", "type": "double", "pulsegate:role": "value"},
                {"name": "unit", "type": ["null", "string"], "default": null, "pulsegate:role": "unit"},
                {"name": "offset_ms", "type": ["null", "long"], "default": null}]}}}]})
}

fn decoder() -> Decoder {
    Decoder::new([(&schema(), [0; 8])], 0).expect("a clean schema")
}

fn rules() -> Arc<Rules> {
    Arc::new(Rules {
        lane: Config::default(),
        quality: quality::Config::default(),
        alert: alert::Config::default(),
        metrics: Metrics::parse(include_str!("../../../../schemas/metrics.toml"))
            .expect("the project's table"),
    })
}

/// An event of `device` at `at_ms` with readings of `(metric, value, offset_ms)`.
fn event(device: usize, at_ms: i64, firmware: &str, readings: &[(&str, f64, i64)]) -> Vec<u8> {
    let readings: Vec<_> = readings
        .iter()
        .map(|(metric, value, offset_ms)| json!({"metric": metric, "value": value, "offset_ms": offset_ms}))
        .collect();
    let at = jiff::Timestamp::from_millisecond(at_ms).expect("a time");
    let event = json!({"device_id": format!("{device:-<22}"), "recorded_at": at.to_string(),
        "firmware": firmware, "readings": readings});
    serde_json::to_vec(&event).expect("JSON")
}

struct Run {
    lane: Lane,
    decoder: Decoder,
    out: Output,
    offset: i64,
}

impl Run {
    fn new() -> Self {
        Self {
            lane: Lane::new(3, rules()),
            decoder: decoder(),
            out: Output::default(),
            offset: 0,
        }
    }

    fn take(&mut self, append_ms: i64, value: &[u8]) {
        let record = CleanRecord {
            offset: self.offset,
            append_ms,
            value,
        };
        self.lane
            .observe(&record, &self.decoder, &mut self.out)
            .expect("no schema id is unknown");
        self.offset += 1;
    }

    fn heart(&mut self, minute: i64, value: f64) -> Quality {
        let at_ms = NOW + minute * 60_000;
        self.take(at_ms, &event(1, at_ms, "1", &[("heart_rate", value, 0)]));
        self.last()
    }

    fn last(&self) -> Quality {
        let code = self.out.readings.last().expect("a reading").quality;
        *Quality::ALL
            .iter()
            .find(|quality| quality.code() == code)
            .expect("a verdict")
    }
}

#[test]
fn a_reading_in_an_unknown_unit_is_stored_in_the_unit_that_the_device_gave() {
    let mut run = Run::new();
    let at = jiff::Timestamp::from_millisecond(NOW)
        .expect("a time")
        .to_string();
    let event = json!({"device_id": format!("{:-<22}", 1), "recorded_at": at, "firmware": "1",
        "readings": [{"metric": "heart_rate", "value": 61.0, "unit": "[furlong]"}]});
    run.take(NOW, event.to_string().as_bytes());
    assert_eq!(run.last(), Quality::UnknownUnit);
    let reading = &run.out.readings[0];
    assert_eq!((reading.metric.unit.as_str(), reading.value), ("[furlong]", 61.0));
    assert_eq!(run.out.findings[0].unit, "[furlong]");
}

#[test]
fn evictions_are_counted() {
    let mut run = Run::new();
    let mut few = Arc::into_inner(rules()).expect("a single owner");
    (few.lane.devices_max, few.lane.series_max) = (2, 3);
    run.lane = Lane::new(3, Arc::new(few));
    let readings = [("heart_rate", 61.0, 0), ("spo2", 97.0, 0)];
    for device in [0, 1, 2, 0, 1, 2] {
        run.take(NOW, &event(device, NOW, "1", &readings));
    }
    let all = Evicted {
        series: 12 - 3,
        devices: 6 - 2,
    };
    assert_eq!(run.lane.evicted(), all);
    assert_eq!(run.out.devices.len(), 6, "an evicted device is new again");
    assert_eq!(
        all.since(Evicted {
            series: 2,
            devices: 1
        }),
        Evicted {
            series: 7,
            devices: 3
        }
    );
}

#[test]
fn every_reading_becomes_a_row_with_its_origin() {
    let mut run = Run::new();
    run.take(
        NOW + 7,
        &event(
            1,
            NOW,
            "1",
            &[("heart_rate", 61.0, 0), ("blood_magic", 7.0, 1_500)],
        ),
    );
    let [heart, magic] = &run.out.readings[..] else {
        panic!("two readings")
    };
    assert_eq!(
        (
            heart.time_ms,
            heart.append_ms,
            heart.partition,
            heart.offset,
            heart.index
        ),
        (NOW, NOW + 7, 3, 0, 0)
    );
    assert_eq!(
        (heart.metric.name.as_str(), heart.metric.unit.as_str()),
        ("heart_rate", "/min")
    );
    assert_eq!((heart.version.firmware.as_str(), heart.quality), ("1", 0));
    assert_eq!((magic.time_ms, magic.index), (NOW + 1_500, 1));
    assert_eq!(
        (magic.metric.name.as_str(), magic.quality),
        ("blood_magic", Quality::UnknownMetric.code())
    );
    assert_eq!(run.lane.series(), 1, "an unknown metric is not scored");
    assert_eq!(run.out.verdicts[Quality::UnknownMetric as usize], 1);
}

#[test]
fn faults_are_stored_with_their_verdict_and_reported_once_per_episode() {
    let mut run = Run::new();
    for minute in 0..5 {
        assert_eq!(run.heart(minute, 60.0 + minute as f64), Quality::Good);
    }
    for minute in 5..8 {
        assert_eq!(run.heart(minute, 0.0), Quality::Sentinel);
    }
    assert_eq!(run.heart(8, 500.0), Quality::Implausible);
    assert_eq!(run.heart(3, 63.5), Quality::Late);
    let told: Vec<_> = run
        .out
        .findings
        .iter()
        .map(|finding| (&*finding.series, &*finding.reason))
        .collect();
    let device = format!("{:-<22}", 1);
    assert_eq!(
        told,
        [
            (&*format!("{device}/heart_rate"), Quality::Sentinel.words()),
            (&*format!("{device}/heart_rate"), Quality::Implausible.words()),
            (&*format!("{device}/clock"), Quality::Late.words()),
        ]
    );
    assert!(
        run.out
            .findings
            .iter()
            .all(|finding| finding.kind == Kind::Quality && !finding.notify)
    );
    assert_eq!(run.out.findings[0].expected, Some((30.0, 220.0)));
    assert_eq!(run.out.findings[0].direction, Direction::Below);
}

#[test]
fn a_flat_line_is_found_with_its_reason_and_start() {
    let mut run = Run::new();
    for minute in 0..30 {
        run.heart(minute, 60.0 + (minute % 7) as f64);
    }
    for minute in 30..60 {
        run.heart(minute, 72.0);
    }
    let [flat] = &run.out.findings[..] else {
        panic!("one finding: {:?}", run.out.findings)
    };
    assert_eq!(
        (flat.time_ms, flat.detected_ms),
        (NOW + 30 * 60_000, NOW + 50 * 60_000)
    );
    assert_eq!(
        (&*flat.reason, &*flat.metric, flat.value),
        ("the same value for 20 min", "heart_rate", Some(72.0))
    );
    assert_eq!(run.heart(60, 72.0), Quality::Stuck);
    assert_eq!(run.heart(61, 73.0), Quality::Good);
}

#[test]
fn a_level_shift_is_found_and_explained() {
    let mut run = Run::new();
    let wave = |minute: i64| 60.0 + ((minute * 7) % 11) as f64 / 2.0;
    for minute in 0..KNOWN {
        run.heart(minute, wave(minute));
    }
    assert!(run.out.findings.is_empty(), "{:?}", run.out.findings);
    for minute in KNOWN..KNOWN + 20 {
        run.heart(minute, wave(minute) + 60.0);
    }
    let [odd] = &run.out.findings[..] else {
        panic!("one finding: {:?}", run.out.findings)
    };
    assert_eq!(
        (odd.kind, &*odd.metric, &*odd.unit),
        (Kind::Anomaly, "heart_rate", "/min")
    );
    let minute = (odd.time_ms - NOW) / 60_000;
    assert!((KNOWN..KNOWN + 6).contains(&minute), "found in minute {minute}");
    assert_eq!(
        odd.detected_ms,
        odd.time_ms + 60_000,
        "as soon as the minute was over"
    );
    assert!(odd.notify);
    assert_eq!((odd.direction, odd.origin.index), (Direction::Above, 0));
    assert!(odd.surprise.is_some_and(|surprise| surprise >= 2.0) && odd.baseline_n >= 1_430);
    assert!(!odd.reason.is_empty() && odd.expected.is_some_and(|(_, high)| high < 120.0));
}

#[test]
fn an_anomaly_within_the_first_day_is_stored_but_not_notified() {
    let mut run = Run::new();
    let wave = |minute: i64| 60.0 + ((minute * 7) % 11) as f64 / 2.0;
    for minute in 0..320 {
        let shift = if minute >= 300 { 60.0 } else { 0.0 };
        run.heart(minute, wave(minute) + shift);
    }
    let told: Vec<_> = run
        .out
        .findings
        .iter()
        .map(|finding| (finding.kind, finding.notify))
        .collect();
    assert_eq!(told, [(Kind::Anomaly, false)]);
}

#[test]
fn movement_explains_an_anomaly() {
    const YEAR_2100: i64 = 4_102_444_800_000;
    let mut run = Run::new();
    // Steps with a wrong clock are not movement, and do not hide later movement.
    run.take(NOW, &event(1, YEAR_2100, "1", &[("steps", 110.0, 0)]));
    for minute in 0..320_i64 {
        let at_ms = NOW + minute * 60_000;
        let moving = minute >= 300;
        let heart = 60.0 + ((minute * 7) % 11) as f64 / 2.0 + if moving { 60.0 } else { 0.0 };
        let steps = if moving { 110.0 } else { 0.0 };
        // The steps come after the heart rate that they explain.
        run.take(
            at_ms,
            &event(1, at_ms, "1", &[("heart_rate", heart, 0), ("steps", steps, 0)]),
        );
    }
    let odd: Vec<_> = run
        .out
        .findings
        .iter()
        .filter(|finding| finding.metric == "heart_rate")
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
}

#[test]
fn implausible_steps_explain_nothing() {
    let mut run = Run::new();
    for minute in 0..320_i64 {
        let at_ms = NOW + minute * 60_000;
        let broken = minute >= 300;
        let heart = 60.0 + ((minute * 7) % 11) as f64 / 2.0 + if broken { 60.0 } else { 0.0 };
        let steps = if broken { 1e6 } else { 0.0 };
        run.take(
            at_ms,
            &event(1, at_ms, "1", &[("heart_rate", heart, 0), ("steps", steps, 0)]),
        );
    }
    let odd = |finding: &&Finding| finding.kind == Kind::Anomaly && finding.metric == "heart_rate";
    assert_eq!(run.out.findings.iter().filter(odd).count(), 1);
}

#[test]
fn a_clock_that_jumps_affects_nothing_else() {
    let mut run = Run::new();
    run.heart(0, 60.0);
    for at_ms in [0, 4_102_444_800_000, NOW + 400_000] {
        run.take(NOW + 1_000, &event(1, at_ms, "2", &[("heart_rate", 61.0, 0)]));
        assert_eq!(run.last(), Quality::ClockSkew);
        assert_eq!(
            run.out.readings.last().map(|reading| reading.time_ms),
            Some(at_ms),
            "stored with the device's time"
        );
    }
    assert_eq!(run.out.findings.len(), 1, "one episode");
    assert_eq!(run.out.findings[0].time_ms, NOW + 1_000, "the broker's time");
    assert_eq!(run.out.devices.len(), 1, "its version is ignored too");
    assert_eq!(run.heart(1, 62.0), Quality::Good);
}

#[test]
fn the_same_reading_twice_is_a_duplicate_and_an_old_upload_is_late() {
    let mut run = Run::new();
    run.heart(0, 60.0);
    assert_eq!(run.heart(0, 60.0), Quality::Duplicate);
    assert_eq!(
        run.heart(0, 61.0),
        Quality::Good,
        "another value at the same time"
    );
    run.heart(1, 62.0);
    assert_eq!(run.heart(0, 60.0), Quality::Late);
}

#[test]
fn an_unreadable_record_is_a_finding_with_its_offset() {
    let mut run = Run::new();
    run.take(NOW, b"not an event");
    run.take(NOW + 5, &event(1, NOW, "1", &[("heart_rate", 60.0, 0)]));
    run.take(NOW + 9, b"{}");
    let [first, second] = &run.out.findings[..] else {
        panic!("two findings")
    };
    assert_eq!(
        (first.origin.partition, first.origin.offset, first.time_ms),
        (3, 0, NOW)
    );
    assert_eq!((second.origin.offset, &*second.series), (2, "clean/3"));
    assert_ne!(first.id, second.id);
    assert_eq!(run.out.readings.len(), 1);
}

#[test]
fn a_record_that_needs_a_schema_leaves_the_state_unchanged() {
    let mut run = Run::new();
    let record = CleanRecord {
        offset: 0,
        append_ms: NOW,
        value: b"\x00\x00\x00\x00\x07abc",
    };
    assert_eq!(
        run.lane.observe(&record, &run.decoder, &mut run.out),
        Err(NeedsSchema(7))
    );
    assert!(run.out.findings.is_empty() && run.lane.series() == 0);
}

#[test]
fn a_new_version_of_a_device_is_reported_with_its_time() {
    let mut run = Run::new();
    for (minute, firmware) in ["1", "1", "2", "2"].into_iter().enumerate() {
        let at_ms = NOW + minute as i64 * 60_000;
        run.take(at_ms + 3, &event(1, at_ms, firmware, &[("heart_rate", 60.0, 0)]));
    }
    let told: Vec<_> = run
        .out
        .devices
        .iter()
        .map(|one| (one.version.firmware.as_str(), one.since_ms, one.append_ms))
        .collect();
    assert_eq!(told, [("1", NOW, NOW + 3), ("2", NOW + 120_000, NOW + 120_003)]);
}

#[test]
fn a_snapshot_of_another_length_is_rejected() {
    let mut run = Run::new();
    run.heart(0, 60.0);
    let bytes = run.lane.snapshot();
    for bad in [&bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat()] {
        assert_eq!(Lane::restore(3, rules(), bad).err(), Some(BadSnapshot));
    }
}

#[test]
fn every_setting_that_affects_findings_changes_the_model_name() {
    let model = |change: fn(&mut Rules)| {
        let mut rules = Arc::into_inner(rules()).expect("a single owner");
        change(&mut rules);
        rules.model()
    };
    let names = [
        model(|_| {}),
        model(|rules| rules.lane.window_minutes = 5),
        model(|rules| rules.quality.ahead_max_s = 1),
        model(|rules| rules.alert.enter_score = 0.75),
        model(|rules| rules.metrics = Metrics::parse("[a]\nunit='1'\nplausible=[0,1]").expect("a table")),
    ];
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "{names:?}");
}

/// The cuts cover all state that decides about anomalies and notices: the trained detector, the odd windows among the
/// last five, the silence after a finding and the device's budget.
#[test]
fn a_restored_lane_makes_the_same_findings_and_notices() {
    const AGAIN: i64 = KNOWN + 300;
    const END: i64 = AGAIN + 20;
    let mut frugal = Arc::into_inner(rules()).expect("a single owner");
    frugal.alert.device_day_max = 1;
    let frugal = Arc::new(frugal);
    let run = |lane, offset| Run {
        lane,
        offset,
        ..Run::new()
    };
    let play = |run: &mut Run, minutes: std::ops::Range<i64>| {
        for minute in minutes {
            let odd = [KNOWN, AGAIN]
                .iter()
                .any(|from| (*from..from + 10).contains(&minute));
            run.heart(
                minute,
                60.0 + ((minute * 7) % 11) as f64 / 2.0 + if odd { 60.0 } else { 0.0 },
            );
        }
    };
    let mut whole = run(Lane::new(3, Arc::clone(&frugal)), 0);
    play(&mut whole, 0..END);
    let told: Vec<_> = whole.out.findings.iter().map(|finding| finding.notify).collect();
    assert_eq!(told, [true, false], "the second exceeds the budget");
    for cut in [
        KNOWN,
        KNOWN + 1,
        KNOWN + 2,
        KNOWN + 5,
        AGAIN,
        AGAIN + 1,
        AGAIN + 2,
    ] {
        let mut before = run(Lane::new(3, Arc::clone(&frugal)), 0);
        play(&mut before, 0..cut);
        let restored =
            Lane::restore(3, Arc::clone(&frugal), &before.lane.snapshot()).expect("its own snapshot");
        assert!(restored.series.entries().eq(before.lane.series.entries()));
        assert!(restored.devices.entries().eq(before.lane.devices.entries()));
        let mut after = run(restored, before.offset);
        play(&mut after, cut..END);
        before.out.findings.append(&mut after.out.findings);
        assert_eq!(
            format!("{:?}", before.out.findings),
            format!("{:?}", whole.out.findings),
            "cut in minute {cut}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_restored_lane_continues_as_if_never_interrupted(
        steps in proptest::collection::vec((0..6_usize, -2..40_i64, 0..4_u8, 55.0..75.0_f64), 1..200), cut in 0..200_usize
    ) {
        let mut whole = Run::new();
        let mut rest = None;
        let mut at_ms = NOW;
        for (step, &(device, minutes, kind, value)) in steps.iter().enumerate() {
            at_ms += minutes * 20_000;
            let value = if kind == 3 { 0.0 } else { value.round() };
            let text = event(device, at_ms, if kind == 2 { "2" } else { "1" }, &[("heart_rate", value, 0), ("steps", value, 0)]);
            if step == cut % steps.len() {
                let lane = Lane::restore(3, rules(), &whole.lane.snapshot()).expect("its own snapshot");
                rest = Some(Run { lane, offset: whole.offset, ..Run::new() });
                whole.out.clear();
            }
            whole.take(at_ms, &text);
            if let Some(rest) = &mut rest {
                rest.take(at_ms, &text);
            }
        }
        let rest = rest.expect("cut somewhere");
        prop_assert_eq!(format!("{:?}", rest.out), format!("{:?}", whole.out));
        prop_assert_eq!(rest.lane.snapshot(), whole.lane.snapshot());
    }

    #[test]
    fn no_snapshot_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Lane::restore(3, rules(), &bytes);
    }
}
