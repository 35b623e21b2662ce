//! Databases for one test, and test data.

use std::future::Future;
use std::sync::Arc;

use pulsegate::config::Config;
use pulsegate::io::timescale::{Analytics, Batch, Claim, Metric, Name, Reading, Token, Version};
use pulsegate::io::topology;
use pulsegate::roles::watch::jobs::Jobs;
use pulsegate::telemetry::metrics::Edition;
use pulsegate::telemetry::metrics::Metrics;
use pulsegate_detect::anomaly::Direction;
use pulsegate_detect::finding::{Finding, FindingId, Kind, Origin, Severity};
use pulsegate_detect::quality::Metrics as MetricsTable;
use pulsegate_testkit::corner::{Corner, admin, in_a_corner};
use pulsegate_testkit::skip::{Need, skip};
use sqlx::{AssertSqlSafe, PgConnection, Row};

pub const TOPIC: &str = "biometrics.clean";
pub const PARTITION: i32 = 3;
/// The current time: what a test stores lies within the retention period.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Runs `test` with the topology applied.
pub async fn with_databases<F: Future<Output = ()> + 'static>(
    name: &str,
    settings: impl FnOnce(&mut Config),
    test: impl FnOnce(Config) -> F + 'static,
) {
    let mut change = Config::default();
    settings(&mut change);
    in_a_corner(name, |Corner { mut config }| async move {
        config.timescale = change.timescale;
        topology::apply(&config.topology_settings())
            .await
            .expect("applied");
        test(config).await;
    })
    .await;
}

pub async fn analytics(config: &Config) -> Analytics {
    Analytics::connect(&config.timescale_settings())
        .await
        .expect("the database is there")
}

/// The jobs of a watch.
pub fn jobs(config: &Config, analytics: &Analytics) -> Jobs {
    counted_jobs(config, analytics, Arc::default())
}

/// The jobs of a watch that counts into these metrics.
pub fn counted_jobs(config: &Config, analytics: &Analytics, metrics: Arc<Metrics>) -> Jobs {
    let text = std::fs::read_to_string("schemas/metrics.toml").expect("there");
    let table = MetricsTable::parse(&text).expect("a table");
    Jobs::new(analytics.clone(), table, config, metrics)
}

/// Whether the watch runs the recurring jobs on the stack's server; otherwise the test may be skipped.
pub fn has_our_jobs(analytics: &Analytics) -> bool {
    let ours = analytics.edition() == Edition::Apache;
    if !ours {
        skip(
            Need::Apache,
            "the server runs the Community edition, which does this by itself",
        );
    }
    ours
}

/// A superuser session.
pub async fn superuser(config: &Config) -> PgConnection {
    admin(config, "analytics").await
}

pub fn token(device: usize) -> Token {
    Token::new(format!("{device:022}").as_bytes()).expect("digits are letters of base64url")
}

pub fn metric(name: &str, unit: &str) -> Arc<Metric> {
    Arc::new(Metric {
        name: Name::new(name),
        unit: Name::new(unit),
    })
}

pub fn version(firmware: &str) -> Arc<Version> {
    Arc::new(Version {
        firmware: Name::new(firmware),
        model: Name::new("band-1"),
    })
}

/// `count` readings, one per second, of a hundred devices in turn, from number `first` on.
pub fn readings(first: i64, count: usize) -> Vec<Reading> {
    let (metric, version, now) = (metric("heart_rate", "/min"), version("1.0"), now_ms());
    let reading = |n: usize| Reading {
        time_ms: now - 3_600_000 + 1_000 * (n as i64 % 1_800),
        append_ms: now,
        device: token(n % 100),
        metric: Arc::clone(&metric),
        version: Arc::clone(&version),
        value: 60.0 + (n % 40) as f64,
        quality: i16::from(n.is_multiple_of(50)),
        partition: PARTITION,
        offset: first + n as i64,
        index: 0,
    };
    (0..count).map(reading).collect()
}

/// The batch that continues from `claim` with these readings, one per record.
pub fn batch<'a>(claim: &Claim, readings: &'a [Reading]) -> Batch<'a> {
    Batch {
        topic: TOPIC,
        partition: PARTITION,
        epoch: claim.epoch,
        expected: claim.next,
        next: claim.next.unwrap_or(0) + readings.len() as i64,
        readings,
        findings: &[],
        devices: &[],
        snapshot: None,
    }
}

pub fn finding(offset: i64) -> Finding {
    let series = format!("{}/heart_rate", token(1).as_str());
    let origin = Origin {
        partition: PARTITION,
        offset,
        index: 0,
    };
    Finding {
        id: FindingId::new(Kind::Anomaly, &series, origin, "test-1"),
        kind: Kind::Anomaly,
        device: Some(*token(1).bytes()),
        metric: "heart_rate".to_owned(),
        time_ms: now_ms() / 60_000 * 60_000 - 600_000,
        detected_ms: now_ms() / 60_000 * 60_000,
        origin,
        value: Some(140.5),
        unit: "/min".to_owned(),
        expected: Some((55.0, 80.0)),
        direction: Direction::Above,
        effect: Some(5.5),
        surprise: Some(6.25),
        severity: Severity::Medium,
        reason: "far above its range".to_owned(),
        baseline_n: 1_440,
        baseline_age_ms: 86_400_000,
        model: "test-1",
        notify: true,
        group: None,
        change: None,
        cohort: None,
        series,
    }
}

/// The single number that a query returns.
pub async fn number(connection: &mut PgConnection, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query))
        .fetch_one(connection)
        .await
        .unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// Number of readings, and number of distinct origins.
pub async fn stored(connection: &mut PgConnection) -> (i64, i64) {
    let row = sqlx::query(
        "select count(*), count(distinct (origin_partition, origin_offset, origin_index)) from readings",
    )
    .fetch_one(connection)
    .await
    .expect("counted");
    (row.get(0), row.get(1))
}
