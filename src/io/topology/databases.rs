//! Databases, their migrations, and who may connect to them.

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use super::access::{self, Matrix};
use super::admin::{Admin, run};
use super::{Fault, Item, Kind, Settings};
use crate::io::timescale::{edition, schema};

/// The migrations of each database.
static VAULT: Migrator = sqlx::migrate!("topology/databases/vault");
static AUDIT: Migrator = sqlx::migrate!("topology/databases/audit");
static OPERATIONS: Migrator = sqlx::migrate!("topology/databases/operations");

/// Table in which sqlx records the applied migrations.
const APPLIED: &str = "_sqlx_migrations";

fn migrations(database: &str) -> Option<&'static Migrator> {
    match database {
        "vault" => Some(&VAULT),
        "audit" => Some(&AUDIT),
        "analytics" => Some(&schema::COMMON),
        "operations" => Some(&OPERATIONS),
        _ => None,
    }
}

/// Creates roles and databases, runs migrations, and grants what the matrix declares.
pub(super) async fn apply(settings: &Settings, changes: &mut Vec<String>) -> Result<(), Fault> {
    let matrix = Matrix::declared()?;
    let admin = Admin::new(settings)?;
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
            schema::complete(&mut connection, &settings.timescale, changes).await?;
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
pub(super) async fn inspect(settings: &Settings) -> Result<Vec<Item>, Fault> {
    let matrix = Matrix::declared()?;
    let admin = Admin::new(settings)?;
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
                items.extend(edition_items(&mut connection, settings, &name).await?);
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
    settings: &Settings,
    name: &str,
) -> Result<Vec<Item>, Fault> {
    if applied(connection, APPLIED).await?.is_empty() {
        return Ok(Vec::new());
    }
    let edition = edition::ask(connection).await?;
    let mut items = Vec::new();
    for (aspect, declared, live) in schema::inspect(connection, &settings.timescale).await? {
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
