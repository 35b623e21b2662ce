//! Queries of jobs about cohorts of devices, and storage of the jobs' findings.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::analytics::failed;
use super::{Analytics, findings};
use crate::io::postgres::DatabaseError;
use pulsegate_detect::finding::Finding;
use pulsegate_detect::reading::{CohortWindow, FleetMinute};
use pulsegate_detect::regression::{self, Known};

/// Minutes per value of a cohort's series: long enough for devices that report every few minutes to be in each.
const WINDOW_MINUTES: i64 = 5;

impl Analytics {
    /// Returns the rollup of the minutes (since 1970) from `from` on and before `until`, over all cohorts and metrics,
    /// in order of time.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn fleet_minutes(&self, from: i64, until: i64) -> Result<Vec<FleetMinute>, DatabaseError> {
        let query = sqlx::query(
            "select (extract(epoch from minute) / 60)::bigint, sum(readings)::bigint, sum(good)::bigint
             from fleet_minute where minute >= to_timestamp($1 * 60.0) and minute < to_timestamp($2 * 60.0)
             group by minute order by minute",
        );
        self.rows("reading the rollup", query.bind(from).bind(until), fleet_minute)
            .await
    }

    /// Returns the measurements of cohorts in windows of five minutes, over the minutes (since 1970) from `from` on and
    /// before `until`, of which only whole windows count, in order of time. Covers the cohorts (firmware, model,
    /// metric) with the most readings, at most `cohorts_max`; devices that do not report a firmware or model belong to
    /// none.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn cohort_windows(
        &self,
        from: i64,
        until: i64,
        cohorts_max: u32,
    ) -> Result<Vec<CohortWindow>, DatabaseError> {
        let action = "reading the rollup of cohorts";
        let query = sqlx::query(COHORT_WINDOWS)
            .bind(from)
            .bind(until - until.rem_euclid(WINDOW_MINUTES))
            .bind(i64::from(cohorts_max))
            .bind(WINDOW_MINUTES);
        let rows = self
            .long(action, async |connection| query.fetch_all(connection).await)
            .await?;
        rows.iter()
            .map(cohort_window)
            .collect::<Result<_, _>>()
            .map_err(failed(action))
    }

    /// Returns the stored shifts ([`regression::shifts`]) since `from_ms`.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn known_shifts(&self, from_ms: i64) -> Result<Vec<Known>, DatabaseError> {
        let query = sqlx::query(
            "select series, (document->>'time_ms')::bigint, (document->'change'->>'earliest_ms')::bigint,
                    (document->'change'->>'latest_ms')::bigint
             from findings where model = $1 and time >= to_timestamp($2 / 1000.0)",
        );
        let query = query.bind(regression::SHIFT_MODEL).bind(from_ms);
        self.rows("reading shifts", query, known).await
    }

    /// Stores a job's findings; those already stored are skipped, so a job may run twice. Returns the new ones.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing is stored then.
    pub async fn store_findings(&self, mut found: Vec<Finding>) -> Result<Vec<Finding>, DatabaseError> {
        let action = "storing findings";
        let (all, wait) = (&found, self.group_wait);
        let new = self
            .pool
            .ask(action, async move |connection| {
                // A single statement is a transaction by itself.
                findings::store(connection, all, wait)
                    .await
                    .map_err(failed(action))
            })
            .await?;
        found.retain(|finding| new.contains(&finding.id.to_string()));
        Ok(found)
    }
}

const COHORT_WINDOWS: &str = "
with minutes as (
    select (extract(epoch from minute) / 60)::bigint / $4 * $4 as first, metric, firmware, model, good, total, deviation
    from fleet_minute
    where minute >= to_timestamp($1 * 60.0) and minute < to_timestamp($2 * 60.0) and firmware <> '' and good > 0
), largest as (
    select metric, firmware, model from minutes
    group by 1, 2, 3 order by sum(good) desc, metric, firmware, model limit $3
)
select first, metric, firmware, model, sum(good)::bigint, sum(total), sum(good * deviation * deviation)
from minutes join largest using (metric, firmware, model)
group by 1, 2, 3, 4 order by 1, 2, 3, 4";

fn fleet_minute(row: &PgRow) -> Result<FleetMinute, sqlx::Error> {
    Ok(FleetMinute {
        minute: row.try_get(0)?,
        readings: row.try_get::<i64, _>(1)?.cast_unsigned(),
        good: row.try_get::<i64, _>(2)?.cast_unsigned(),
    })
}

fn cohort_window(row: &PgRow) -> Result<CohortWindow, sqlx::Error> {
    Ok(CohortWindow {
        minute: row.try_get(0)?,
        metric: row.try_get(1)?,
        firmware: row.try_get(2)?,
        model: row.try_get(3)?,
        good: row.try_get::<i64, _>(4)?.cast_unsigned(),
        total: row.try_get(5)?,
        squares: row.try_get(6)?,
    })
}

fn known(row: &PgRow) -> Result<Known, sqlx::Error> {
    Ok(Known {
        series: row.try_get(0)?,
        time_ms: row.try_get(1)?,
        between_ms: (row.try_get(2)?, row.try_get(3)?),
    })
}
