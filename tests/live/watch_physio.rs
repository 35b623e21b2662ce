//! Real measurements through gate and watch: findings per day and person, and whether injected faults are found.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use pulsegate_loadtest::fleet::Hostile;
use pulsegate_loadtest::replay::series::{self, Series};
use serde_json::{Value, json};
use sqlx::Row as _;

use crate::main_path::fleet;
use crate::stored::{CleanTopic, event_of, everything_once, now_ms, query};
use pulsegate_testkit::skip::recordings;
use pulsegate_testkit::wait::wait_for;
use pulsegate_testkit::world::in_a_world;

/// Start of recordings with relative times, close to those of the others.
const START_MS: i64 = 1_460_000_000_000;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Factor of an interval when a heart that rests at 75 beats per minute beats at 125.
const SHORTER: f64 = 0.6;
/// A device's upload: ten minutes of a watch.
const ROWS_PER_EVENT: usize = 60;
/// Wearers of a wristband for one month.
const WEARERS: [&str; 3] = ["2022484408", "4558609924", "7007744171"];
/// Maximum findings per day and person on one-minute means, as measured in the notes; more would be worse than nothing.
const FINDINGS_A_DAY_MAX: f64 = 0.5;
/// The recordings are years old and arrive within seconds.
const SETTINGS: &str = "watch.quality.behind_max_days = 36500\n\
    gate.admit.rate.events_per_minute = 600000\ngate.admit.rate.burst = 100000\n";

fn read(directory: &Path, name: &str) -> Series {
    series::read(
        File::open(directory.join(name)).expect("readable"),
        ROWS_PER_EVENT,
    )
    .expect("a series")
}

/// Heart rate and steps of one wearer, sent by one device.
fn wrist(directory: &Path, wearer: &str) -> Series {
    let mut heart = read(directory, &format!("fitbit_hr_{wearer}.csv"));
    heart
        .batches
        .extend(read(directory, &format!("fitbit_steps_{wearer}.csv")).batches);
    heart.batches.sort_by_key(|batch| batch.at_ms);
    heart
}

/// One finding.
#[derive(Debug)]
struct Found {
    kind: String,
    metric: String,
    reason: String,
    direction: String,
    at_ms: i64,
}

impl Found {
    /// Whether the finding's time is this time or within half an hour after it.
    fn is_from(&self, at_ms: i64) -> bool {
        (0..=30 * MINUTE_MS).contains(&(self.at_ms - at_ms))
    }
}

/// Replays recordings through gate and watch; returns the findings by device.
fn found(world: &pulsegate_testkit::world::World, series: Vec<Series>) -> BTreeMap<String, Vec<Found>> {
    let fleet = fleet(
        world,
        u32::try_from(series.len()).expect("few"),
        Hostile::default(),
    );
    world.import(&fleet);
    world.play(&fleet, series, START_MS);
    let (mut gate, mut watch) = (world.gate("one"), world.watch("one"));
    world.settle(&mut [&mut gate]);
    everything_once(world);
    watch.expect_running();
    assert!(gate.terminate().success() && watch.terminate().success());
    let rows = query(
        world,
        "analytics",
        "select device, kind, metric, reason, direction, (document->>'time_ms')::bigint from findings
         where device is not null order by 6",
    );
    let mut found: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for row in rows {
        found.entry(row.get(0)).or_default().push(Found {
            kind: row.get(1),
            metric: row.get(2),
            reason: row.get(3),
            direction: row.get(4),
            at_ms: row.get(5),
        });
    }
    found
}

#[test]
fn a_month_of_three_people_gives_few_findings() {
    let Some(directory) = recordings() else { return };
    in_a_world("wrist", SETTINGS, move |world| {
        let series: Vec<_> = WEARERS.iter().map(|wearer| wrist(&directory, wearer)).collect();
        let days: Vec<f64> = series.iter().map(days).collect();
        let found = found(world, series);
        let odd = found
            .values()
            .flatten()
            .filter(|one| one.kind == "anomaly")
            .count();
        let rate = odd as f64 / days.iter().sum::<f64>();
        println!(
            "{odd} anomalies in {:.0} days of {} people: {rate:.2} per day and person",
            days.iter().sum::<f64>(),
            days.len()
        );
        assert!(
            rate <= FINDINGS_A_DAY_MAX,
            "{rate:.2} findings per day and person: {found:#?}"
        );
    });
}

/// Recordings of intervals between beats last at most one hour, and findings notify only when the baseline is at least
/// a day old: one hour is repeated for two people, until one of them stops resting.
#[test]
fn intervals_between_beats_are_stored_whole_and_only_a_change_notifies() {
    const HOURS: i64 = 30;
    const LATE_MS_MAX: i64 = 5 * 60_000;
    let Some(directory) = recordings() else { return };
    in_a_world("intervals", SETTINGS, move |world| {
        let names = ["rri_rest", "rri_exercise", "rri_noisy", "mitbih100_rr"];
        let mut series: Vec<_> = names
            .iter()
            .map(|name| read(&directory, &format!("{name}.csv")))
            .collect();
        let at_rest = hours(&read(&directory, "nni_60min.csv"), HOURS);
        let mut at_last = at_rest.clone();
        let changed_ms = (HOURS - 1) * HOUR_MS;
        for batch in at_last
            .batches
            .iter_mut()
            .filter(|batch| batch.at_ms >= changed_ms)
        {
            for reading in &mut batch.readings {
                reading.value *= SHORTER;
            }
        }
        series.extend([at_rest, at_last]);
        let found = found(world, series);
        for (device, found) in &found {
            println!("{device}: {found:?}");
        }
        let told = query(
            world,
            "analytics",
            "select (document->>'time_ms')::bigint from findings where notify and kind <> 'quality'",
        );
        let [told] = &told[..] else {
            panic!("{} findings notify, not one: {found:#?}", told.len())
        };
        let late_ms = told.get::<i64, _>(0) - START_MS - changed_ms;
        assert!(
            (0..=LATE_MS_MAX).contains(&late_ms),
            "notified {late_ms} ms after the change"
        );
    });
}

/// A recording of one hour, repeated.
fn hours(hour: &Series, times: i64) -> Series {
    let batches = (0..times).flat_map(|time| {
        hour.batches.iter().cloned().map(move |mut batch| {
            batch.at_ms += time * HOUR_MS;
            batch
        })
    });
    Series {
        relative: hour.relative,
        batches: batches.collect(),
    }
}

fn days(series: &Series) -> f64 {
    let (first, last) = (
        series.batches.first().expect("not empty"),
        series.batches.last().expect("not empty"),
    );
    (last.at_ms - first.at_ms) as f64 / 86_400_000.0
}

/// Injected shift in beats per minute, from one minute on: the smallest round number that is found in this recording.
const SHIFT: f64 = 40.0;

#[test]
fn faults_injected_into_real_series_are_found_named_and_timed() {
    let Some(directory) = recordings() else { return };
    in_a_world("injected", SETTINGS, move |world| {
        let mut shifted = read(&directory, "icu_numerics_1min.csv");
        let from = shifted.batches.len() * 3 / 4;
        // A one-minute mean has the time of the minute's beginning.
        let shift_ms = (START_MS + shifted.batches[from].at_ms).div_euclid(MINUTE_MS) * MINUTE_MS;
        for batch in &mut shifted.batches[from..] {
            for reading in &mut batch.readings {
                if reading.metric == "heart_rate" && reading.value > 30.0 {
                    reading.value += SHIFT;
                }
            }
        }
        let mut flat = wrist(&directory, WEARERS[0]);
        let middle = flat.batches.len() / 2;
        let flat_ms = flat.batches[middle].at_ms;
        for batch in flat.batches[middle..]
            .iter_mut()
            .take_while(|batch| batch.at_ms < flat_ms + 7_200_000)
        {
            for reading in &mut batch.readings {
                if reading.metric == "heart_rate" {
                    reading.value = 72.0;
                }
            }
        }
        let found = found(world, vec![shifted, flat]);
        // Only the wristband counts steps.
        let devices = query(
            world,
            "analytics",
            "select device, bool_or(metric = 'steps') from readings group by device order by 2",
        );
        let [shifted, flat] = &devices[..] else {
            panic!("{} devices, not two", devices.len())
        };
        let of = |device: &sqlx::postgres::PgRow| {
            let all = found.get(device.get::<&str, _>(0)).into_iter().flatten();
            all.filter(|one| one.metric == "heart_rate")
        };
        assert!(
            of(shifted).any(|one| one.is_from(shift_ms) && one.kind == "anomaly" && one.direction == "above"),
            "the level shift at {shift_ms}: {found:#?}"
        );
        assert!(
            of(flat).any(|one| {
                one.is_from(flat_ms) && one.kind == "quality" && one.reason.starts_with("the same value for")
            }),
            "the flat line at {flat_ms}: {found:#?}"
        );
        // Dropouts, coded 0, are quality findings, never anomalies.
        assert!(
            found
                .values()
                .flatten()
                .any(|one| one.reason == "a number that stands for no reading"),
            "{found:#?}"
        );
    });
}

/// Beats per minute that the firmware adds, devices that get it, and devices in total.
const ADDED: f64 = 1.0;
const TREATED: u32 = 1_000;
const DEVICES: u32 = 6_000;
/// Approximate number of readings of the wristband per day.
const PER_DAY: usize = 6_400;

#[test]
fn a_firmware_that_adds_one_beat_per_minute_in_one_of_six_devices_is_found_and_named() {
    let Some(directory) = recordings() else { return };
    in_a_world("firmware", "", move |world| {
        let real = wrist(&directory, WEARERS[1]);
        let beats: Vec<f64> = real
            .batches
            .iter()
            .flat_map(|batch| &batch.readings)
            .filter(|reading| reading.metric == "heart_rate")
            .map(|reading| reading.value)
            .collect();
        let clean = CleanTopic::of(world);
        let today = now_ms().div_euclid(DAY_MS);
        let rollout_ms = (today - 4) * DAY_MS;
        // Controls must have been seen before the day before the rollout.
        for day in [-2, -1, 0, 1, 2_i64] {
            for device in 0..DEVICES {
                let treated = device < TREATED && day >= 0;
                let at_ms = rollout_ms + day * DAY_MS + 3_600_000;
                // Each device replays consecutive days of the month, starting at a different day than the next device.
                let month = (device as usize + (day + 2) as usize) % (beats.len() / PER_DAY);
                let readings: Vec<Value> = (0..24)
                    .map(|hour: usize| {
                        let at = month * PER_DAY + hour * (PER_DAY / 24) + device as usize % (PER_DAY / 24);
                        let beat = beats[at] + if treated { ADDED } else { 0.0 };
                        json!({"metric": "heart_rate", "value": beat, "offset_ms": hour * 3_000_000})
                    })
                    .collect();
                let firmware = if treated { "2.0.1" } else { "2.0.0" };
                clean.send(
                    device,
                    &event_of(device, at_ms, firmware, &Value::Array(readings)),
                );
            }
        }
        clean.flush();
        let watch = world.watch("one");
        everything_once(world);
        assert!(watch.terminate().success());
        // Rollouts are judged periodically, and when a watch starts.
        let watch = world.watch("two");
        let mut rows = Vec::new();
        wait_for("the firmware to be found", || {
            rows = query(
                world,
                "analytics",
                "select series, document::text from findings where kind = 'regression'",
            );
            !rows.is_empty()
        });
        let [found] = &rows[..] else {
            panic!("one regression, not {}", rows.len())
        };
        let series: String = found.get(0);
        assert!(
            series.contains("2.0.1") && series.ends_with("/heart_rate"),
            "{series}"
        );
        let document: Value = serde_json::from_str(found.get(1)).expect("JSON");
        let without = |end: usize| document["expected"][end].as_f64().expect("a range");
        let added = document["value"].as_f64().expect("a value") - (without(0) + without(1)) / 2.0;
        println!("found: {document}");
        assert!((added - ADDED).abs() < ADDED / 2.0, "{added}: {document}");
        assert_eq!(
            [&document["time_ms"], &document["cohort"]["devices"]],
            [&Value::from(rollout_ms), &Value::from(TREATED)],
            "{document}"
        );
        assert!(watch.terminate().success());
    });
}
