//! Both editions of TimescaleDB: the stack's server runs one of them. The other is the Community edition in PGlite
//! (PostgreSQL in WebAssembly), which supports all of it except COPY and background jobs; `make setup` fetches it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pulsegate::config::Config;
use pulsegate::io::timescale::edition;
use pulsegate::io::timescale::{Analytics, schema};
use pulsegate::io::topology;
use pulsegate::telemetry::metrics::Edition;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor, PgConnection, Row};

use crate::fixture::{TOPIC, analytics, batch, number, readings, superuser, version, with_databases};
use pulsegate_testkit::skip::{Need, skip};

/// A process that serves the Community edition.
struct Community {
    process: Child,
    connection: PgConnection,
}

impl Community {
    async fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let packages =
            std::env::var_os("PULSEGATE_NODE").map_or_else(|| root.join(".stack/node"), PathBuf::from);
        assert!(
            packages.join("node_modules").exists(),
            "{}/node_modules is missing: run `make setup` first",
            packages.display()
        );
        let mut process = Command::new("node")
            .arg(root.join("tests/timescale/community.mjs"))
            .arg(packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node runs: `make setup` installs it");
        let mut address = String::new();
        let output = process.stdout.take().expect("piped");
        BufReader::new(output)
            .read_line(&mut address)
            .expect("it prints the address it listens on");
        let url = format!(
            "postgres://postgres:password@{}/postgres?sslmode=disable",
            address.trim()
        );
        let options: PgConnectOptions = url.parse().expect("an address");
        let connection = options.connect().await.expect("it listens");
        Self { process, connection }
    }

    /// Starts it with the common migrations applied.
    async fn with_tables() -> Self {
        let mut started = Self::start().await;
        schema::COMMON
            .run(&mut started.connection)
            .await
            .expect("applied");
        started
    }
}

impl Drop for Community {
    fn drop(&mut self) {
        drop((self.process.kill(), self.process.wait()));
    }
}

/// The content of `fleet_minute`, as lines.
async fn minutes(connection: &mut PgConnection) -> Vec<String> {
    let rows = sqlx::query(
        "select concat_ws(' ', minute at time zone 'UTC', metric, firmware, model, readings, good,
                          coalesce(round(total::numeric, 6)::text, '-'), coalesce(least::text, '-'),
                          coalesce(greatest::text, '-'), coalesce(round(deviation::numeric, 6)::text, '-'))
         from fleet_minute order by minute, metric, firmware",
    )
    .fetch_all(connection)
    .await
    .expect("read");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn columns(connection: &mut PgConnection, table: &str) -> Vec<(String, String)> {
    sqlx::query_as(
        "select column_name::text, data_type::text from information_schema.columns where table_name = $1
         order by ordinal_position",
    )
    .bind(table)
    .fetch_all(connection)
    .await
    .expect("read")
}

#[tokio::test]
async fn both_editions_roll_up_the_same_readings_to_the_same_minutes() {
    with_databases(
        "alike",
        |_| {},
        |config| async move {
            let mut admin = superuser(&config).await;
            let analytics = analytics(&config).await;
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            let mut sent = readings(0, 1_000);
            for (n, reading) in sent.iter_mut().enumerate() {
                if n.is_multiple_of(3) {
                    reading.version = version("1.1");
                }
            }
            (sent[1].value, sent[2].value) = (f64::MAX, f64::NAN);
            analytics.write(&batch(&claim, &sent)).await.expect("written");
            analytics.roll_up().await.expect("rolled up");

            let mut community = Community::with_tables().await;
            let other = &mut community.connection;
            schema::complete(other, &config.timescale, &mut Vec::new())
                .await
                .expect("completed");
            for table in [
                "readings",
                "findings",
                "fleet_minute",
                "rollout",
                "rollout_device",
                "rollout_hour",
                "rollout_median",
            ] {
                assert_eq!(
                    columns(other, table).await,
                    columns(&mut admin, table).await,
                    "{table}"
                );
            }
            // The same rows; as text, because JSON cannot express NaN and infinities.
            let rows: Vec<String> = sqlx::query_scalar("select readings::text from readings")
                .fetch_all(&mut admin)
                .await
                .expect("read");
            // PGlite's server expects a message within one read of its socket.
            for some in rows.chunks(100) {
                sqlx::query("insert into readings select (r::readings).* from unnest($1::text[]) as r")
                    .bind(some)
                    .execute(&mut *other)
                    .await
                    .expect("inserted");
            }
            let expected = minutes(&mut admin).await;
            assert!(expected.len() > 30, "{expected:?}");
            assert_eq!(minutes(other).await, expected, "computed on read");
            other
                .execute("call refresh_continuous_aggregate('fleet_minute', null, null)")
                .await
                .expect("stored");
            assert_eq!(minutes(other).await, expected, "stored");

            // The columnstore loses nothing and takes late readings.
            other
                .execute("select compress_chunk(c) from show_chunks('readings') c")
                .await
                .expect("compressed");
            assert_eq!(number(other, "select count(*) from readings").await, 1_000);
            let late = "insert into readings select * from readings where origin_offset = 5";
            other.execute(late).await.expect("inserted");
            let one = format!(
                "select count(*) from readings where device = '{:022}' and metric = 'heart_rate'",
                5
            );
            assert_eq!(number(other, &one).await, 11);
        },
    )
    .await;
}

#[tokio::test]
async fn the_community_edition_keeps_to_the_configured_policies() {
    let mut community = Community::with_tables().await;
    let connection = &mut community.connection;
    let mut config = Config::default().timescale;
    let mut changes = Vec::new();
    schema::complete(connection, &config, &mut changes)
        .await
        .expect("completed");
    assert!(
        changes[0].contains("Community") || changes[0].contains("community"),
        "{changes:?}"
    );
    let agree = |found: Vec<schema::Property>| {
        for (name, declared, live) in found {
            assert_eq!(live, Some(declared), "{name}");
        }
    };
    agree(schema::inspect(connection, &config).await.expect("asked"));
    let mut nothing = Vec::new();
    schema::complete(connection, &config, &mut nothing)
        .await
        .expect("again");
    assert_eq!(nothing, [""; 0]);
    let policies = "select count(*) from timescaledb_information.jobs
                    where proc_name in ('policy_retention', 'policy_compression', 'policy_refresh_continuous_aggregate')";
    assert_eq!(number(connection, policies).await, 5);

    config.readings_days = 30;
    config.chunk_interval_hours = 6;
    let mut changes = Vec::new();
    schema::complete(connection, &config, &mut changes)
        .await
        .expect("changed");
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert!(
        changes.iter().any(|change| change.ends_with("readings 30 d")),
        "{changes:?}"
    );
    agree(schema::inspect(connection, &config).await.expect("asked"));
    assert_eq!(number(connection, policies).await, 5);
}

#[tokio::test]
async fn the_community_edition_takes_over_an_apache_database() {
    let mut community = Community::with_tables().await;
    let connection = &mut community.connection;
    schema::migrations(Edition::Apache)
        .run(&mut *connection)
        .await
        .expect("applied");
    let old = "insert into fleet_minute values (now() - interval '300 days', 'm', '1', 'b', 1, 1, 1, 1, 1, 0);
               insert into readings (time, value, origin_offset, origin_partition, origin_index, quality, device, metric,
                                     unit, firmware, model) values (now(), 1, 0, 0, 0, 0, 'd', 'm', 'u', '1', 'b');";
    connection.execute(old).await.expect("inserted");

    let config = Config::default().timescale;
    let (_, declared, live) = schema::inspect(connection, &config)
        .await
        .expect("asked")
        .remove(0);
    assert_eq!(
        (declared.as_str(), live.as_deref()),
        ("community", Some("apache")),
        "the difference is reported"
    );
    let mut changes = Vec::new();
    schema::complete(connection, &config, &mut changes)
        .await
        .expect("taken over");
    for (name, declared, live) in schema::inspect(connection, &config).await.expect("asked") {
        assert_eq!(live, Some(declared), "{name}");
    }
    assert_eq!(
        number(connection, "select count(*) from fleet_minute").await,
        1,
        "recomputed from the readings"
    );
    assert_eq!(
        number(connection, "select count(*) from fleet_minute_apache").await,
        1,
        "minutes older than the readings"
    );
}

#[tokio::test]
async fn the_way_back_is_refused_by_name() {
    with_databases(
        "back",
        |_| {},
        |config| async move {
            let mut admin = superuser(&config).await;
            if edition::ask(&mut admin).await.expect("asked") == Edition::Community {
                skip(
                    Need::Apache,
                    "the server runs the Community edition, and there is no way back to refuse",
                );
                return;
            }
            admin
                .execute("update edition set name = 'community'")
                .await
                .expect("as if");
            let refused = Analytics::connect(&config.timescale_settings())
                .await
                .err()
                .expect("not the server's edition")
                .to_string();
            assert!(
                refused.contains("apache edition") && refused.contains("made for the community edition"),
                "{refused}"
            );
            let refused = topology::apply(&config.topology_settings())
                .await
                .expect_err("the columnstore would be lost")
                .to_string();
            assert!(refused.contains("timescaledb.license = 'timescale'"), "{refused}");
            let items = topology::inspect(&config.topology_settings())
                .await
                .expect("the stack answers");
            let difference = items
                .iter()
                .find(|item| !item.agrees())
                .map(ToString::to_string)
                .expect("seen");
            assert!(
                difference.contains("edition: found community, declared apache"),
                "{difference}"
            );
        },
    )
    .await;
}
