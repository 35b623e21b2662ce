//! Completes the analytics database after its common migrations, as part of `pulsegate topology apply`: detects the
//! server's edition, applies that edition's migrations, and sets intervals and policies as configured.
//!
//! The Community edition can take over a database made for the Apache edition. The reverse is refused: the Apache
//! edition cannot read the columnstore.

use std::sync::LazyLock;

use sqlx::migrate::Migrator;
use sqlx::{PgConnection, Row};

use super::{Config, edition};
use crate::io::postgres::DatabaseError;
use crate::telemetry::metrics::Edition;
use pulsegate_detect::quality::Quality;

/// Migrations that both editions share.
pub static COMMON: Migrator = sqlx::migrate!("topology/databases/analytics");

static APACHE: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("topology/databases/analytics/apache");
    migrator.dangerous_set_table_name(table(Edition::Apache));
    migrator
});
static COMMUNITY: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("topology/databases/analytics/community");
    migrator.dangerous_set_table_name(table(Edition::Community));
    migrator
});

/// Migrations of an edition.
#[must_use]
pub fn migrations(edition: Edition) -> &'static Migrator {
    match edition {
        Edition::Apache => &APACHE,
        Edition::Community => &COMMUNITY,
    }
}

/// Table that records which of them are applied.
#[must_use]
pub const fn table(edition: Edition) -> &'static str {
    match edition {
        Edition::Apache => "_sqlx_migrations_apache",
        Edition::Community => "_sqlx_migrations_community",
    }
}

const DATABASE: &str = super::analytics::ANALYTICS;

fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> DatabaseError {
    move |error| DatabaseError::new(DATABASE, action, &error)
}

/// A property of the database: name, declared value, live value.
pub type Property = (&'static str, String, Option<String>);

/// Completes the schema, whose common migrations are applied, and appends to `changes` what it did.
///
/// # Errors
/// [`DatabaseError`], also if the database was made for the Community edition and the server runs another.
pub async fn complete(
    connection: &mut PgConnection,
    config: &Config,
    changes: &mut Vec<String>,
) -> Result<(), DatabaseError> {
    let edition = edition::ask(connection).await?;
    let made_for = made_for(connection).await?;
    if made_for.as_deref() == Some("community") && edition == Edition::Apache {
        return Err(DatabaseError::Invalid(
            "the analytics database was made for TimescaleDB's Community edition, and the server runs the Apache \
             edition, which cannot read the columnstore; set timescaledb.license = 'timescale' again, or start with \
             a new database (databases.prefix)"
                .to_owned(),
        ));
    }
    migrations(edition)
        .run(&mut *connection)
        .await
        .map_err(|error| DatabaseError::Refused {
            database: DATABASE,
            action: "applying the edition's migrations",
            reason: error.to_string(),
            sqlstate: None,
        })?;
    name_qualities(connection)
        .await
        .map_err(failed("naming the verdicts on readings"))?;
    if made_for.as_deref() != Some(edition.as_str()) {
        changes.push(format!(
            "completed the analytics database for TimescaleDB's {} edition",
            edition.as_str()
        ));
    }
    for (name, declared, live) in properties(connection, config, edition).await? {
        if live.as_ref() != Some(&declared) {
            correct(connection, config, name).await?;
            changes.push(format!("set the analytics database's {name} to {declared}"));
        }
    }
    Ok(())
}

/// Returns the properties that [`complete`] maintains, declared and live.
///
/// # Errors
/// [`DatabaseError`].
pub async fn inspect(connection: &mut PgConnection, config: &Config) -> Result<Vec<Property>, DatabaseError> {
    let edition = edition::ask(connection).await?;
    let made_for = made_for(connection).await?;
    let agrees = made_for.as_deref() == Some(edition.as_str());
    let mut found = vec![("edition", edition.as_str().to_owned(), made_for)];
    if agrees {
        found.extend(properties(connection, config, edition).await?);
    }
    Ok(found)
}

async fn made_for(connection: &mut PgConnection) -> Result<Option<String>, DatabaseError> {
    sqlx::query_scalar("select name from edition")
        .fetch_optional(connection)
        .await
        .map_err(failed("asking for the schema's edition"))
}

/// The code knows the qualities; the table is for those who query the database.
async fn name_qualities(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let (codes, names): (Vec<i16>, Vec<&str>) = Quality::ALL
        .iter()
        .map(|quality| (quality.code(), quality.as_str()))
        .unzip();
    sqlx::query(
        "insert into quality (code, name) select * from unnest($1::smallint[], $2::text[])
         on conflict (code) do update set name = excluded.name",
    )
    .bind(codes)
    .bind(names)
    .execute(connection)
    .await
    .map(drop)
}

const CHUNK_INTERVAL: &str = "chunk interval of readings";
const RETENTION: &str = "retention";
const ROLLUP_POLICY: &str = "rollup policy";

async fn properties(
    connection: &mut PgConnection,
    config: &Config,
    edition: Edition,
) -> Result<Vec<Property>, DatabaseError> {
    let asking = "asking for intervals and policies";
    let live: Option<String> = sqlx::query_scalar(
        "select (extract(epoch from time_interval) / 3600)::bigint || ' h' from timescaledb_information.dimensions
         where hypertable_schema = 'public' and hypertable_name = 'readings' and dimension_number = 1",
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed(asking))?;
    let mut found = vec![(CHUNK_INTERVAL, format!("{} h", config.chunk_interval_hours), live)];
    if edition == Edition::Community {
        found.push((
            RETENTION,
            retention(config),
            live_retention(connection).await.map_err(failed(asking))?,
        ));
        found.push((
            ROLLUP_POLICY,
            rollup_policy(config),
            live_rollup(connection).await.map_err(failed(asking))?,
        ));
    }
    Ok(found)
}

fn retention(config: &Config) -> String {
    let (readings, rollups) = (config.readings_days, config.rollups_days);
    format!("findings {rollups} d, fleet_minute {rollups} d, readings {readings} d")
}

/// The policies of the three hypertables; that of a continuous aggregate is listed under its materialization's name.
async fn live_retention(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let rows = sqlx::query(
        "select coalesce(c.view_name, j.hypertable_name)::text as name,
                (extract(epoch from (j.config->>'drop_after')::interval) / 86400)::bigint
         from timescaledb_information.jobs j
         left join timescaledb_information.continuous_aggregates c
                on c.materialization_hypertable_name = j.hypertable_name or c.view_name = j.hypertable_name
         where j.proc_name = 'policy_retention' order by 1",
    )
    .fetch_all(connection)
    .await?;
    let mut shown = Vec::with_capacity(rows.len());
    for row in &rows {
        shown.push(format!(
            "{} {} d",
            row.try_get::<String, _>(0)?,
            row.try_get::<i64, _>(1)?
        ));
    }
    Ok((!shown.is_empty()).then(|| shown.join(", ")))
}

/// The rollup looks back as far as readings are kept, but not to the edge of retention: a minute whose readings have
/// been dropped would be rolled up to nothing.
const fn rollup_days(config: &Config) -> u32 {
    if config.readings_days > 1 {
        config.readings_days - 1
    } else {
        1
    }
}

fn rollup_policy(config: &Config) -> String {
    format!("{} d", rollup_days(config))
}

async fn live_rollup(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select (extract(epoch from (config->>'start_offset')::interval) / 86400)::bigint || ' d'
         from timescaledb_information.jobs where proc_name = 'policy_refresh_continuous_aggregate'",
    )
    .fetch_optional(connection)
    .await
}

async fn correct(connection: &mut PgConnection, config: &Config, name: &str) -> Result<(), DatabaseError> {
    let days = |days: u32| i32::try_from(days).unwrap_or(i32::MAX);
    let query = match name {
        CHUNK_INTERVAL => sqlx::query("select set_chunk_time_interval('readings', make_interval(hours => $1))")
            .bind(days(config.chunk_interval_hours)),
        RETENTION => sqlx::query(
            "select remove_retention_policy(name, if_exists => true),
                    add_retention_policy(name, drop_after => make_interval(days => keep))
             from (values ('readings'::regclass, $1), ('findings'::regclass, $2), ('fleet_minute'::regclass, $2))
                  as p (name, keep)",
        )
        .bind(days(config.readings_days))
        .bind(days(config.rollups_days)),
        _ => sqlx::query(
            "select remove_continuous_aggregate_policy('fleet_minute', if_exists => true),
                    add_continuous_aggregate_policy('fleet_minute', start_offset => make_interval(days => $1),
                        end_offset => interval '1 minute', schedule_interval => interval '1 minute')",
        )
        .bind(days(rollup_days(config))),
    };
    query
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("setting intervals and policies"))
}
