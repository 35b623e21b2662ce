//! A corner of the real stack for one test: its own topics, databases, roles and logins, removed afterwards.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};

use pulsegate::config::Config;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, postgres::PgConnectOptions};

/// A test's corner of the stack.
pub struct Corner {
    /// Configuration of the corner. Its login directory lies in the temporary directory for all its files.
    pub config: Config,
}

/// Runs `test` in its own corner and removes the corner, also if the test panics.
pub async fn in_a_corner<F: Future<Output = ()> + 'static>(name: &str, test: impl FnOnce(Corner) -> F) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let corner = Corner::new(name, directory.path());
    let config = corner.config.clone();
    let local = tokio::task::LocalSet::new();
    let test = test(corner);
    let outcome = local
        .run_until(async { tokio::task::spawn_local(test).await })
        .await;
    clean(&config).await;
    if let Err(error) = outcome {
        std::panic::resume_unwind(error.into_panic());
    }
}

impl Corner {
    fn new(name: &str, directory: &Path) -> Self {
        // Two underscores: removing the corner `open` must not remove `open_avro` too.
        let prefix = format!("t{}_{name}__", std::process::id());
        let mut config = Config::default();
        config.kafka.brokers = setting("PULSEGATE_KAFKA__BROKERS");
        config.databases.admin_url = setting("PULSEGATE_STACK_DATABASE_URL").into();
        config.databases.prefix.clone_from(&prefix);
        config.databases.logins_directory = directory.join("logins");
        config.topology.partitions = Some(3);
        let kek = directory.join("kek");
        std::fs::write(&kek, [0xA5; 32]).expect("writable");
        config.kek.source = pulsegate_core::crypto::kek::Source::File;
        config.kek.file = Some(kek);
        for topic in topics(&mut config) {
            *topic = format!("{prefix}{topic}");
        }
        Self { config }
    }
}

fn topics(config: &mut Config) -> [&mut String; 5] {
    let topics = &mut config.topics;
    [
        &mut topics.raw,
        &mut topics.clean,
        &mut topics.deadletter,
        &mut topics.ledger,
        &mut topics.findings,
    ]
}

/// The stack's addresses come from the environment, or from the file that `make up` wrote.
fn setting(name: &str) -> String {
    std::env::var(name).ok().or_else(|| written().remove(name)).unwrap_or_else(|| {
        panic!("{name} is not set and .stack/env does not have it: this test needs the real stack, run `make up`")
    })
}

fn written() -> HashMap<String, String> {
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(".stack/env");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='));
    lines
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
        .collect()
}

/// Connects to a database of the corner as the superuser.
pub async fn admin(config: &Config, database: &str) -> sqlx::PgConnection {
    let options: PgConnectOptions = config.databases.admin_url.expose().parse().expect("a URL");
    let name = format!("{}{database}", config.databases.prefix);
    options
        .database(&name)
        .connect()
        .await
        .expect("the database exists")
}

async fn clean(config: &Config) {
    let options: PgConnectOptions = config.databases.admin_url.expose().parse().expect("a URL");
    let mut root = options.connect().await.expect("the stack is up");
    let like = format!("{}%", config.databases.prefix.replace('_', "\\_"));
    let databases: Vec<String> =
        sqlx::query_scalar("select datname::text from pg_database where datname like $1")
            .bind(&like)
            .fetch_all(&mut root)
            .await
            .expect("readable");
    for name in databases {
        let drop = format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)");
        root.execute(sqlx::raw_sql(AssertSqlSafe(drop)))
            .await
            .expect("dropped");
    }
    let roles: Vec<String> = sqlx::query_scalar("select rolname::text from pg_roles where rolname like $1")
        .bind(&like)
        .fetch_all(&mut root)
        .await
        .expect("readable");
    for name in roles {
        let drop = format!("DROP ROLE IF EXISTS \"{name}\"");
        root.execute(sqlx::raw_sql(AssertSqlSafe(drop)))
            .await
            .expect("dropped");
    }
    let mut config = config.clone();
    let kafka: AdminClient<DefaultClientContext> = config.kafka.client().create().expect("a client");
    let names: Vec<&str> = topics(&mut config)
        .into_iter()
        .map(|name| name.as_str())
        .collect();
    kafka
        .delete_topics(&names, &AdminOptions::new())
        .await
        .expect("asked");
}
