//! Recurring jobs over the analytics database. Any number of watches may run them: an advisory lock in the job's own
//! transaction admits one at a time, and nothing of the lock outlives that transaction.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, Row};

use super::analytics::{ANALYTICS, failed};
use super::{Analytics, rollouts};
use crate::io::postgres::DatabaseError;
use crate::io::postgres::Lease;
use crate::telemetry::metrics::Edition;

/// Most minutes rolled up in one run; the rest waits for the next run.
const MINUTES_MAX: i64 = 1_440;
/// Most minutes computed by one statement.
const RANGE_MINUTES_MAX: i64 = 60;
/// How long a job waits for a lock held by a batch before it leaves the work to the next run.
const LOCK_TIME_MAX: &str = "5s";

/// Result of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// The job ran, and wrote this many rows or removed this many rows and chunks.
    Done(u64),
    /// Another process holds the lock.
    Elsewhere,
}

impl Ran {
    fn of(rows: Option<u64>) -> Self {
        rows.map_or(Self::Elsewhere, Self::Done)
    }
}

impl Analytics {
    /// Rolls up the minutes that have received readings since the last run. Does nothing on the Community edition,
    /// which rolls up by itself.
    ///
    /// # Errors
    /// [`DatabaseError`]; the minutes wait for the next run then.
    pub async fn roll_up(&self) -> Result<Ran, DatabaseError> {
        if self.edition == Edition::Community {
            return Ok(Ran::Done(0));
        }
        let action = "rolling up";
        let readings_days = self.readings_days;
        self.locked(action, "pulsegate rollup", async move |connection| {
            roll_up(connection, readings_days).await.map_err(failed(action))
        })
        .await
        .map(Ran::of)
    }

    /// Drops data past its retention. On the Community edition the server does this for hypertables.
    ///
    /// # Errors
    /// [`DatabaseError`]; the rest is dropped by the next run.
    pub async fn drop_old(&self) -> Result<Ran, DatabaseError> {
        let action = "dropping old data";
        let (edition, readings_days, rollups_days) = (self.edition, self.readings_days, self.rollups_days);
        self.locked(action, "pulsegate retention", async move |connection| {
            let mut dropped = 0;
            if edition == Edition::Apache {
                let kept = [
                    ("readings", readings_days),
                    ("findings", rollups_days),
                    ("fleet_minute", rollups_days),
                ];
                for (relation, days) in kept {
                    dropped += drop_chunks(connection, relation, days)
                        .await
                        .map_err(failed(action))?;
                }
            }
            dropped += drop_versions(connection, rollups_days)
                .await
                .map_err(failed(action))?;
            Ok(dropped
                + rollouts::drop_rollouts(connection)
                    .await
                    .map_err(failed(action))?)
        })
        .await
        .map(Ran::of)
    }

    /// Takes the lock of a job that needs more than one request, unless another process holds it. Work that outlives
    /// the lock, whose connection can be lost, is repeated elsewhere and must be idempotent.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn lock(&self, name: &str) -> Result<Option<JobLock>, DatabaseError> {
        let action = "locking a job";
        let mut lease = self.pool.lease(action).await?;
        let connection = lease.connection();
        connection.execute("begin").await.map_err(failed(action))?;
        let locked = begin(connection, name, self.job_time_max)
            .await
            .map_err(failed(action))?;
        Ok(locked.then_some(JobLock {
            lease,
            time_max: self.job_time_max,
        }))
    }

    /// Runs `job` in its own transaction unless another process runs a job of that name; `None` if one does.
    pub(super) async fn locked<T>(
        &self,
        action: &'static str,
        name: &'static str,
        job: impl AsyncFnOnce(&mut PgConnection) -> Result<T, DatabaseError>,
    ) -> Result<Option<T>, DatabaseError> {
        let time_max = self.job_time_max;
        self.pool
            .ask_for(time_max, action, async move |connection| {
                let mut transaction = connection.begin().await.map_err(failed(action))?;
                if !begin(&mut transaction, name, time_max)
                    .await
                    .map_err(failed(action))?
                {
                    transaction.rollback().await.map_err(failed(action))?;
                    return Ok(None);
                }
                let done = job(&mut transaction).await?;
                transaction.commit().await.map_err(failed(action))?;
                Ok(Some(done))
            })
            .await
    }
}

/// Holds the lock of a job until it is dropped.
pub struct JobLock {
    /// Its transaction holds the lock and ends with the connection.
    lease: Lease,
    time_max: Duration,
}

impl JobLock {
    /// Confirms that the lock is still held. Work that takes longer must call this within each
    /// [`super::Config::job_time_max_s`], or the server ends the session as idle.
    ///
    /// # Errors
    /// [`DatabaseError`] if the lock is lost.
    pub async fn keep(&mut self) -> Result<(), DatabaseError> {
        let action = "keeping the lock of a job";
        let asked = self.lease.connection().execute("select 1");
        match tokio::time::timeout(self.time_max, asked).await {
            Ok(answer) => answer.map(drop).map_err(failed(action)),
            Err(_) => Err(DatabaseError::late(ANALYTICS, action, self.time_max)),
        }
    }
}

/// Sets the limits of a job's transaction and tries to take its lock.
async fn begin(transaction: &mut PgConnection, name: &str, time_max: Duration) -> Result<bool, sqlx::Error> {
    let time_max_ms = time_max.as_millis().to_string();
    sqlx::query(
        "select set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true),
                set_config('idle_in_transaction_session_timeout', $1, true)",
    )
    .bind(time_max_ms)
    .bind(LOCK_TIME_MAX)
    .execute(&mut *transaction)
    .await?;
    sqlx::query_scalar("select pg_try_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(name)
        .fetch_one(transaction)
        .await
}

/// Takes the due minutes, and recomputes each from all of its readings. A batch commits its readings together with
/// their due marks: whoever sees a mark sees its readings too, and later readings bring a mark of their own.
async fn roll_up(connection: &mut PgConnection, readings_days: u32) -> Result<u64, sqlx::Error> {
    let rows = sqlx::query(
        "with taken as (
             delete from rollup_due
             where minute in (select distinct minute from rollup_due order by minute limit $1)
             returning minute
         )
         -- Minutes whose readings are being dropped stay as they are: half of them would be less than all.
         select distinct (extract(epoch from minute) / 60)::bigint as minute from taken
         where minute > now() - make_interval(days => $2) order by minute",
    )
    .bind(MINUTES_MAX)
    .bind(i32::try_from(readings_days).unwrap_or(i32::MAX))
    .fetch_all(&mut *connection)
    .await?;
    let minutes = rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<Vec<i64>, _>>()?;
    // With the range in the plan, chunks outside of it are excluded.
    sqlx::query("set local plan_cache_mode = force_custom_plan")
        .execute(&mut *connection)
        .await?;
    let mut rolled = 0;
    for (first, end) in ranges(&minutes) {
        rolled += sqlx::query(ROLL_UP)
            .bind(first)
            .bind(end)
            .execute(&mut *connection)
            .await?
            .rows_affected();
    }
    Ok(rolled)
}

/// Matches the Community edition's view column by column.
const ROLL_UP: &str = "
insert into fleet_minute (minute, metric, firmware, model, readings, good, total, least, greatest, deviation)
select time_bucket(interval '1 minute', time), metric, firmware, model,
       count(*),
       count(*) filter (where quality = 0 and abs(value) <= 1e100),
       sum(value) filter (where quality = 0 and abs(value) <= 1e100),
       min(value) filter (where quality = 0 and abs(value) <= 1e100),
       max(value) filter (where quality = 0 and abs(value) <= 1e100),
       stddev_pop(value) filter (where quality = 0 and abs(value) <= 1e100)
from readings
where time >= to_timestamp($1 * 60.0) and time < to_timestamp($2 * 60.0)
group by 1, 2, 3, 4
on conflict (metric, firmware, model, minute) do update
set readings = excluded.readings, good = excluded.good, total = excluded.total, least = excluded.least,
    greatest = excluded.greatest, deviation = excluded.deviation";

/// Splits minutes into runs of consecutive ones, half open, each of at most [`RANGE_MINUTES_MAX`].
fn ranges(minutes: &[i64]) -> Vec<(i64, i64)> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for &minute in minutes {
        match ranges.last_mut() {
            Some((first, end)) if *end == minute && minute - *first < RANGE_MINUTES_MAX => *end = minute + 1,
            _ => ranges.push((minute, minute + 1)),
        }
    }
    ranges
}

async fn drop_chunks(connection: &mut PgConnection, relation: &str, days: u32) -> Result<u64, sqlx::Error> {
    sqlx::query_scalar("select drop_old_chunks($1, now() - make_interval(days => $2))")
        .bind(relation)
        .bind(i32::try_from(days).unwrap_or(i32::MAX))
        .fetch_one(connection)
        .await
        .map(i64::cast_unsigned)
}

/// A device's present version is kept regardless of age; previous ones are kept as long as rollups.
async fn drop_versions(connection: &mut PgConnection, days: u32) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "delete from device_version d where since < now() - make_interval(days => $1)
         and exists (select from device_version later where later.device = d.device and later.since > d.since
                                                        and later.since < now() - make_interval(days => $1))",
    )
    .bind(i32::try_from(days).unwrap_or(i32::MAX))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_computed_in_runs_of_limited_length() {
        assert_eq!(ranges(&[]), []);
        assert_eq!(ranges(&[5, 6, 7, 9]), [(5, 8), (9, 10)]);
        let day: Vec<i64> = (0..1_440).collect();
        let found = ranges(&day);
        assert_eq!(found.len(), 24);
        assert!(found.iter().all(|(first, end)| end - first == 60));
    }
}
