//! The watch's access to the operations database: KPIs of the pipeline, and the state of its jobs.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::Settings;
use crate::io::postgres::DatabaseError;
use crate::io::postgres::{Pool, Who};
use crate::telemetry::metrics::PoolStatistics;
use pulsegate_detect::kpi::Kpi;
use pulsegate_detect::regression::{Point, Stored};

pub(super) const OPERATIONS: &str = "operations";
/// Jobs run one after another, lanes count settled records now and then, and one connection is left for queries.
const CONNECTIONS: (u32, u32) = (0, 4);

/// Last run of a job.
#[derive(Clone, Debug)]
pub struct JobRun<'a> {
    /// Name of the job.
    pub name: &'a str,
    /// Start of the run, in milliseconds since 1970.
    pub started_ms: i64,
    /// Duration of the run, in milliseconds.
    pub took_ms: i64,
    /// Number of rows written or removed.
    pub rows: u64,
    /// Reason for a failure; `None` if the run succeeded.
    pub problem: Option<&'a str>,
}

/// The watch's access to the operations database.
#[derive(Clone)]
pub struct Operations {
    pub(super) pool: Pool,
    rollups_days: u32,
}

impl Operations {
    /// Connects as the role `watch_operations`.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn connect(settings: &Settings) -> Result<Self, DatabaseError> {
        let who = Who {
            database: OPERATIONS,
            role: "watch_operations",
            url: &settings.timescale.operations_url,
            connections: CONNECTIONS,
        };
        Ok(Self {
            pool: Pool::connect(&settings.access, who).await?,
            rollups_days: settings.timescale.rollups_days,
        })
    }

    /// Usage of the connection pool.
    #[must_use]
    pub fn pool(&self) -> PoolStatistics {
        self.pool.statistics()
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Stores KPIs, replacing those stored for the same minute and label. Of two KPIs in `kpis` with equal name, label
    /// and minute the later one counts.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing is stored then.
    pub async fn store_kpis(&self, kpis: &[Kpi]) -> Result<(), DatabaseError> {
        self.ask("storing KPIs", async move |connection| {
            store_kpis(connection, kpis).await
        })
        .await
    }

    /// Returns the KPIs of the minutes (since 1970) from `from` on and before `until`, each in order of time.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn kpis(&self, from: i64, until: i64) -> Result<Vec<Stored>, DatabaseError> {
        self.ask("reading KPIs", async move |connection| {
            let rows = sqlx::query(
                "select kpi, label, array_agg((extract(epoch from minute) / 60)::bigint order by minute),
                        array_agg(value order by minute), array_agg(records order by minute)
                 from kpi_minute where minute >= to_timestamp($1 * 60.0) and minute < to_timestamp($2 * 60.0)
                 group by kpi, label order by kpi, label",
            )
            .bind(from)
            .bind(until)
            .fetch_all(connection)
            .await?;
            rows.iter().map(stored).collect()
        })
        .await
    }

    /// Returns the newest minute (since 1970) stored of a KPI.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn newest(&self, kpi: &str) -> Result<Option<i64>, DatabaseError> {
        self.ask("looking for the newest KPI", async move |connection| {
            sqlx::query_scalar(
                "select (extract(epoch from max(minute)) / 60)::bigint from kpi_minute where kpi = $1 and label = ''",
            )
            .bind(kpi)
            .fetch_one(connection)
            .await
        })
        .await
    }

    /// Records the last run of a job.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn job_ran(&self, run: &JobRun<'_>) -> Result<(), DatabaseError> {
        self.ask("recording a job's run", async move |connection| {
            job_ran(connection, run).await
        })
        .await
    }

    /// Removes KPIs, and the counts behind them, past their retention; returns the number of rows.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn drop_old(&self) -> Result<u64, DatabaseError> {
        let days = i32::try_from(self.rollups_days).unwrap_or(i32::MAX);
        self.ask("dropping old KPIs", async move |connection| {
            let mut removed = 0;
            for table in ["kpi_minute", "settled_minute"] {
                let statement =
                    format!("delete from {table} where minute < now() - make_interval(days => $1)");
                let done = sqlx::query(AssertSqlSafe(statement))
                    .bind(days)
                    .execute(&mut *connection)
                    .await?;
                removed += done.rows_affected();
            }
            Ok(removed)
        })
        .await
    }

    async fn ask<T>(
        &self,
        action: &'static str,
        request: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, DatabaseError> {
        self.pool
            .ask(action, async move |connection| {
                request(connection)
                    .await
                    .map_err(|error| DatabaseError::new(OPERATIONS, action, &error))
            })
            .await
    }
}

fn stored(row: &PgRow) -> Result<Stored, sqlx::Error> {
    let (minutes, values, records): (Vec<i64>, Vec<f64>, Vec<i64>) =
        (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
    let point = |((minute, value), records): ((i64, f64), i64)| Point {
        minute,
        value,
        records: records.max(0).cast_unsigned(),
    };
    Ok(Stored {
        kpi: row.try_get(0)?,
        label: row.try_get(1)?,
        points: minutes.into_iter().zip(values).zip(records).map(point).collect(),
    })
}

pub(super) async fn store_kpis(connection: &mut PgConnection, kpis: &[Kpi]) -> Result<(), sqlx::Error> {
    let known: Vec<&Kpi> = kpis.iter().filter(|kpi| !kpi.value.is_nan()).collect();
    let records = |kpi: &&Kpi| i64::try_from(kpi.records).unwrap_or(i64::MAX);
    sqlx::query(
        "insert into kpi_minute (minute, kpi, label, value, records)
         select distinct on (minute, kpi, label) to_timestamp(minute * 60.0), kpi, label, value, records
         from unnest($1::bigint[], $2::text[], $3::text[], $4::float8[], $5::bigint[]) with ordinality
              as k (minute, kpi, label, value, records, n)
         order by minute, kpi, label, n desc
         on conflict (kpi, label, minute) do update set value = excluded.value, records = excluded.records",
    )
    .bind(known.iter().map(|kpi| kpi.minute).collect::<Vec<_>>())
    .bind(known.iter().map(|kpi| kpi.name).collect::<Vec<_>>())
    .bind(
        known
            .iter()
            .map(|kpi| kpi.label.replace('\0', "\u{fffd}"))
            .collect::<Vec<_>>(),
    )
    .bind(known.iter().map(|kpi| kpi.value).collect::<Vec<_>>())
    .bind(known.iter().map(records).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}

async fn job_ran(connection: &mut PgConnection, run: &JobRun<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into job (name, started_at, took_ms, rows, problem)
         values ($1, to_timestamp($2 / 1000.0), $3, $4, $5)
         on conflict (name) do update set started_at = excluded.started_at, took_ms = excluded.took_ms,
                                          rows = excluded.rows, problem = excluded.problem",
    )
    .bind(run.name)
    .bind(run.started_ms)
    .bind(run.took_ms)
    .bind(i64::try_from(run.rows).unwrap_or(i64::MAX))
    .bind(run.problem)
    .execute(connection)
    .await
    .map(drop)
}
