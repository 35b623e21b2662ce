//! Batches: the tables after a write, and which claim may write.

use pulsegate::io::postgres::WriteError;
use pulsegate::io::timescale::{DeviceVersion, Snapshot};
use sqlx::Row;

use crate::fixture::{
    TOPIC, analytics, batch, finding, metric, now_ms, number, readings, stored, superuser, token, version,
    with_databases,
};

#[tokio::test]
async fn a_batch_is_stored_whole_and_found_again_by_the_next_claim() {
    with_databases("whole", |_| {}, |config| async move {
        let analytics = analytics(&config).await;
        let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
        assert_eq!((claim.next, claim.epoch, &claim.snapshot), (None, 1, &None));

        let readings = readings(0, 500);
        let device = DeviceVersion {
            device: token(1),
            since_ms: readings[0].time_ms,
            append_ms: readings[0].append_ms,
            version: version("1.1"),
            partition: 3,
            offset: 0,
        };
        let snapshot = Snapshot { next: 500, model: "test-1".to_owned(), state: vec![0, 1, 255] };
        let written = pulsegate::io::timescale::Batch {
            findings: &[finding(7), finding(7), finding(8)],
            devices: &[device.clone(), device],
            snapshot: Some(&snapshot),
            ..batch(&claim, &readings)
        };
        analytics.write(&written).await.expect("written");

        let mut admin = superuser(&config).await;
        assert_eq!(stored(&mut admin).await, (500, 500));
        let row = sqlx::query(
            "select (extract(epoch from time) * 1000)::bigint, value, origin_partition, origin_index, quality, device,
                    metric, unit, firmware, model, claimed_time is null
             from readings where origin_offset = 50",
        )
        .fetch_one(&mut admin)
        .await
        .expect("the row");
        assert_eq!(row.get::<i64, _>(0), readings[50].time_ms);
        assert_eq!(row.get::<f64, _>(1), readings[50].value);
        assert_eq!((row.get::<i32, _>(2), row.get::<i32, _>(3), row.get::<i16, _>(4)), (3, 0, 1));
        assert_eq!(row.get::<String, _>(5), token(50).as_str());
        let texts: Vec<String> = (6..10).map(|column| row.get(column)).collect();
        assert_eq!(texts, ["heart_rate", "/min", "1.0", "band-1"]);
        assert!(row.get::<bool, _>(10), "the device's own time is used");

        assert_eq!(number(&mut admin, "select count(*) from findings").await, 2, "each finding once");
        assert_eq!(number(&mut admin, "select count(*) from outbox").await, 2);
        assert_eq!(number(&mut admin, "select count(*) from device_version").await, 1);
        let row = sqlx::query(
            "select id::text, kind, expected_low, direction, baseline_n, extract(epoch from baseline_age)::bigint, notify,
                    document::text
             from findings where origin_offset = 7",
        )
        .fetch_one(&mut admin)
        .await
        .expect("the finding");
        let known = finding(7);
        assert_eq!(row.get::<String, _>(0), known.id.to_string());
        assert_eq!((row.get::<String, _>(1), row.get::<f64, _>(2)), ("anomaly".to_owned(), 55.0));
        assert_eq!((row.get::<String, _>(3), row.get::<i64, _>(4)), ("above".to_owned(), 1_440));
        assert_eq!((row.get::<i64, _>(5), row.get::<bool, _>(6)), (86_400, true));
        assert_eq!(row.get::<String, _>(7).into_bytes(), known.json(), "the topic's bytes");

        let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
        assert_eq!((claim.next, claim.epoch, claim.snapshot), (Some(500), 2, Some(snapshot)));
    })
    .await;
}

#[tokio::test]
async fn only_the_newest_claim_writes() {
    with_databases(
        "fenced",
        |_| {},
        |config| async move {
            let (first, second) = (analytics(&config).await, analytics(&config).await);
            let old = first.claim(TOPIC, 3).await.expect("claimed");
            first
                .write(&batch(&old, &readings(0, 10)))
                .await
                .expect("no other claim yet");
            let new = second.claim(TOPIC, 3).await.expect("claimed");
            assert_eq!(new.next, Some(10));

            // The first process does not know yet and continues.
            let old = pulsegate::io::timescale::Claim {
                next: Some(10),
                ..old
            };
            let fenced = first
                .write(&batch(&old, &readings(10, 10)))
                .await
                .expect_err("taken over");
            assert!(
                matches!(fenced, WriteError::Fenced { partition: 3, .. }),
                "{fenced}"
            );
            second
                .write(&batch(&new, &readings(10, 10)))
                .await
                .expect("the lane belongs to the second process");

            // Another partition is unaffected.
            let other = first.claim(TOPIC, 4).await.expect("claimed");
            assert_eq!(other.next, None);
            let mut admin = superuser(&config).await;
            assert_eq!(stored(&mut admin).await, (20, 20));
        },
    )
    .await;
}

#[tokio::test]
async fn a_batch_whose_commit_response_was_lost_is_not_stored_again() {
    with_databases(
        "again",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            let readings = readings(0, 10);
            analytics.write(&batch(&claim, &readings)).await.expect("written");
            analytics
                .write(&batch(&claim, &readings))
                .await
                .expect("known to be written");
            let mut admin = superuser(&config).await;
            assert_eq!(stored(&mut admin).await, (10, 10));

            // A batch at a different offset is not a repetition.
            let elsewhere = pulsegate::io::timescale::Batch {
                expected: Some(99),
                next: 199,
                ..batch(&claim, &readings)
            };
            let refused = analytics.write(&elsewhere).await.expect_err("a hole");
            assert!(matches!(refused, WriteError::Refused(_)), "{refused}");
            assert!(
                refused.to_string().contains("stands at 10 in partition 3"),
                "{refused}"
            );
            assert_eq!(stored(&mut admin).await, (10, 10));
        },
    )
    .await;
}

#[tokio::test]
async fn every_reading_has_a_row_however_extreme() {
    with_databases(
        "odd",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            let values = [
                f64::MAX,
                f64::MIN,
                f64::MIN_POSITIVE,
                5e-324,
                -0.0,
                f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                0.1 + 0.2,
            ];
            let times = [0, 4_102_444_800_000, i64::MIN, i64::MAX, now_ms()];
            let names = [
                "a\0b",
                &"long ".repeat(10_000),
                "",
                "Ünï",
                "'; drop table readings; --",
            ];
            let mut sent = readings(0, values.len() + times.len() + names.len());
            for (reading, value) in sent.iter_mut().zip(values) {
                reading.value = value;
            }
            for (reading, time_ms) in sent[values.len()..].iter_mut().zip(times) {
                reading.time_ms = time_ms;
            }
            for (reading, name) in sent[values.len() + times.len()..].iter_mut().zip(names) {
                reading.metric = metric(name, name);
                reading.version = version(name);
            }
            let odd = pulsegate_detect::finding::Finding {
                metric: "a\0b".to_owned(),
                value: Some(f64::NAN),
                time_ms: i64::MIN,
                ..finding(1)
            };
            let written = pulsegate::io::timescale::Batch {
                findings: &[odd],
                ..batch(&claim, &sent)
            };
            analytics.write(&written).await.expect("written");

            let mut admin = superuser(&config).await;
            let rows = sqlx::query(
                "select value, time = claimed_time, extract(year from claimed_time)::int, metric
                                from readings order by origin_offset",
            )
            .fetch_all(&mut admin)
            .await
            .expect("read");
            assert_eq!(rows.len(), sent.len());
            for (row, value) in rows.iter().zip(values) {
                assert_eq!(row.get::<f64, _>(0).to_bits(), value.to_bits(), "{value:?}");
            }
            let years: Vec<Option<i32>> = rows[values.len()..][..times.len()]
                .iter()
                .map(|row| row.get(2))
                .collect();
            assert_eq!(
                years,
                [Some(1970), Some(2100), Some(-4714), Some(294_276), None],
                "the claimed times are kept"
            );
            assert_eq!(rows[values.len() + times.len()].get::<String, _>(3), "a\u{fffd}b");
            // Claimed times create no chunks, however far apart they are.
            let chunks = "select count(*) from show_chunks('readings')";
            assert!(number(&mut admin, chunks).await <= 3);
            // And none of these readings stops the rollup permanently.
            analytics.roll_up().await.expect("rolled up");
            assert_eq!(
                number(&mut admin, "select count(*) from findings where value is null").await,
                1
            );
        },
    )
    .await;
}

#[tokio::test]
async fn a_hundred_thousand_readings_are_one_batch() {
    with_databases(
        "many",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            let mut sent = readings(0, 100_000);
            // Records of ten thousand readings each.
            for (n, reading) in sent.iter_mut().enumerate() {
                (reading.offset, reading.index) = (n as i64 / 10_000, n as u32 % 10_000);
            }
            let written = pulsegate::io::timescale::Batch {
                next: 10,
                ..batch(&claim, &sent)
            };
            analytics.write(&written).await.expect("written");
            let mut admin = superuser(&config).await;
            assert_eq!(stored(&mut admin).await, (100_000, 100_000));
            assert_eq!(
                number(&mut admin, "select max(origin_index)::bigint from readings").await,
                9_999
            );
        },
    )
    .await;
}

#[tokio::test]
async fn a_device_version_is_stored_only_when_it_changes() {
    with_databases(
        "versions",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            let start_ms = now_ms() - 3_600_000;
            let told = |minute: i64, firmware: &str| DeviceVersion {
                device: token(1),
                since_ms: start_ms + minute * 60_000,
                append_ms: start_ms + minute * 60_000,
                version: version(firmware),
                partition: 3,
                offset: minute,
            };
            // Each is one batch of a lane: the lane has evicted the device whenever it reports the same version again.
            let batches = [
                vec![told(0, "1"), told(1, "1"), told(2, "2"), told(3, "1")],
                vec![told(4, "1")],
                vec![told(5, "2")],
                vec![told(6, "2"), told(7, "3"), told(8, "3")],
                // A late upload of an unknown version, and one without news.
                vec![told(4, "2"), told(9, "3")],
            ];
            for devices in batches {
                let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
                let written = pulsegate::io::timescale::Batch {
                    devices: &devices,
                    next: claim.next.unwrap_or(0) + 1,
                    ..batch(&claim, &[])
                };
                analytics.write(&written).await.expect("written");
            }
            let rows = sqlx::query("select origin_offset, firmware from device_version order by since")
                .fetch_all(&mut admin)
                .await
                .expect("read");
            let stored: Vec<(i64, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            let wanted = [(0, "1"), (2, "2"), (3, "1"), (4, "2"), (5, "2"), (7, "3")];
            assert_eq!(
                stored,
                wanted.map(|(offset, firmware)| (offset, firmware.to_owned()))
            );
        },
    )
    .await;
}

#[tokio::test]
async fn a_log_that_ended_early_stays_recorded_until_an_operator_decides() {
    with_databases(
        "logend",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            let snapshot = Snapshot {
                next: 10,
                model: "test-1".to_owned(),
                state: vec![1],
            };
            let sent = readings(0, 10);
            let written = pulsegate::io::timescale::Batch {
                snapshot: Some(&snapshot),
                ..batch(&claim, &sent)
            };
            analytics.write(&written).await.expect("written");

            analytics.note_log_end(TOPIC, 3, 10).await.expect("asked");
            let whole = analytics.claim(TOPIC, 3).await.expect("claimed");
            assert_eq!(
                (whole.next, whole.log_end, whole.snapshot),
                (Some(10), None, Some(snapshot))
            );
            for end in [7, 9] {
                analytics.note_log_end(TOPIC, 3, end).await.expect("noted");
                let cut = analytics.claim(TOPIC, 3).await.expect("claimed");
                assert_eq!(
                    (cut.next, cut.log_end),
                    (Some(10), Some(7)),
                    "the end as first seen"
                );
            }
            let decision = "update sink_offset set next = log_end, log_end = null";
            sqlx::query(decision).execute(&mut admin).await.expect("decided");
            let decided = analytics.claim(TOPIC, 3).await.expect("claimed");
            assert_eq!((decided.next, decided.log_end), (Some(7), None));
            assert_eq!(
                decided.snapshot, None,
                "the snapshot covers records that no longer exist"
            );
        },
    )
    .await;
}
