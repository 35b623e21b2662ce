//! A corner of the real stack for one test: its own topics, databases, roles and logins, removed afterwards.

use std::future::Future;
use std::path::Path;

use pulsegate::config::Config;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};

use crate::stack;

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
        config.kafka.brokers = stack::brokers();
        config.databases.admin_url = stack::database_url().into();
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
    drop_databases(config.databases.admin_url.expose(), &config.databases.prefix)
        .await
        .expect("dropped");
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

/// Drops the databases and roles whose names begin with `prefix`, connected as the superuser.
///
/// # Errors
/// If the server does not answer or refuses.
pub async fn drop_databases(admin_url: &str, prefix: &str) -> Result<(), sqlx::Error> {
    let options: PgConnectOptions = admin_url.parse()?;
    let mut root = options.connect().await?;
    let listed = [
        (
            "database",
            "select datname::text from pg_database where starts_with(datname, $1)",
            " with (force)",
        ),
        (
            "role",
            "select rolname::text from pg_roles where starts_with(rolname, $1)",
            "",
        ),
    ];
    for (kind, list, how) in listed {
        let query = sqlx::query_scalar(list).bind(prefix);
        let names: Vec<String> = query.fetch_all(&mut root).await?;
        for name in names {
            // The names are our own and need no escaping.
            let drop = AssertSqlSafe(format!("drop {kind} if exists \"{name}\"{how}"));
            root.execute(sqlx::raw_sql(drop)).await?;
        }
    }
    Ok(())
}
