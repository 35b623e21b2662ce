//! Databases, their migrations, and who may connect to them.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};

use super::access::{self, Matrix};
use super::{Fault, Item, Kind};
use crate::config::{Check, Secret};
use crate::io::timescale::{Edition, schema};

/// The migrations of each database.
static VAULT: Migrator = sqlx::migrate!("topology/databases/vault");
static AUDIT: Migrator = sqlx::migrate!("topology/databases/audit");
static OPERATIONS: Migrator = sqlx::migrate!("topology/databases/operations");

/// Table in which sqlx records the applied migrations.
const APPLIED: &str = "_sqlx_migrations";

/// How `pulsegate topology` reaches the databases. Services connect with their own logins.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// URL of a superuser, `postgres://user:password@host:port/postgres`; used by `pulsegate topology` only.
    pub admin_url: Secret,
    /// Prefix of the names of databases and roles. Default: `pulsegate_`.
    pub prefix: String,
    /// Directory where `topology apply` writes the logins that it makes, one file per role, readable by the owner only,
    /// and where a service finds its login when no URL is configured. Default: `.stack/logins`.
    pub logins_directory: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            admin_url: Secret::default(),
            prefix: "pulsegate_".to_owned(),
            logins_directory: PathBuf::from(".stack/logins"),
        }
    }
}

impl Config {
    /// Reports invalid values.
    pub fn check(&self, check: &mut Check) {
        if !is_name(&self.prefix) || self.prefix.len() > 40 {
            check.problem(
                "databases.prefix",
                "must be 1 to 40 of a-z, 0-9 and _, beginning with a letter",
            );
        }
        check_url("databases.admin_url", &self.admin_url, check);
    }
}

/// Reports an invalid or unencrypted PostgreSQL URL; an empty one counts as not set.
pub(crate) fn check_url(path: &str, url: &Secret, check: &mut Check) {
    if url.is_empty() {
        return;
    }
    match url.expose().parse::<PgConnectOptions>() {
        Err(_) => check.problem(
            path,
            "is not a PostgreSQL URL; write postgres://user:password@host:port/database",
        ),
        Ok(options) if !check.local && !is_encrypted(&options) => {
            check.problem(
                path,
                "must have sslmode=require, verify-ca or verify-full outside the local environment",
            );
        }
        Ok(_) => {}
    }
}

pub(super) fn is_encrypted(options: &PgConnectOptions) -> bool {
    use sqlx::postgres::PgSslMode::{Require, VerifyCa, VerifyFull};
    matches!(options.get_ssl_mode(), Require | VerifyCa | VerifyFull)
}

/// Whether a name needs no escaping inside quotes.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn migrations(database: &str) -> Option<&'static Migrator> {
    match database {
        "vault" => Some(&VAULT),
        "audit" => Some(&AUDIT),
        "analytics" => Some(&schema::COMMON),
        "operations" => Some(&OPERATIONS),
        _ => None,
    }
}

/// An open session of the superuser on one database.
pub(super) struct Admin<'c> {
    pub(super) config: &'c crate::config::Config,
    options: PgConnectOptions,
}

impl<'c> Admin<'c> {
    fn new(config: &'c crate::config::Config) -> Result<Self, Fault> {
        if config.databases.admin_url.is_empty() {
            return Err(Fault::Invalid(
                "databases.admin_url is not set: set it to the URL of a superuser, which creates databases and roles \
                 (PULSEGATE_DATABASES__ADMIN_URL)"
                    .to_owned(),
            ));
        }
        let options: PgConnectOptions = config
            .databases
            .admin_url
            .expose()
            .parse()
            .map_err(|_| Fault::Invalid("databases.admin_url is not a PostgreSQL URL".to_owned()))?;
        let options = options
            .application_name("pulsegate topology")
            .options([(
                "statement_timeout",
                config.topology.request_time_max_ms.to_string(),
            )])
            .disable_statement_logging();
        Ok(Self { config, options })
    }

    /// The superuser's options. The logins of services differ from them in user, password and database.
    pub(super) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Full name of the database or role `name`, with the prefix.
    pub(super) fn full(&self, name: &str) -> String {
        format!("{}{name}", self.config.databases.prefix)
    }

    /// Connects to the superuser's own database, or to `database` (its full name).
    pub(super) async fn connect(&self, database: Option<&str>) -> Result<PgConnection, Fault> {
        let options = match database {
            Some(database) => self.options.clone().database(database),
            None => self.options.clone(),
        };
        let time_max = Duration::from_millis(self.config.topology.request_time_max_ms);
        match tokio::time::timeout(time_max, options.connect()).await {
            Ok(connected) => connected.map_err(|error| Fault::postgres("connecting to PostgreSQL", &error)),
            Err(_) => Err(Fault::Unreachable {
                service: "PostgreSQL",
                reason: "no answer in time".to_owned(),
            }),
        }
    }
}

/// Runs one statement that was built from quoted names ([`is_name`]).
pub(super) async fn run(connection: &mut PgConnection, sql: String) -> Result<(), Fault> {
    // A statement can hold a password's verifier, so a failure names only its first three words.
    let action: String = sql.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    match connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::postgres(action, &error)),
    }
}

/// Creates roles and databases, runs migrations, and grants what the matrix declares.
pub(super) async fn apply(config: &crate::config::Config, changes: &mut Vec<String>) -> Result<(), Fault> {
    let matrix = Matrix::declared()?;
    let admin = Admin::new(config)?;
    let mut root = admin.connect(None).await?;
    // All databases share the roles, and PostgreSQL fails concurrent changes of one role: one apply at a time.
    sqlx::query("select pg_advisory_lock(hashtextextended('pulsegate topology apply', 0))")
        .execute(&mut root)
        .await
        .map_err(|error| Fault::postgres("waiting for another topology apply", &error))?;
    access::apply_roles(&admin, &matrix, &mut root, changes).await?;
    for database in matrix.databases() {
        let name = admin.full(database);
        if !exists(&mut root, &name).await? {
            run(
                &mut root,
                format!("CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8'"),
            )
            .await?;
            changes.push(format!("created database {name}"));
        }
        let mut connection = admin.connect(Some(&name)).await?;
        if let Some(migrator) = migrations(database) {
            migrate(&mut connection, migrator, &name, changes).await?;
        }
        if database == "analytics" {
            schema::complete(&mut connection, &config.timescale, changes).await?;
        }
        access::apply_grants(&admin, &matrix, database, &mut connection, changes).await?;
        close(connection).await;
    }
    close(root).await;
    Ok(())
}

async fn migrate(
    connection: &mut PgConnection,
    migrator: &Migrator,
    name: &str,
    changes: &mut Vec<String>,
) -> Result<(), Fault> {
    let before = applied(connection, APPLIED).await?.len();
    migrator
        .run(&mut *connection)
        .await
        .map_err(|error| Fault::Refused {
            action: format!("migrating {name}"),
            reason: error.to_string(),
        })?;
    let after = applied(connection, APPLIED).await?.len();
    if after > before {
        changes.push(format!(
            "applied {} migration(s) to database {name}",
            after - before
        ));
    }
    Ok(())
}

/// Compares databases, migrations, roles and grants with the declaration.
pub(super) async fn inspect(config: &crate::config::Config) -> Result<Vec<Item>, Fault> {
    let matrix = Matrix::declared()?;
    let admin = Admin::new(config)?;
    let mut root = admin.connect(None).await?;
    let mut items = access::inspect_roles(&admin, &matrix, &mut root).await?;
    for database in matrix.databases() {
        let name = admin.full(database);
        let there = exists(&mut root, &name).await?;
        items.push(Item {
            kind: Kind::Database,
            name: name.clone(),
            aspect: "database".to_owned(),
            declared: Some("exists".to_owned()),
            live: there.then(|| "exists".to_owned()),
        });
        if there {
            let mut connection = admin.connect(Some(&name)).await?;
            if let Some(migrator) = migrations(database) {
                items.push(migration_item(&mut connection, migrator, APPLIED, name.clone()).await?);
            }
            if database == "analytics" {
                items.extend(edition_items(&mut connection, config, &name).await?);
            }
            items.extend(access::inspect_grants(&admin, &matrix, database, &mut connection).await?);
            close(connection).await;
        }
    }
    close(root).await;
    Ok(items)
}

/// Items that depend on the edition of TimescaleDB.
async fn edition_items(
    connection: &mut PgConnection,
    config: &crate::config::Config,
    name: &str,
) -> Result<Vec<Item>, Fault> {
    if applied(connection, APPLIED).await?.is_empty() {
        return Ok(Vec::new());
    }
    let edition = Edition::ask(connection).await?;
    let mut items = Vec::new();
    for (aspect, declared, live) in schema::inspect(connection, &config.timescale).await? {
        items.push(Item {
            kind: Kind::Database,
            name: name.to_owned(),
            aspect: aspect.to_owned(),
            declared: Some(declared),
            live,
        });
    }
    let migrator = schema::migrations(edition);
    let mut item = migration_item(connection, migrator, schema::table(edition), name.to_owned()).await?;
    item.aspect = format!("migrations for the {} edition", edition.as_str());
    items.push(item);
    Ok(items)
}

async fn migration_item(
    connection: &mut PgConnection,
    migrator: &Migrator,
    table: &str,
    name: String,
) -> Result<Item, Fault> {
    let show = |version: i64, checksum: &[u8]| {
        let digest: String = checksum
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{version:04} ({digest})")
    };
    let list = |shown: Vec<String>| (!shown.is_empty()).then(|| shown.join(", "));
    let declared = migrator
        .iter()
        .map(|migration| show(migration.version, &migration.checksum))
        .collect();
    let live = applied(connection, table)
        .await?
        .iter()
        .map(|(version, checksum)| show(*version, checksum))
        .collect();
    Ok(Item {
        kind: Kind::Database,
        name,
        aspect: "migrations".to_owned(),
        declared: list(declared),
        live: list(live),
    })
}

/// Migrations recorded in `table`, which must be a constant name.
async fn applied(connection: &mut PgConnection, table: &str) -> Result<Vec<(i64, Vec<u8>)>, Fault> {
    let fault = |error| Fault::postgres("reading the applied migrations", &error);
    let there: bool = sqlx::query_scalar("select to_regclass('public.' || $1) is not null")
        .bind(table)
        .fetch_one(&mut *connection)
        .await
        .map_err(fault)?;
    if !there {
        return Ok(Vec::new());
    }
    let query = format!("select version, checksum from public.{table} where success order by version");
    let rows = sqlx::query(AssertSqlSafe(query))
        .fetch_all(connection)
        .await
        .map_err(fault)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, _>>()
        .map_err(fault)
}

async fn exists(connection: &mut PgConnection, database: &str) -> Result<bool, Fault> {
    sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(database)
        .fetch_one(connection)
        .await
        .map_err(|error| Fault::postgres("looking for databases", &error))
}

/// Closes a session. An error is ignored, since the session has ended all the same.
async fn close(connection: PgConnection) {
    drop(connection.close().await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_need_no_escaping() {
        for good in ["pulsegate_", "a", "t1_"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "1a", "A", "a\"", "a-b", "ä"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn every_database_of_the_matrix_has_its_migrations() {
        for database in Matrix::declared()
            .expect("the embedded file is right")
            .databases()
        {
            let count = migrations(database).map_or(0, |migrator| migrator.iter().count());
            assert!(count > 0, "{database}");
        }
    }
}
