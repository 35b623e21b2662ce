//! Rollouts as devices' own events show them, and the medians on both sides of one.

use std::sync::Arc;

use pulsegate::detect::reading::{DeviceVersion, Rollout};
use pulsegate::io::timescale::{Batch, Reading};

use crate::fixture::{
    TOPIC, analytics, batch, finding, now_ms, number, readings, superuser, token, version, with_databases,
};

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;

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

#[tokio::test]
async fn a_rollout_has_its_devices_and_their_contemporaries() {
    with_databases(
        "cohorts",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let day = (now_ms() / DAY_MS - 4) * DAY_MS;
            let noon = day + 12 * HOUR_MS;
            // 0 to 9 come to 2.0; 10 to 19 stay; 20 comes to 2.0 a day later; 21 is new and begins with 2.0; 22 has 2.0 already.
            let mut devices: Vec<DeviceVersion> = (0..21)
                .map(|device| seen(device, day - 30 * DAY_MS, "1.0"))
                .collect();
            devices.extend((0..10).map(|device| seen(device, noon, "2.0")));
            devices.extend([
                seen(20, noon + DAY_MS, "2.0"),
                seen(21, noon, "2.0"),
                seen(22, day - 5 * DAY_MS, "2.0"),
            ]);
            // Thirty readings a day and device around 60, one beat more for the ten from the rollout on.
            let template = readings(0, 1).remove(0);
            let mut sent = Vec::new();
            for device in 0..23 {
                for n in 0..4 * 30 {
                    let time_ms = day - DAY_MS + n * DAY_MS / 30;
                    let after = device < 10 && time_ms >= noon;
                    sent.push(Reading {
                        time_ms,
                        append_ms: time_ms,
                        device: token(device),
                        metric: Arc::clone(&template.metric),
                        value: 58.0 + (n % 5) as f64 + f64::from(u8::from(after)),
                        quality: 0,
                        offset: sent.len() as i64,
                        ..template.clone()
                    });
                }
                // Whatever is not good counts for nothing.
                sent.push(Reading {
                    value: 1e9,
                    quality: 3,
                    ..sent[sent.len() - 1].clone()
                });
            }
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            analytics
                .write(&Batch {
                    devices: &devices,
                    ..batch(&claim, &sent)
                })
                .await
                .expect("written");

            let found = analytics
                .rollouts(day - DAY_MS, day + DAY_MS, 5)
                .await
                .expect("asked");
            let rollout = Rollout {
                firmware: "2.0".to_owned(),
                model: "band-1".to_owned(),
                day_ms: day,
                devices: 10,
            };
            assert_eq!(found, std::slice::from_ref(&rollout).to_vec());
            assert_eq!(
                analytics
                    .rollouts(day + DAY_MS, day + 2 * DAY_MS, 5)
                    .await
                    .expect("asked"),
                [],
                "one is too few"
            );

            let medians = analytics.device_medians(&rollout, 100).await.expect("computed");
            for device in 0..23 {
                for (number, expected) in [(-1, 60.0), (1, 60.0), (2, 60.0)] {
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
                            [(device < 10, expected + more, 30, "/min")],
                            "{device} on day {number}"
                        ),
                        _ => assert_eq!(found, [], "{device} is neither"),
                    }
                }
            }
            assert_eq!(medians.len(), 20 * 3);
            // The limit is on each side, and picks the same each time.
            let few = analytics.device_medians(&rollout, 4).await.expect("computed");
            assert_eq!(few.len(), 8 * 3);
            let mut again = analytics.device_medians(&rollout, 4).await.expect("computed");
            again.retain(|row| !few.contains(row));
            assert_eq!(again, []);
        },
    )
    .await;
}

#[tokio::test]
async fn a_job_reads_the_minutes_and_stores_what_it_found_once() {
    with_databases(
        "jobrun",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            let sent = readings(0, 1_000);
            analytics.write(&batch(&claim, &sent)).await.expect("written");
            analytics.roll_up().await.expect("rolled up");
            let first = sent[0].time_ms / 60_000;
            let minutes = analytics.fleet_minutes(first, first + 60).await.expect("read");
            assert_eq!(minutes.iter().map(|minute| minute.readings).sum::<u64>(), 1_000);
            assert_eq!(minutes.iter().map(|minute| minute.good).sum::<u64>(), 980);
            assert!(minutes.is_sorted_by_key(|minute| minute.minute) && minutes[0].minute == first);
            assert_eq!(analytics.fleet_minutes(first, first).await.expect("read"), []);

            let lock = analytics
                .lock("pulsegate regression")
                .await
                .expect("asked")
                .expect("nobody else");
            assert!(
                analytics
                    .lock("pulsegate regression")
                    .await
                    .expect("asked")
                    .is_none()
            );
            assert!(analytics.lock("pulsegate other").await.expect("asked").is_some());
            let store = async |numbers: [i64; 2]| {
                let found = numbers.map(finding).to_vec();
                analytics.store_findings(found).await.expect("stored")
            };
            assert_eq!(store([1, 2]).await, [finding(1), finding(2)]);
            assert_eq!(store([2, 3]).await, [finding(3)], "what is new");
            let mut admin = superuser(&config).await;
            assert_eq!(number(&mut admin, "select count(*) from outbox").await, 3);
            drop(lock);
            // The connection closes in its own time.
            let began = std::time::Instant::now();
            while analytics
                .lock("pulsegate regression")
                .await
                .expect("asked")
                .is_none()
            {
                assert!(began.elapsed().as_secs() < 30, "still locked");
                tokio::task::yield_now().await;
            }
        },
    )
    .await;
}
