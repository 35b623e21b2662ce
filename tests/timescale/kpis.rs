//! Settled records, each counted once; the KPIs computed from them; and the job that detects shifts.

use jiff::Timestamp;
use pulsegate::config::Config;
use pulsegate::io::postgres::WriteError;
use pulsegate::io::postgres::offsets::{Position, Step};
use pulsegate::io::timescale::{Operations, Ran, SettledBatch};
use pulsegate::roles::watch::jobs::Jobs;
use pulsegate_detect::kpi::{Count, Settled};
use pulsegate_ledger::outcome::{Outcome, Reason};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

use crate::fixture::{analytics, has_our_jobs, jobs, now_ms, number, superuser, with_databases};
use pulsegate_testkit::corner::admin;

const LEDGER: &str = "biometrics.ledger";

/// This many clean records and one stale one in each of these minutes, each with a latency of 40 ms.
fn settled(minutes: impl IntoIterator<Item = i64>, clean: i64) -> Settled {
    let mut settled = Settled::default();
    for minute in minutes {
        let count = |records| Count {
            records,
            waited_ms: 40 * records,
        };
        settled.add_count(minute, Outcome::Clean, count(clean));
        settled.add_count(minute, Outcome::Rejected(Reason::Stale), count(1));
    }
    settled
}

async fn count(
    operations: &Operations,
    partition: i32,
    at: Position,
    next: i64,
    settled: &Settled,
) -> Result<Position, WriteError> {
    let step = Step {
        topic: LEDGER,
        partition,
        epoch: at.epoch,
        expected: at.next,
        next,
    };
    operations.count(&SettledBatch { step, settled }).await?;
    Ok(Position {
        next: Some(next),
        ..at
    })
}

async fn operations(config: &Config) -> Operations {
    Operations::connect(&config.timescale_settings())
        .await
        .expect("the database is there")
}

/// Stored values of a KPI, in order of time.
async fn kpi(admin: &mut PgConnection, kpi: &str, label: &str) -> Vec<(f64, i64)> {
    let rows =
        sqlx::query("select value, records from kpi_minute where kpi = $1 and label = $2 order by minute")
            .bind(kpi)
            .bind(label)
            .fetch_all(admin)
            .await
            .expect("read");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn settled_records_are_counted_once_also_when_they_arrive_late() {
    let test = |config: Config| async move {
        let (operations, mut admin) = (operations(&config).await, admin(&config, "operations").await);
        let minute = now_ms() / 60_000 - 10;
        let claim = operations.claim(LEDGER, 0).await.expect("claimed");
        assert_eq!((claim.next, claim.epoch), (None, 1));
        let first = settled([minute, minute + 1], 99);
        let position = count(&operations, 0, claim, 20, &first).await.expect("counted");
        count(&operations, 0, claim, 20, &first)
            .await
            .expect("the repeated batch is recognised");
        assert_eq!(operations.compute_kpis().await.expect("computed"), 2 * (3 + 14));
        assert_eq!(
            kpi(&mut admin, "throughput", "").await,
            [(100.0, 100), (100.0, 100)]
        );
        assert_eq!(
            kpi(&mut admin, "reject_rate", "stale").await,
            [(0.01, 100), (0.01, 100)]
        );
        assert_eq!(
            kpi(&mut admin, "reject_rate", "rate_limited").await,
            [(0.0, 100), (0.0, 100)]
        );
        assert_eq!(
            kpi(&mut admin, "latency_seconds", "").await,
            [(0.04, 100), (0.04, 100)]
        );
        assert_eq!(operations.compute_kpis().await.expect("nothing is due"), 0);

        // Another lane is late for the first minute: only that minute is computed again.
        let other = operations.claim(LEDGER, 1).await.expect("claimed");
        count(&operations, 1, other, 5, &settled([minute], 299))
            .await
            .expect("counted");
        assert_eq!(operations.compute_kpis().await.expect("computed"), 3 + 14);
        assert_eq!(
            kpi(&mut admin, "throughput", "").await,
            [(400.0, 400), (100.0, 100)]
        );
        assert_eq!(
            kpi(&mut admin, "reject_rate", "stale").await,
            [(0.005, 400), (0.01, 100)]
        );

        // A later claim owns the lane; nothing of the older claim's batch is stored.
        let newer = operations.claim(LEDGER, 0).await.expect("claimed");
        assert_eq!((newer.next, newer.epoch), (Some(20), 2));
        let refused = count(&operations, 0, position, 30, &settled([minute], 7)).await;
        assert!(
            matches!(refused, Err(WriteError::Fenced { partition: 0, .. })),
            "{refused:?}"
        );
        let total = "select sum(records)::bigint from settled_minute";
        assert_eq!(number(&mut admin, total).await, 500);

        // Computed from scratch, every minute has the same KPIs.
        let digest =
            "select hashtext(string_agg(k::text, ',' order by minute, kpi, label))::bigint from kpi_minute k";
        let before = number(&mut admin, digest).await;
        admin
            .execute("truncate kpi_minute; update settled_minute set due = true")
            .await
            .expect("truncated");
        assert_eq!(operations.compute_kpis().await.expect("computed"), 2 * (3 + 14));
        assert_eq!(number(&mut admin, digest).await, before);
    };
    with_databases("settled", |_| {}, test).await;
}

/// Eight lanes of two processes add to the same minutes while both compute their KPIs: no process blocks another
/// forever, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lanes_that_count_the_same_minutes_at_once_lose_nothing() {
    let test = |config: Config| async move {
        let processes = [operations(&config).await, operations(&config).await];
        let first = now_ms() / 60_000 - 60;
        let mut tasks = tokio::task::JoinSet::new();
        for lane in 0..8 {
            let operations = processes[lane as usize % 2].clone();
            tasks.spawn(async move {
                let mut at = operations.claim(LEDGER, lane).await.expect("claimed");
                for batch in 1..=30 {
                    let minutes = first + batch % 5..first + batch % 5 + 5;
                    at = count(&operations, lane, at, batch * 10, &settled(minutes, 9))
                        .await
                        .expect("counted");
                }
            });
        }
        for operations in processes.clone() {
            tasks.spawn(async move {
                for _ in 0..20 {
                    operations.compute_kpis().await.expect("computed");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("no task failed");
        }
        processes[0].compute_kpis().await.expect("computed");
        let mut admin = admin(&config, "operations").await;
        let throughput = kpi(&mut admin, "throughput", "").await;
        assert_eq!(
            throughput.iter().map(|(value, _)| value).sum::<f64>(),
            8.0 * 30.0 * 5.0 * 10.0
        );
        assert!(
            kpi(&mut admin, "reject_rate", "stale")
                .await
                .iter()
                .all(|(value, _)| (value - 0.1).abs() < 1e-9)
        );
    };
    with_databases("lanes", |_| {}, test).await;
}

/// Three days of minutes up to now: reject reasons whose rates vary around 2 %, one of which rises to 5 % at `jump`; a
/// throughput that falls at night; and two firmwares of one model, one of which reads 3 beats more from `jump` on.
async fn three_days(config: &Config, jump: i64) {
    let noise = "(hashtext(minute::text || label) % 1000) / 1000.0";
    let kpis = format!(
        "insert into kpi_minute
         select to_timestamp(minute * 60.0), 'reject_rate', label,
                0.02 + 0.005 * {noise} + case when label = 'stale' and minute >= {jump} then 0.03 else 0 end, 1000
         from generate_series({jump} - 3 * 1440, {jump} + 120) minute, unnest(array['stale', 'unknown_key', 'bad_signature']) label
         union all
         select to_timestamp(minute * 60.0), 'throughput', label,
                1000 + 30 * {noise} - case when (minute + 700 - {jump}) % 1440 < 400 then 500 else 0 end, 1000
         from generate_series({jump} - 3 * 1440, {jump} + 120) minute, unnest(array['']) label"
    );
    admin(config, "operations")
        .await
        .execute(AssertSqlSafe(kpis))
        .await
        .expect("inserted");
    let fleet = format!(
        "insert into fleet_minute
         select to_timestamp(minute * 60.0), 'heart_rate', label, 'band', good, good, good * mean, 40, 90, 12
         from generate_series({jump} - 3 * 1440, {jump} + 120) minute,
              (values ('1', 900), ('2', 300)) f (label, good),
              lateral (select 65 + 10 * sin(minute / 229.0) + {noise}
                              + case when label = '2' and minute >= {jump} then 3 else 0 end) m (mean)"
    );
    superuser(config)
        .await
        .execute(AssertSqlSafe(fleet))
        .await
        .expect("inserted");
}

/// Series, whether it notifies, start, direction and kind of the stored findings.
async fn found(admin: &mut PgConnection) -> Vec<(String, bool, i64, String)> {
    let rows = sqlx::query(
        "select series, notify, (extract(epoch from time) / 60)::bigint, direction, kind from findings order by series, time",
    )
    .fetch_all(admin)
    .await
    .expect("read");
    assert!(rows.iter().all(|row| row.get::<&str, _>(4) == "regression"));
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect()
}

#[tokio::test]
async fn a_reject_rate_that_jumps_is_found_named_timed_and_stored_once() {
    let test = |config: Config| async move {
        let analytics = analytics(&config).await;
        if !has_our_jobs(&analytics) {
            return;
        }
        let now: Timestamp = "2026-09-21T15:20:00Z".parse().expect("a time");
        // Two hours have passed since, of which the last is not judged yet.
        let jump = now.as_second() / 60 - 120;
        three_days(&config, jump).await;
        let mut admin = superuser(&config).await;
        let (one, other) = (jobs(&config, &analytics), jobs(&config, &analytics));

        let lock = analytics
            .lock("shifts")
            .await
            .expect("asked")
            .expect("no other process runs the job");
        assert_eq!(other.judge_shifts(now).await.expect("asked"), Ran::Elsewhere);
        drop(lock);
        // A judged minute is still to be computed, as after an outage of the database.
        let mut operations = pulsegate_testkit::corner::admin(&config, "operations").await;
        operations
            .execute(AssertSqlSafe(format!(
                "insert into settled_minute select to_timestamp(minute * 60.0), 'clean', 1, 0 from unnest(array[{}, {}]) m (minute)",
                jump + 30,
                jump + 90
            )))
            .await
            .expect("inserted");
        assert_eq!(until_it_runs(&one, now).await, Ran::Done(0));
        assert_eq!(found(&mut admin).await, []);
        let computed = format!(
            "update settled_minute set due = false where minute = to_timestamp({} * 60.0)",
            jump + 30
        );
        operations
            .execute(AssertSqlSafe(computed))
            .await
            .expect("updated");
        let Ran::Done(stored) = until_it_runs(&one, now).await else {
            panic!("it ran")
        };
        let all = found(&mut admin).await;
        assert_eq!(all.len() as u64, stored);
        let told: Vec<_> = all.iter().filter(|(_, told, ..)| *told).collect();
        let names: Vec<_> = told
            .iter()
            .map(|(series, _, _, side)| (series.as_str(), side.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("cohort firmware=2 model=band/heart_rate", "above"),
                ("kpi/reject_rate/stale", "above")
            ],
            "{all:?}"
        );
        for (series, _, minute, _) in told {
            assert!(
                (minute - jump).abs() <= 5,
                "{series} from minute {minute}, not {jump}"
            );
        }
        let rhythm = all
            .iter()
            .filter(|(series, ..)| series == "kpi/throughput")
            .count();
        assert!(rhythm >= 2, "stored without notification: {all:?}");

        // Again, by another process, and an hour later: nothing new.
        assert_eq!(until_it_runs(&other, now).await, Ran::Done(0));
        let later = now + jiff::SignedDuration::from_mins(60);
        assert_eq!(until_it_runs(&other, later).await, Ran::Done(0));
        assert_eq!(found(&mut admin).await, all);
        assert_eq!(
            number(&mut admin, "select count(*) from outbox").await,
            i64::try_from(stored).expect("few")
        );
    };
    with_databases("shifts", |_| {}, test).await;
}

/// The lock ends with its connection, which closes asynchronously.
async fn until_it_runs(jobs: &Jobs, now: Timestamp) -> Ran {
    let began = std::time::Instant::now();
    loop {
        let ran = jobs.judge_shifts(now).await.expect("run");
        if ran != Ran::Elsewhere {
            return ran;
        }
        assert!(began.elapsed().as_secs() < 30, "still locked");
        tokio::task::yield_now().await;
    }
}
