//! Faults: a killed backend, a full disk, an exhausted pool, a server that is not running.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pulsegate::config::Config;
use pulsegate::io::postgres::{DatabaseError, WriteError};
use pulsegate::io::timescale::{Analytics, Claim};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::fixture::{TOPIC, analytics, batch, finding, number, readings, stored, superuser, with_databases};
use pulsegate_testkit::skip::{Need, skip};

const PATIENCE: Duration = Duration::from_secs(60);

/// Kills the backend that copies readings, as soon as there is one.
async fn kill_the_copy(admin: &mut PgConnection) {
    let began = Instant::now();
    loop {
        let killed = number(
            admin,
            "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and state = 'active' and query like 'COPY readings%'",
        )
        .await;
        if killed > 0 {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "no backend is copying");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_backend_killed_in_mid_copy_leaves_nothing_and_the_batch_goes_in_once() {
    with_databases(
        "killed",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let mut admin = superuser(&config).await;
            let mut claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            // Copying takes long enough that the kill never comes too late.
            const READINGS: usize = 200_000;
            for round in 0..3_i64 {
                let sent = readings(round * READINGS as i64, READINGS);
                let written = pulsegate::io::timescale::Batch {
                    findings: &[finding(round)],
                    ..batch(&claim, &sent)
                };
                let (failed, ()) = tokio::join!(analytics.write(&written), kill_the_copy(&mut admin));
                let failed = failed.expect_err("killed");
                assert!(
                    matches!(failed, WriteError::Unreachable(_)),
                    "the failure is temporary: {failed}"
                );
                let before = round * READINGS as i64;
                assert_eq!(
                    stored(&mut admin).await,
                    (before, before),
                    "nothing of the batch is stored"
                );
                analytics.write(&written).await.expect("the same batch again");
                claim = Claim {
                    next: Some(written.next),
                    ..claim
                };
            }
            assert_eq!(
                stored(&mut admin).await,
                (3 * READINGS as i64, 3 * READINGS as i64)
            );
            assert_eq!(number(&mut admin, "select count(*) from outbox").await, 3);
            assert_eq!(
                number(&mut admin, "select next from sink_offset").await,
                3 * READINGS as i64
            );
        },
    )
    .await;
}

#[tokio::test]
async fn a_write_that_is_given_up_leaves_nothing_and_spoils_no_connection() {
    let settings = |config: &mut Config| {
        config.timescale.connections_min = 1;
        config.timescale.connections_max = 1;
    };
    with_databases("given_up", settings, |config| async move {
        let analytics = analytics(&config).await;
        let mut admin = superuser(&config).await;
        let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
        let mut lock = admin.begin().await.expect("begun");
        lock.execute("lock table readings").await.expect("locked");
        let sent = readings(0, 10);
        let written = batch(&claim, &sent);
        // The caller's own deadline: the future is dropped in the middle of the COPY.
        let gave_up = tokio::time::timeout(Duration::from_millis(300), analytics.write(&written)).await;
        assert!(gave_up.is_err(), "the write waits for the lock");
        lock.rollback().await.expect("unlocked");
        analytics.write(&written).await.expect("a usable connection");
        assert_eq!(stored(&mut admin).await, (10, 10));
    })
    .await;
}

#[tokio::test]
async fn waiting_for_a_connection_is_limited_and_counted() {
    let settings = |config: &mut Config| {
        config.timescale.connections_min = 1;
        config.timescale.connections_max = 1;
        config.timescale.acquire_time_max_ms = 200;
    };
    with_databases("exhausted", settings, |config| async move {
        let analytics = analytics(&config).await;
        let mut admin = superuser(&config).await;
        let (claim, other) = (
            analytics.claim(TOPIC, 3).await.expect("claimed"),
            analytics.claim(TOPIC, 4).await.expect("claimed"),
        );
        let (sent, more) = (readings(0, 10), readings(100, 10));
        let second = pulsegate::io::timescale::Batch {
            partition: 4,
            ..batch(&other, &more)
        };
        let mut lock = admin.begin().await.expect("begun");
        lock.execute("lock table readings").await.expect("locked");
        let first = batch(&claim, &sent);
        let waits = async {
            let failed = analytics
                .write(&second)
                .await
                .expect_err("the only connection is busy");
            assert!(matches!(failed, WriteError::Unreachable(_)), "{failed}");
            let pool = analytics.pool();
            assert_eq!((pool.used, pool.idle, pool.max, pool.timed_out), (1, 0, 1, 1));
            assert!(
                pool.waited >= Duration::from_millis(200) && pool.acquired >= 4,
                "{pool:?}"
            );
            lock.rollback().await.expect("unlocked");
        };
        let (written, ()) = tokio::join!(analytics.write(&first), waits);
        written.expect("it held its connection all the time");
        analytics
            .write(&second)
            .await
            .expect("a connection is free again");
        assert_eq!(stored(&mut admin).await, (20, 20));
    })
    .await;
}

#[tokio::test]
async fn a_stopped_server_is_unreachable_and_a_missing_login_is_reported() {
    let mut config = Config::default();
    config.timescale.analytics_url = "postgres://nobody:secret@127.0.0.1:9/none".into();
    config.timescale.acquire_time_max_ms = 300;
    let fault = Analytics::connect(&config.timescale_settings())
        .await
        .err()
        .expect("nobody listens on the discard port");
    assert!(matches!(fault, DatabaseError::Unreachable { .. }), "{fault}");
    assert!(!fault.to_string().contains("secret"), "{fault}");

    config.timescale.analytics_url = Default::default();
    config.databases.logins_directory = "/nonexistent".into();
    let fault = Analytics::connect(&config.timescale_settings())
        .await
        .err()
        .expect("no login");
    assert!(fault.to_string().contains("pulsegate topology apply"), "{fault}");
}

/// A file system of a few megabytes for the server's files; unmounted on drop.
struct SmallDisk {
    outside: PathBuf,
    inside: String,
}

impl SmallDisk {
    /// `None` if the test may be skipped because the server's files are not accessible or nothing may be mounted.
    async fn mount(admin: &mut PgConnection, name: &str) -> Option<Self> {
        let pid = number(admin, "select pg_backend_pid()::bigint").await;
        let data: String = sqlx::query_scalar("show data_directory")
            .fetch_one(admin)
            .await
            .expect("a superuser can read it");
        // A server in a chroot has its own view of paths.
        let root = fs::read_link(format!("/proc/{pid}/root")).unwrap_or_default();
        let within = |path: &str| root.join(path.trim_start_matches('/'));
        let Ok(owner) = fs::metadata(within(&data)) else {
            skip(
                Need::Mount,
                "the disk-full test needs the server's files here, and root to reach them",
            );
            return None;
        };
        let inside = format!("{}_{name}", data.trim_end_matches('/'));
        let outside = within(&inside);
        fs::create_dir_all(&outside).expect("root makes directories");
        let options = format!("size=12m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        if !mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], &outside) {
            fs::remove_dir(&outside).expect("just made");
            skip(
                Need::Mount,
                "the disk-full test mounts a small tmpfs, which failed",
            );
            return None;
        }
        Some(Self { outside, inside })
    }

    fn grow(&self) {
        assert!(mount(&["-o", "remount,size=1g", "tmpfs"], &self.outside), "grown");
    }
}

fn mount(arguments: &[&str], path: &Path) -> bool {
    Command::new("mount")
        .args(arguments)
        .arg(path)
        .output()
        .is_ok_and(|output| output.status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may still be using it for a moment.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.outside).status();
        drop((unmounted, fs::remove_dir(&self.outside)));
    }
}

#[tokio::test]
async fn a_full_disk_stores_nothing_of_the_batch_and_all_of_it_when_there_is_space_again() {
    with_databases(
        "full",
        |_| {},
        |config| async move {
            let mut admin = superuser(&config).await;
            let name = format!("{}small", config.databases.prefix);
            let Some(disk) = SmallDisk::mount(&mut admin, &name).await else {
                return;
            };
            let run = |sql: String| sqlx::raw_sql(AssertSqlSafe(sql));
            admin
                .execute(run(format!(
                    "create tablespace \"{name}\" location '{}'",
                    disk.inside
                )))
                .await
                .expect("made");
            admin
                .execute(run(format!("select attach_tablespace('{name}', 'readings')")))
                .await
                .expect("attached");
            let analytics = analytics(&config).await;
            let mut claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            let sent = readings(0, 1_000);
            analytics
                .write(&batch(&claim, &sent))
                .await
                .expect("the batch fits");
            claim.next = Some(1_000);

            let sent = readings(1_000, 100_000);
            let full = analytics
                .write(&batch(&claim, &sent))
                .await
                .expect_err("the batch exceeds the disk");
            assert!(
                matches!(full, WriteError::Unreachable(_)),
                "the failure is temporary: {full}"
            );
            assert!(full.to_string().contains("No space left on device"), "{full}");
            assert_eq!(
                stored(&mut admin).await,
                (1_000, 1_000),
                "nothing of the batch is stored"
            );
            assert_eq!(number(&mut admin, "select next from sink_offset").await, 1_000);

            disk.grow();
            analytics
                .write(&batch(&claim, &sent))
                .await
                .expect("there is space");
            assert_eq!(stored(&mut admin).await, (101_000, 101_000));

            // A tablespace outlives its database: empty and drop it while the disk exists.
            analytics.close().await;
            admin
                .execute("drop table readings cascade")
                .await
                .expect("dropped");
            admin
                .execute(run(format!("drop tablespace \"{name}\"")))
                .await
                .expect("dropped");
        },
    )
    .await;
}
