//! The rollup, retention, the outbox, KPIs, and the privileges of the database roles.

use pulsegate::io::postgres::logins;
use pulsegate::io::timescale::{JobRun, Kpi, Operations, OutboxBatch, Ran};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row};

use crate::fixture::{
    TOPIC, analytics, batch, finding, has_our_jobs, now_ms, number, readings, superuser, version,
    with_databases,
};
use pulsegate_testkit::corner::admin;

/// Minutes of `fleet_minute` that differ from those computed from all readings.
const WRONG_MINUTES: &str = "
with expected as (
    select time_bucket('1 minute', time) as minute, metric, firmware, model, count(*) as readings,
           count(*) filter (where quality = 0) as good, sum(value) filter (where quality = 0) as total,
           max(value) filter (where quality = 0) as greatest
    from readings group by 1, 2, 3, 4
)
select count(*) from expected full join fleet_minute f using (minute, metric, firmware, model)
where (f.readings, f.good, f.greatest) is distinct from (expected.readings, expected.good, expected.greatest)
   or abs(f.total - expected.total) > 1e-6";

#[tokio::test]
async fn the_rollup_recomputes_each_minute_with_new_readings() {
    with_databases(
        "rollup",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            if !has_our_jobs(&analytics) {
                return;
            }
            let mut admin = superuser(&config).await;
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            let first = readings(0, 3_000);
            analytics.write(&batch(&claim, &first)).await.expect("written");
            let Ran::Done(rows) = analytics.roll_up().await.expect("rolled up") else {
                panic!("no other process runs the job")
            };
            assert!((30..=32).contains(&rows), "half an hour: {rows}");
            assert_eq!(number(&mut admin, WRONG_MINUTES).await, 0);
            assert_eq!(
                analytics.roll_up().await.expect("again"),
                Ran::Done(0),
                "nothing is due"
            );

            // Late readings, also with another firmware, change minutes that were already rolled up.
            let claim = pulsegate::io::timescale::Claim {
                next: Some(3_000),
                ..claim
            };
            let mut late = readings(3_000, 300);
            for reading in &mut late[..150] {
                reading.version = version("1.1");
            }
            analytics.write(&batch(&claim, &late)).await.expect("written");
            assert!(
                number(&mut admin, WRONG_MINUTES).await > 0,
                "the test would see a difference"
            );
            analytics.roll_up().await.expect("rolled up");
            assert_eq!(number(&mut admin, WRONG_MINUTES).await, 0);
            assert_eq!(
                number(&mut admin, "select sum(readings)::bigint from fleet_minute").await,
                3_300
            );
            assert_eq!(
                number(&mut admin, "select count(distinct firmware) from fleet_minute").await,
                2
            );
        },
    )
    .await;
}

#[tokio::test]
async fn one_process_at_a_time_runs_a_job() {
    with_databases(
        "locked",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            if !has_our_jobs(&analytics) {
                return;
            }
            let mut admin = superuser(&config).await;
            let mut other = admin.begin().await.expect("begun");
            let lock = "select pg_advisory_xact_lock(hashtextextended('pulsegate rollup', 0))";
            other.execute(lock).await.expect("locked");
            assert_eq!(
                analytics.roll_up().await.expect("the job runs elsewhere"),
                Ran::Elsewhere
            );
            other.rollback().await.expect("unlocked");
            assert_eq!(
                analytics.roll_up().await.expect("the job runs here"),
                Ran::Done(0)
            );
        },
    )
    .await;
}

#[tokio::test]
async fn expired_data_are_dropped_in_whole_chunks() {
    let settings = |config: &mut pulsegate::config::Config| {
        config.timescale.readings_days = 2;
        config.timescale.rollups_days = 5;
    };
    with_databases("retention", settings, |config| async move {
        let analytics = analytics(&config).await;
        if !has_our_jobs(&analytics) {
            return;
        }
        let mut admin = superuser(&config).await;
        let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
        let day = 86_400_000;
        let mut sent = readings(0, 30);
        for (n, reading) in sent.iter_mut().enumerate() {
            // As if written at those times: ten readings from now, from three days ago, and from nine days ago.
            let ago = [0, 3 * day, 9 * day][n % 3];
            (reading.time_ms, reading.append_ms) = (now_ms() - ago, now_ms() - ago);
        }
        analytics.write(&batch(&claim, &sent)).await.expect("written");
        admin
            .execute(
                "insert into device_version values ('d', now() - interval '20 days', '1', 'm', 0, 0),
                     ('d', now() - interval '10 days', '2', 'm', 0, 1), ('d', now(), '3', 'm', 0, 2);
                 insert into fleet_minute select now() - n * interval '20 days', 'm', '1', 'm', 1, 1, 1, 1, 1, 0
                     from generate_series(0, 1) n",
            )
            .await
            .expect("inserted");
        let Ran::Done(dropped) = analytics.drop_old().await.expect("dropped") else { panic!("the job ran elsewhere") };
        assert_eq!(dropped, 2 + 1 + 1, "two chunks of readings, one of minutes, one version");
        assert_eq!(number(&mut admin, "select count(*) from readings").await, 10);
        assert_eq!(number(&mut admin, "select count(*) from fleet_minute").await, 1);
        let versions: Vec<String> = sqlx::query_scalar("select firmware from device_version order by since")
            .fetch_all(&mut admin)
            .await
            .expect("read");
        assert_eq!(versions, ["2", "3"], "the version in use at the start of the retained period is kept");
        // A minute whose readings were dropped is not rolled up again to fewer readings.
        analytics.roll_up().await.expect("rolled up");
        assert_eq!(number(&mut admin, "select min(readings) from fleet_minute").await, 1);
    })
    .await;
}

fn ids(batch: &OutboxBatch) -> Vec<[u8; 16]> {
    batch.rows.iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn the_outbox_repeats_a_batch_until_it_is_sent() {
    with_databases(
        "outbox",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            assert_eq!(analytics.outbox_take(2).await.expect("asked"), None);
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            let found: Vec<_> = (0..3).map(finding).collect();
            let written = pulsegate::io::timescale::Batch {
                next: 3,
                findings: &found,
                ..batch(&claim, &[])
            };
            analytics.write(&written).await.expect("written");
            assert_eq!(analytics.outbox_take(2).await.expect("asked"), None, "not due");
            let mut admin = superuser(&config).await;
            admin
                .execute("update outbox set due = now()")
                .await
                .expect("time passes");

            let first = analytics
                .outbox_take(2)
                .await
                .expect("asked")
                .expect("three wait");
            assert_eq!(first.number, 1);
            assert_eq!(ids(&first), [*found[0].id.as_bytes(), *found[1].id.as_bytes()]);
            assert_eq!(first.rows[0].key, found[0].series);
            assert_eq!(first.rows[0].document, found[0].json());
            // After a crash, and whatever was added meanwhile: the same batch under the same number.
            assert_eq!(analytics.outbox_take(100).await.expect("asked"), Some(first));
            assert_eq!(analytics.outbox_sent(1).await.expect("told"), 2);
            assert_eq!(analytics.outbox_sent(1).await.expect("told twice"), 0);
            let second = analytics
                .outbox_take(100)
                .await
                .expect("asked")
                .expect("one waits");
            assert_eq!((second.number, ids(&second)), (2, vec![*found[2].id.as_bytes()]));
            analytics.outbox_sent(2).await.expect("told");
            assert_eq!(analytics.outbox_take(100).await.expect("asked"), None);

            // A rebuild from scratch finds the same again, and sends nothing twice.
            let written = pulsegate::io::timescale::Batch {
                expected: Some(3),
                next: 4,
                ..written
            };
            analytics.write(&written).await.expect("written");
            assert_eq!(analytics.outbox_take(100).await.expect("asked"), None);
        },
    )
    .await;
}

#[tokio::test]
async fn a_recomputed_kpi_replaces_the_stored_one() {
    with_databases(
        "kpis",
        |_| {},
        |config| async move {
            let operations = Operations::connect(&config.timescale_settings())
                .await
                .expect("connected");
            let minute = now_ms() / 60_000;
            let kpi = |minute, label: &str, value| Kpi {
                minute,
                name: "reject_rate",
                label: label.to_owned(),
                value,
                records: 10,
            };
            operations.store_kpis(&[]).await.expect("nothing to store");
            let first = [
                kpi(minute, "stale", 0.1),
                kpi(minute, "stale", 0.2),
                kpi(minute, "", f64::NAN),
            ];
            operations.store_kpis(&first).await.expect("stored");
            operations
                .store_kpis(&[kpi(minute, "stale", 0.3), kpi(minute, "", 0.5)])
                .await
                .expect("stored");
            operations
                .store_kpis(&[kpi(minute - 3_000 * 1_440, "", 0.9)])
                .await
                .expect("stored");
            let mut admin = admin(&config, "operations").await;
            let read = "select label, value from kpi_minute order by minute, label";
            let rows = sqlx::query(read).fetch_all(&mut admin).await.expect("read");
            let values: Vec<(String, f64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            assert_eq!(
                values,
                [
                    (String::new(), 0.9),
                    (String::new(), 0.5),
                    ("stale".to_owned(), 0.3)
                ]
            );
            assert_eq!(operations.drop_old().await.expect("dropped"), 1);

            let run = JobRun {
                name: "rollup",
                started_ms: now_ms(),
                took_ms: 5,
                rows: 7,
                problem: Some("no"),
            };
            operations.job_ran(&run).await.expect("noted");
            operations
                .job_ran(&JobRun { problem: None, ..run })
                .await
                .expect("noted");
            assert_eq!(
                number(
                    &mut admin,
                    "select count(*) from job where problem is null and rows = 7"
                )
                .await,
                1
            );
        },
    )
    .await;
}

#[tokio::test]
async fn the_roles_of_the_analytics_database_do_their_work_and_no_more() {
    with_databases(
        "analysts",
        |_| {},
        |config| async move {
            let claim = analytics(&config).await.claim(TOPIC, 3).await.expect("claimed");
            analytics(&config)
                .await
                .write(&batch(&claim, &readings(0, 10)))
                .await
                .expect("written");
            let login = async |role: &str| -> PgConnection {
                let url = logins::read(&config.databases, role).expect("apply wrote it");
                url.expose()
                    .parse::<PgConnectOptions>()
                    .expect("a URL")
                    .connect()
                    .await
                    .expect("connected")
            };
            let mut grafana = login("grafana_analytics").await;
            assert_eq!(number(&mut grafana, "select count(*) from readings").await, 10);
            let forbidden = [
                "insert into sink_offset values ('t', 0, 0, 9)",
                "delete from findings",
                "select drop_old_chunks('readings', now())",
                "drop table readings",
            ];
            for statement in forbidden {
                let refused = grafana.execute(statement).await.expect_err(statement).to_string();
                assert!(
                    refused.contains("permission denied") || refused.contains("must be owner"),
                    "{refused}"
                );
            }
            let mut watch = login("watch_analytics").await;
            for statement in [
                "select drop_chunks('readings', now())",
                "drop table readings",
                "select drop_old_chunks('device_version', now())",
                "alter table readings set (timescaledb.compress)",
            ] {
                watch.execute(statement).await.expect_err(statement);
            }
        },
    )
    .await;
}
