//! Rollouts detected from the devices' own events, and the medians on both sides of one, measured an hour at a time.

use std::future::Future;
use std::sync::Arc;

use pulsegate::config::Config;
use pulsegate::io::timescale::{Analytics, Batch, Chosen, Claim, Name, Ran, Reading, Version};
use pulsegate_detect::reading::{DeviceMedian, DeviceVersion, Rollout};
use sqlx::{Connection, Executor};

use crate::fixture::{
    TOPIC, analytics, batch, jobs, now_ms, number, readings, superuser, token, version, with_databases,
};

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;

/// Start of a day whose rollouts are judged.
fn a_day() -> i64 {
    (now_ms() / DAY_MS - 4) * DAY_MS
}

fn seen(device: usize, since_ms: i64, firmware: &str) -> DeviceVersion {
    DeviceVersion {
        device: token(device),
        since_ms,
        append_ms: since_ms,
        version: version(firmware),
        partition: 3,
        offset: 0,
    }
}

/// `a_day` readings per day of each device over five days, from the second before `day` on.
fn measured(day: i64, devices: usize, a_day: i64, value: impl Fn(usize, i64, i64) -> f64) -> Vec<Reading> {
    let template = readings(0, 1).remove(0);
    let each = (0..devices).flat_map(|device| (0..5 * a_day).map(move |n| (device, n)));
    each.zip(0..)
        .map(|((device, n), offset)| {
            let time_ms = day - 2 * DAY_MS + n * DAY_MS / a_day;
            Reading {
                time_ms,
                append_ms: time_ms,
                device: token(device),
                metric: Arc::clone(&template.metric),
                value: value(device, n, time_ms),
                quality: 0,
                offset,
                ..template.clone()
            }
        })
        .collect()
}

async fn write(analytics: &Analytics, claim: &Claim, devices: &[DeviceVersion], sent: &[Reading]) {
    let written = Batch {
        devices,
        ..batch(claim, sent)
    };
    analytics.write(&written).await.expect("written");
}

async fn measure(analytics: &Analytics, chosen: &Chosen) -> Vec<DeviceMedian> {
    for hour in analytics.hours_left(chosen).await.expect("asked") {
        assert!(
            analytics.measure_hour(chosen, hour).await.expect("measured"),
            "{hour}"
        );
    }
    analytics.device_medians(chosen).await.expect("read")
}

fn the_rollout(day_ms: i64, devices: u32) -> Rollout {
    Rollout {
        firmware: "2.0".to_owned(),
        model: "band-1".to_owned(),
        day_ms,
        devices,
    }
}

/// Runs `work` until it waits for a lock on the table of medians, which it never gets, and drops it there: in the
/// middle of an hour.
async fn cut_short<T>(config: &Config, work: impl Future<Output = T>) {
    let mut other = superuser(config).await;
    let mut locked = superuser(config).await;
    let mut lock = locked.begin().await.expect("begun");
    lock.execute("lock table rollout_median in access exclusive mode")
        .await
        .expect("locked");
    let waits = async {
        let waiting =
            "select count(*) from pg_locks where relation = 'rollout_median'::regclass and not granted";
        while number(&mut other, waiting).await == 0 {}
    };
    tokio::select! {
        _ = work => panic!("the work did not wait for the lock"),
        () = waits => {}
    }
    lock.rollback().await.expect("unlocked");
}

#[tokio::test]
async fn a_rollout_has_its_devices_and_their_controls() {
    with_databases(
        "rollouts",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let day = a_day();
            let noon = day + 12 * HOUR_MS;
            // 0 to 9 change to 2.0; 10 to 19 stay; 20 changes to 2.0 a day later; 21 is new and begins with 2.0; 22
            // already has 2.0.
            let mut devices: Vec<DeviceVersion> = (0..21)
                .map(|device| seen(device, day - 30 * DAY_MS, "1.0"))
                .collect();
            devices.extend((0..10).map(|device| seen(device, noon, "2.0")));
            devices.extend([
                seen(20, noon + DAY_MS, "2.0"),
                seen(21, noon, "2.0"),
                seen(22, day - 5 * DAY_MS, "2.0"),
            ]);
            // Thirty readings per day and device, one beat more for the ten from the rollout on. Every fourth hour has
            // two, of 58 and 59; the three hours after it have one each, of 60, 61 and 62. The median of the readings
            // is 60, that of the hours between 60 and 61.
            let mut sent = measured(day, 23, 30, |device, n, time_ms| {
                58.0 + (n % 5) as f64 + f64::from(u8::from(device < 10 && time_ms >= noon))
            });
            // Readings of bad quality do not count.
            let bad: Vec<Reading> = sent
                .iter()
                .step_by(7)
                .map(|reading| Reading {
                    value: 1e9,
                    quality: 3,
                    ..reading.clone()
                })
                .collect();
            sent.extend(bad);
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            write(&analytics, &claim, &devices, &sent).await;

            let found = analytics
                .rollouts(day - DAY_MS, day + DAY_MS, 5)
                .await
                .expect("asked");
            let rollout = the_rollout(day, 10);
            assert_eq!(found, std::slice::from_ref(&rollout).to_vec());
            assert_eq!(
                analytics
                    .rollouts(day + DAY_MS, day + 2 * DAY_MS, 5)
                    .await
                    .expect("asked"),
                [],
                "one device is too few"
            );

            let chosen = analytics.choose_devices(&rollout, 100).await.expect("chosen");
            assert_eq!((chosen.treated, chosen.controls), (10, 10));
            assert_eq!(analytics.device_medians(&chosen).await.expect("read"), []);
            let medians = measure(&analytics, &chosen).await;
            for device in 0..23 {
                for number in [-1, 1, 2] {
                    let of = medians
                        .iter()
                        .filter(|row| row.device == token(device) && row.day == number);
                    let found: Vec<_> = of
                        .map(|row| (row.treated, row.median, row.readings, row.unit.as_str()))
                        .collect();
                    let more = if device < 10 && number > 0 { 1.0 } else { 0.0 };
                    match device {
                        0..20 => assert_eq!(
                            found,
                            [(device < 10, 60.5 + more, 30, "/min")],
                            "{device} on day {number}"
                        ),
                        _ => assert_eq!(found, [], "{device} is neither changed nor a control"),
                    }
                }
            }
            assert_eq!(medians.len(), 20 * 3);
        },
    )
    .await;
}

#[tokio::test]
async fn devices_of_a_rollout_are_chosen_once_and_by_their_tokens() {
    with_databases(
        "chosen",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let day = a_day();
            let mut devices: Vec<DeviceVersion> = (0..40)
                .map(|device| seen(device, day - 30 * DAY_MS, "1.0"))
                .collect();
            devices.extend((0..6).map(|device| seen(device, day, "2.0")));
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            write(&analytics, &claim, &devices, &[]).await;

            let (mut admin, rollout) = (superuser(&config).await, the_rollout(day, 6));
            let mut sets: Vec<Vec<String>> = Vec::new();
            for _ in 0..2 {
                let chosen = analytics.choose_devices(&rollout, 4).await.expect("chosen");
                assert_eq!((chosen.treated, chosen.controls), (4, 4));
                let again = analytics.choose_devices(&rollout, 100).await.expect("asked");
                assert_eq!(again, chosen, "the choice is stable");
                let set = sqlx::query_scalar("select device from rollout_device order by device")
                    .fetch_all(&mut admin)
                    .await;
                sets.push(set.expect("read"));
                admin.execute("delete from rollout").await.expect("forgotten");
            }
            assert_eq!(sets[0], sets[1], "the same devices each time");
            assert_eq!(number(&mut admin, "select count(*) from rollout_device").await, 0);
            let few = analytics.choose_devices(&rollout, 10).await.expect("chosen");
            assert_eq!(
                (few.treated, few.controls),
                (6, 14),
                "few leave room for more controls"
            );
        },
    )
    .await;
}

/// The watch has stored such rows for devices that a lane had evicted.
#[tokio::test]
async fn a_device_that_is_met_again_has_not_changed() {
    with_databases(
        "metagain",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            let day = a_day();
            // Six changed to 2.0 long ago and are reported again; six others change to it now; six stay.
            let devices = [
                (0..18, day - 30 * DAY_MS, "1.0"),
                (0..6, day - 20 * DAY_MS, "2.0"),
                (0..12, day + HOUR_MS, "2.0"),
            ];
            for (range, since_ms, firmware) in devices {
                let tokens: Vec<_> = range.map(|device| token(device).as_str().to_owned()).collect();
                sqlx::query(
                    "insert into device_version
                     select device, to_timestamp($2 / 1000.0), $3, 'band-1', 3, 0 from unnest($1::text[]) as d (device)",
                )
                .bind(tokens)
                .bind(since_ms)
                .bind(firmware)
                .execute(&mut admin)
                .await
                .expect("inserted");
            }
            let found = analytics.rollouts(day, day + DAY_MS, 1).await.expect("asked");
            assert_eq!(found, [the_rollout(day, 6)]);
            let chosen = analytics.choose_devices(&found[0], 100).await.expect("chosen");
            assert_eq!((chosen.treated, chosen.controls), (6, 6));
        },
    )
    .await;
}

#[tokio::test]
async fn a_measurement_that_is_cut_short_goes_on_where_it_stopped() {
    with_databases(
        "cut",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            let day = a_day();
            let mut devices: Vec<DeviceVersion> = (0..8)
                .map(|device| seen(device, day - 30 * DAY_MS, "1.0"))
                .collect();
            devices.extend((0..4).map(|device| seen(device, day, "2.0")));
            // No device measures in the fourth hour of a day.
            let mut sent = measured(day, 8, 48, |device, n, _| {
                60.0 + device as f64 + (n * n % 13) as f64
            });
            sent.retain(|reading| reading.time_ms.rem_euclid(DAY_MS) / HOUR_MS != 3);
            let mut claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            write(&analytics, &claim, &devices, &sent).await;
            let rollout = the_rollout(day, 4);
            let chosen = analytics.choose_devices(&rollout, 100).await.expect("chosen");
            let uncut = measure(&analytics, &chosen).await;
            assert_eq!(uncut.len(), 8 * 3);
            assert!(uncut.iter().all(|row| row.readings == 46), "{uncut:?}");
            assert_eq!(number(&mut admin, "select count(*) from rollout_hour").await, 72);
            admin.execute("delete from rollout").await.expect("forgotten");

            let chosen = analytics.choose_devices(&rollout, 100).await.expect("chosen");
            let hours = analytics.hours_left(&chosen).await.expect("asked");
            assert_eq!(hours.len(), 72);
            for hour in &hours[..10] {
                assert!(analytics.measure_hour(&chosen, *hour).await.expect("measured"));
            }
            cut_short(&config, analytics.measure_hour(&chosen, hours[10])).await;
            assert_eq!(analytics.hours_left(&chosen).await.expect("asked"), hours[10..]);
            // Nine hours of ten in which there were readings, two of each device.
            let (rows, counted) = ("select count(*) from rollout_median", 9 * 8);
            assert_eq!(number(&mut admin, rows).await, counted, "only whole hours");

            // Readings that arrive for a measured hour are too late.
            claim.next = Some(sent.len() as i64);
            let late: Vec<Reading> = sent
                .iter()
                .filter(|reading| reading.time_ms < day - DAY_MS + 10 * HOUR_MS)
                .map(|reading| Reading {
                    value: 200.0,
                    ..reading.clone()
                })
                .collect();
            assert!(!late.is_empty());
            write(&analytics, &claim, &[], &late).await;
            assert!(
                !analytics.measure_hour(&chosen, hours[0]).await.expect("asked"),
                "once"
            );
            assert_eq!(number(&mut admin, rows).await, counted, "once");
            assert_eq!(measure(&analytics, &chosen).await, uncut);
        },
    )
    .await;
}

#[tokio::test]
async fn a_job_that_is_cut_short_or_fails_hides_no_other_rollout() {
    with_databases(
        "judged",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            let day = a_day();
            // 0 to 24 change to 2.0, 25 to 49 to 3.0 the day before, 50 to 74 stay; all devices of another model
            // change, so they have no controls.
            let mut devices: Vec<DeviceVersion> = (0..100)
                .map(|device| seen(device, day - 30 * DAY_MS, "1.0"))
                .collect();
            devices.extend((0..25).map(|device| seen(device, day, "2.0")));
            devices.extend((25..50).map(|device| seen(device, day - DAY_MS, "3.0")));
            devices.extend((75..100).map(|device| seen(device, day, "2.0")));
            for device in &mut devices {
                if device.device >= token(75) {
                    device.version = Arc::new(Version {
                        model: Name::new("band-2"),
                        ..(*device.version).clone()
                    });
                }
            }
            // Five beats more, and a little variation between days.
            let sent = measured(day, 75, 24, |device, n, time_ms| {
                let jitter = (device as i64 * 31 + n / 24 * 17) % 7;
                let more = if device < 25 && time_ms >= day { 5.0 } else { 0.0 };
                60.0 + (n % 3) as f64 + jitter as f64 / 10.0 + more
            });
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            write(&analytics, &claim, &devices, &sent).await;
            admin
                .execute(
                    "create function refuse() returns trigger language plpgsql as $$ begin
                         if (select firmware from rollout where id = new.rollout) = '3.0' then
                             raise exception 'as if it was too much';
                         end if;
                         return new;
                     end $$;
                     create trigger refuse before insert on rollout_hour for each row execute function refuse();",
                )
                .await
                .expect("created");

            let jobs = jobs(&config, &analytics);
            cut_short(&config, jobs.judge_rollouts()).await;
            assert_eq!(number(&mut admin, "select count(*) from findings").await, 0);
            let began = std::time::Instant::now();
            // The connection of the interrupted run closes asynchronously.
            let refused = loop {
                match jobs.judge_rollouts().await {
                    Ok(Ran::Elsewhere) => assert!(began.elapsed().as_secs() < 30, "still locked"),
                    Ok(Ran::Done(_)) => panic!("one can't be measured"),
                    Err(error) => break error.to_string(),
                }
                tokio::task::yield_now().await;
            };
            assert!(refused.contains("as if it was too much"), "{refused}");
            let found = "select count(*) from findings where kind = 'regression'
                         and series = 'cohort firmware=2.0 model=band-1/heart_rate'";
            assert_eq!(number(&mut admin, found).await, 1, "the other rollout is found");
            let hours = "select count(*) from rollout_hour join rollout on id = rollout
                         where firmware = '2.0' and model = 'band-1'";
            assert_eq!(number(&mut admin, hours).await, 72);
            assert_eq!(
                number(&mut admin, "select count(*) from rollout_hour").await,
                72,
                "a rollout without controls is not measured"
            );

            admin.execute("drop trigger refuse on rollout_hour").await.expect("dropped");
            let ran = loop {
                let ran = jobs.judge_rollouts().await.expect("judged");
                if ran != Ran::Elsewhere {
                    break ran;
                }
                assert!(began.elapsed().as_secs() < 60, "still locked");
                tokio::task::yield_now().await;
            };
            assert_eq!(ran, Ran::Done(0), "the finding is known, and the other rollout has none");
            assert_eq!(number(&mut admin, "select count(*) from rollout_hour").await, 2 * 72);
            assert_eq!(number(&mut admin, "select count(*) from findings").await, 1);
        },
    )
    .await;
}

#[tokio::test]
async fn measurements_of_a_rollout_are_dropped_when_it_is_no_longer_judged() {
    with_databases(
        "forgotten",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            admin
                .execute(
                    "insert into rollout (firmware, model, day) select n::text, 'm', now() - make_interval(days => n)
                         from unnest(array[3, 7, 9, 30]) n;
                     insert into rollout_device select id, 'd', true from rollout;
                     insert into rollout_hour (rollout, hour) select id, 24 from rollout;
                     insert into rollout_median select id, 24, 60, 1, 'd', 'm', 'u' from rollout;",
                )
                .await
                .expect("inserted");
            assert_eq!(analytics.drop_old().await.expect("dropped"), Ran::Done(2));
            for table in ["rollout", "rollout_device", "rollout_hour", "rollout_median"] {
                let rows = format!("select count(*) from {table}");
                assert_eq!(number(&mut admin, &rows).await, 2, "{table}");
            }
            let kept = "select count(*) from rollout where firmware in ('3', '7')";
            assert_eq!(number(&mut admin, kept).await, 2);
        },
    )
    .await;
}
