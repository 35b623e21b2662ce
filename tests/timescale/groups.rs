//! Devices of all lanes with the same anomaly at once: one finding represents theirs, while those are in the outbox.

use std::sync::Arc;

use pulsegate::config::Config;
use pulsegate::io::timescale::{Analytics, Batch, DeviceVersion, Ran};
use pulsegate::telemetry::metrics::Metrics;
use pulsegate_detect::finding::{Finding, FindingId, Kind, Origin};
use sqlx::{Executor, PgConnection, Row};

use crate::fixture::{
    TOPIC, analytics, batch, counted_jobs, finding, now_ms, number, superuser, token, version, with_databases,
};

const MINUTE_MS: i64 = 60_000;

/// Start of a window that is over.
fn window_ms() -> i64 {
    (now_ms() / (5 * MINUTE_MS) - 4) * 5 * MINUTE_MS
}

/// A finding on a device at a minute of the window.
fn found(device: usize, minute: i64) -> Finding {
    let series = format!("{}/heart_rate", token(device).as_str());
    let origin = Origin {
        partition: device as i32 % 3,
        offset: device as i64,
        index: 0,
    };
    Finding {
        id: FindingId::new(Kind::Anomaly, &series, origin, "test-1"),
        device: Some(*token(device).bytes()),
        time_ms: window_ms() + minute * MINUTE_MS,
        detected_ms: window_ms() + (minute + 1) * MINUTE_MS,
        origin,
        series,
        ..finding(0)
    }
}

/// Stores a lane's findings on devices that run firmware 1.0.
async fn store(analytics: &Analytics, partition: i32, findings: &[Finding]) {
    store_of(analytics, partition, findings, "1.0").await;
}

/// Stores a lane's findings on devices that run this firmware, continuing at the lane's position.
async fn store_of(analytics: &Analytics, partition: i32, findings: &[Finding], firmware: &str) {
    let seen: Vec<_> = findings.iter().filter_map(|finding| finding.device).collect();
    let devices: Vec<_> = seen
        .iter()
        .map(|device| DeviceVersion {
            device: pulsegate::io::timescale::Token::new(device).expect("a token"),
            since_ms: window_ms() - 60 * MINUTE_MS,
            append_ms: window_ms(),
            version: version(firmware),
            partition,
            offset: 0,
        })
        .collect();
    let claim = analytics.claim(TOPIC, partition).await.expect("claimed");
    let written = Batch {
        partition,
        findings,
        devices: &devices,
        next: claim.next.unwrap_or(0) + 1,
        ..batch(&claim, &[])
    };
    analytics.write(&written).await.expect("written");
}

async fn gather(analytics: &Analytics, config: &Config) -> Vec<Finding> {
    let gathered = analytics.gather(&config.watch.groups).await.expect("gathered");
    gathered.expect("no other process is gathering")
}

/// Device, whether it notifies, and its group: as in the columns, checked against the document.
async fn stored(admin: &mut PgConnection) -> Vec<(String, bool, Option<String>)> {
    let rows = sqlx::query(
        "select device, notify, group_id::text, (document->>'notify')::boolean, document->>'group' from findings
         where kind = 'anomaly' order by device",
    )
    .fetch_all(admin)
    .await
    .expect("read");
    let read = |row: &sqlx::postgres::PgRow| {
        let (notify, group): (bool, Option<String>) = (row.get(1), row.get(2));
        assert_eq!(
            (row.get::<bool, _>(3), row.get::<Option<String>, _>(4)),
            (notify, group.clone())
        );
        (row.get(0), notify, group)
    };
    rows.iter().map(read).collect()
}

#[tokio::test]
async fn devices_of_all_lanes_are_one_finding() {
    with_databases(
        "groups",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            for lane in 0..2 {
                store(&analytics, lane, &[found(lane as usize, 1)]).await;
            }
            assert_eq!(
                gather(&analytics, &config).await,
                [],
                "two devices are not a group"
            );
            assert_eq!(
                analytics.outbox_take(100).await.expect("asked"),
                None,
                "the findings wait for further devices"
            );

            store(&analytics, 2, &[found(2, 4)]).await;
            let [group] = &gather(&analytics, &config).await[..] else {
                panic!("one group")
            };
            assert_eq!(group.series, "cohort firmware=1.0 model=band-1/heart_rate");
            assert_eq!(group.reason, "3 of 3 devices within 10 min: far above its range");
            assert!(group.notify);
            let silent = |device: usize| {
                (
                    token(device).as_str().to_owned(),
                    false,
                    Some(group.id.to_string()),
                )
            };
            assert_eq!(stored(&mut admin).await, [silent(0), silent(1), silent(2)]);
            assert_eq!(gather(&analytics, &config).await, [], "the group is found once");

            // A further device joins; the group represents it too.
            store(&analytics, 0, &[found(3, 2)]).await;
            assert_eq!(gather(&analytics, &config).await, []);
            assert_eq!(stored(&mut admin).await[3], silent(3));

            admin
                .execute("update outbox set due = now()")
                .await
                .expect("time passes");
            let batch = analytics
                .outbox_take(100)
                .await
                .expect("asked")
                .expect("five are due");
            let told: Vec<_> = batch
                .rows
                .iter()
                .map(|row| {
                    let document: serde_json::Value = serde_json::from_slice(&row.document).expect("JSON");
                    (document["kind"].clone(), document["notify"].clone())
                })
                .collect();
            assert_eq!(told.len(), 5);
            assert_eq!(
                told.iter()
                    .filter(|(_, notify)| notify == true)
                    .collect::<Vec<_>>(),
                [&("fleet".into(), true.into())]
            );
            let expected = Finding {
                notify: false,
                group: Some(group.id),
                ..found(0, 1)
            };
            assert_eq!(batch.rows[0].document, expected.json(), "byte for byte");
        },
    )
    .await;
}

#[tokio::test]
async fn what_a_job_finds_is_counted_when_it_is_new() {
    with_databases(
        "groupcounted",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let metrics = Arc::<Metrics>::default();
            let jobs = counted_jobs(&config, &analytics, Arc::clone(&metrics));
            let counted = || {
                let text = metrics.render();
                text.contains("\npulsegate_findings_total{kind=\"fleet\"} 1\n")
            };
            store(&analytics, 0, &[found(0, 1), found(1, 1)]).await;
            assert_eq!(jobs.gather().await.expect("gathered"), Ran::Done(0));
            assert!(!counted(), "two devices are not a group");
            store(&analytics, 1, &[found(2, 2)]).await;
            assert_eq!(jobs.gather().await.expect("gathered"), Ran::Done(1));
            assert!(counted());
            assert_eq!(jobs.gather().await.expect("gathered"), Ran::Done(0));
            assert!(counted(), "once");
        },
    )
    .await;
}

#[tokio::test]
async fn findings_already_sent_stay_unchanged() {
    with_databases(
        "grouptold",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            store(&analytics, 0, &[found(0, 0), found(3, 0)]).await;
            admin
                .execute("update outbox set due = now()")
                .await
                .expect("time passes");
            analytics
                .outbox_take(100)
                .await
                .expect("asked")
                .expect("two are due");
            store(&analytics, 1, &[found(1, 0)]).await;
            let groups = gather(&analytics, &config).await;
            assert_eq!(groups.len(), 1, "the group includes the sent findings");
            let group = Some(groups[0].id.to_string());
            let expected = [(0, true, None), (1, false, group), (3, true, None)];
            assert_eq!(
                stored(&mut admin).await,
                expected.map(|(device, notify, group)| (token(device).as_str().to_owned(), notify, group))
            );
        },
    )
    .await;
}

#[tokio::test]
async fn a_group_needs_a_part_of_its_cohort() {
    with_databases(
        "grouppart",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            // A thousand devices, of which nine have the anomaly; then ten.
            admin
                .execute(
                    "insert into device_version select lpad((n + 1000)::text, 22, '0'), now() - interval '1 day', '1.0',
                         'band-1', 0, 0 from generate_series(1, 990) as n",
                )
                .await
                .expect("inserted");
            let nine: Vec<_> = (0..9).map(|device| found(device, 0)).collect();
            store(&analytics, 0, &nine).await;
            assert_eq!(gather(&analytics, &config).await, []);
            store(&analytics, 1, &[found(9, 0)]).await;
            let groups = gather(&analytics, &config).await;
            assert_eq!(groups.len(), 1);
            assert_eq!(groups[0].reason, "10 of 1000 devices within 10 min: far above its range");
            assert_eq!(number(&mut admin, "select count(*) from findings where notify").await, 1);
        },
    )
    .await;
}

#[tokio::test]
async fn the_fleet_speaks_for_a_cohort_that_waits() {
    with_databases(
        "groupfleet",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            let three = |first: usize| {
                (first..first + 3)
                    .map(|device| found(device, 0))
                    .collect::<Vec<_>>()
            };
            store(&analytics, 0, &three(0)).await;
            let first = gather(&analytics, &config).await;
            assert_eq!((first.len(), first[0].notify), (1, true));
            store_of(&analytics, 1, &three(10), "2.0").await;
            let more = gather(&analytics, &config).await;
            let series: Vec<_> = more.iter().map(|finding| finding.series.as_str()).collect();
            assert_eq!(
                series,
                ["cohort firmware=2.0 model=band-1/heart_rate", "fleet/heart_rate"]
            );
            let fleet = more[1].id.to_string();
            let rows = sqlx::query(
                "select notify, group_id::text from findings where kind = 'fleet' order by series",
            )
            .fetch_all(&mut admin)
            .await
            .expect("read");
            let rows: Vec<(bool, Option<String>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            assert_eq!(
                rows,
                [(false, Some(fleet.clone())), (false, Some(fleet)), (true, None)]
            );
            let notified = "select count(*) from findings where notify";
            assert_eq!(
                number(&mut admin, notified).await,
                1,
                "one finding speaks for all"
            );
        },
    )
    .await;
}

/// The relay sends due findings while others are gathered: each document is sent once, equal to its row.
#[tokio::test]
async fn a_concurrent_relay_takes_due_findings() {
    with_databases(
        "groupbeside",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            let all: Vec<_> = (0..60).map(|device| found(device, (device % 5) as i64)).collect();
            let relay = async {
                let (mut told, mut number) = (Vec::new(), 0);
                while told.len() < 60 {
                    admin
                        .execute("update outbox set due = now()")
                        .await
                        .expect("time passes");
                    if let Some(batch) = analytics.outbox_take(7).await.expect("asked") {
                        number += 1;
                        assert_eq!(batch.number, number);
                        told.extend(
                            batch
                                .rows
                                .iter()
                                .map(|row| (row.id, row.notify))
                                .filter(|(id, _)| all.iter().any(|finding| finding.id.as_bytes() == id)),
                        );
                        analytics.outbox_sent(number).await.expect("told");
                    }
                }
                told
            };
            let write = async {
                for some in all.chunks(4) {
                    store(&analytics, 0, some).await;
                    gather(&analytics, &config).await;
                }
            };
            let (mut told, ()) = tokio::join!(relay, write);
            told.sort_unstable();
            told.dedup_by_key(|(id, _)| *id);
            assert_eq!(told.len(), 60, "each finding once");
            let rows = sqlx::query("select uuid_send(id), notify from findings where kind = 'anomaly'")
                .fetch_all(&mut admin)
                .await
                .expect("read");
            let mut stored: Vec<([u8; 16], bool)> = rows
                .iter()
                .map(|row| (row.get::<&[u8], _>(0).try_into().expect("16 bytes"), row.get(1)))
                .collect();
            stored.sort_unstable();
            assert_eq!(told, stored, "the topic equals the table");
        },
    )
    .await;
}

/// More findings than one run reads. All of them wait in the outbox, and nothing else does.
#[tokio::test]
async fn findings_beyond_one_runs_limit_are_silenced_by_the_next_run() {
    with_databases(
        "groupmany",
        |_| {},
        |config| async move {
            let (analytics, mut admin) = (analytics(&config).await, superuser(&config).await);
            store(&analytics, 0, &[found(0, 1)]).await;
            // Copies of the first finding for as many devices.
            admin
                .execute(
                    "create temporary table many as
                         select md5(n::text)::uuid as id, lpad(n::text, 22, '0') as device from generate_series(1, 59999) as n;
                     insert into device_version
                         select device, v.since, v.firmware, v.model, 0, 0 from many cross join
                             (select since, firmware, model from device_version) v;
                     insert into findings
                         select one.* from findings f cross join many
                         cross join jsonb_populate_record(f, jsonb_build_object('id', many.id, 'device', many.device)) one;
                     insert into outbox (time, id, key, document, due)
                         select time, id, series, convert_to(document::text, 'UTF8'), now() + interval '1 hour'
                         from findings join many using (id);
                     drop table many",
                )
                .await
                .expect("inserted");
            let waiting = "select count(*) from outbox where convert_from(document, 'UTF8') like '%\"notify\":true%'";
            assert_eq!(number(&mut admin, waiting).await, 60_000);
            let groups = gather(&analytics, &config).await;
            assert_eq!(groups.len(), 1);
            assert!(number(&mut admin, waiting).await > 1, "there must be more findings than one run reads");
            assert_eq!(gather(&analytics, &config).await, [], "the same group");
            assert_eq!(number(&mut admin, waiting).await, 1, "only the group's own");
        },
    )
    .await;
}
