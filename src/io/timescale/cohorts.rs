//! What jobs ask about cohorts of devices, and what they have found.

use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

use super::analytics::ANALYTICS;
use super::{Analytics, TimescaleError, findings};
use crate::detect::finding::Finding;
use crate::detect::reading::{CohortWindow, DeviceMedian, FleetMinute, Rollout, Token};
use crate::detect::regression::{self, Known};

/// Minutes that are one value of a cohort's series: devices that report every few minutes are in each of them.
const WINDOW_MINUTES: i64 = 5;
/// Good readings that the median of a day has to rest on.
const DAY_READINGS_MIN: i64 = 20;

fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> TimescaleError + Copy {
    move |error| TimescaleError::new(ANALYTICS, action, &error)
}

impl Analytics {
    /// The rollouts that began on a day (UTC) from `from_ms` on and before `until_ms`, each with at least `devices_min`
    /// devices. A device that was never seen before is in none.
    ///
    /// # Errors
    /// [`TimescaleError`].
    pub async fn rollouts(
        &self,
        from_ms: i64,
        until_ms: i64,
        devices_min: u32,
    ) -> Result<Vec<Rollout>, TimescaleError> {
        let action = "looking for rollouts";
        self.pool
            .ask(action, async move |connection| {
                let rows = sqlx::query(ROLLOUTS)
                    .bind(from_ms)
                    .bind(until_ms)
                    .bind(i64::from(devices_min))
                    .fetch_all(connection)
                    .await
                    .map_err(failed(action))?;
                rows.iter()
                    .map(rollout)
                    .collect::<Result<_, _>>()
                    .map_err(failed(action))
            })
            .await
    }

    /// The medians of each device of a rollout, and of its controls, in the day before and the two days after it. No more
    /// than `devices_max` devices on either side, picked by a hash of their tokens: the same ones each time.
    ///
    /// # Errors
    /// [`TimescaleError`].
    pub async fn device_medians(
        &self,
        rollout: &Rollout,
        devices_max: u32,
    ) -> Result<Vec<DeviceMedian>, TimescaleError> {
        let action = "computing medians of devices";
        let time_max = self.job_time_max;
        self.pool
            .ask_for(time_max, action, async move |connection| {
                let mut transaction = connection.begin().await.map_err(failed(action))?;
                let rows = device_medians(&mut transaction, rollout, devices_max, time_max.as_millis())
                    .await
                    .map_err(failed(action))?;
                transaction.commit().await.map_err(failed(action))?;
                rows.iter()
                    .filter_map(|row| median(row).transpose())
                    .collect::<Result<_, _>>()
                    .map_err(failed(action))
            })
            .await
    }

    /// What was rolled up for the minutes (since 1970) from `from` on and before `until`, over all cohorts and metrics, in
    /// order of time.
    ///
    /// # Errors
    /// [`TimescaleError`].
    pub async fn fleet_minutes(&self, from: i64, until: i64) -> Result<Vec<FleetMinute>, TimescaleError> {
        let action = "reading the rollup";
        self.pool
            .ask(action, async move |connection| {
                let rows = sqlx::query(
                    "select (extract(epoch from minute) / 60)::bigint, sum(readings)::bigint, sum(good)::bigint
                     from fleet_minute where minute >= to_timestamp($1 * 60.0) and minute < to_timestamp($2 * 60.0)
                     group by minute order by minute",
                )
                .bind(from)
                .bind(until)
                .fetch_all(connection)
                .await
                .map_err(failed(action))?;
                rows.iter()
                    .map(fleet_minute)
                    .collect::<Result<_, _>>()
                    .map_err(failed(action))
            })
            .await
    }

    /// What cohorts measured in windows of five minutes, over the minutes (since 1970) from `from` on and before `until` (of
    /// which only whole windows count), in order of time. Of the cohorts (firmware, model, metric) with the most readings, at most `cohorts_max`; devices that do
    /// not say what they run are in none.
    ///
    /// # Errors
    /// [`TimescaleError`].
    pub async fn cohort_windows(
        &self,
        from: i64,
        until: i64,
        cohorts_max: u32,
    ) -> Result<Vec<CohortWindow>, TimescaleError> {
        let action = "reading the rollup of cohorts";
        let time_max = self.job_time_max;
        self.pool
            .ask_for(time_max, action, async move |connection| {
                let mut transaction = connection.begin().await.map_err(failed(action))?;
                limit_time(&mut transaction, time_max.as_millis())
                    .await
                    .map_err(failed(action))?;
                let rows = sqlx::query(COHORT_WINDOWS)
                    .bind(from)
                    .bind(until - until.rem_euclid(WINDOW_MINUTES))
                    .bind(i64::from(cohorts_max))
                    .bind(WINDOW_MINUTES)
                    .fetch_all(&mut *transaction)
                    .await
                    .map_err(failed(action))?;
                transaction.commit().await.map_err(failed(action))?;
                rows.iter()
                    .map(cohort_window)
                    .collect::<Result<_, _>>()
                    .map_err(failed(action))
            })
            .await
    }

    /// The shifts ([`regression::shifts`]) since `from_ms` that are stored.
    ///
    /// # Errors
    /// [`TimescaleError`].
    pub async fn known_shifts(&self, from_ms: i64) -> Result<Vec<Known>, TimescaleError> {
        let action = "reading shifts";
        self.pool
            .ask(action, async move |connection| {
                let rows = sqlx::query(
                    "select series, (document->>'time_ms')::bigint, (document->'change'->>'earliest_ms')::bigint,
                            (document->'change'->>'latest_ms')::bigint
                     from findings where model = $1 and time >= to_timestamp($2 / 1000.0)",
                )
                .bind(regression::SHIFT_MODEL)
                .bind(from_ms)
                .fetch_all(connection)
                .await
                .map_err(failed(action))?;
                rows.iter().map(known).collect::<Result<_, _>>().map_err(failed(action))
            })
            .await
    }

    /// Stores what a job has found; what is stored already is passed over, so a job may run twice. Gives what is new.
    ///
    /// # Errors
    /// [`TimescaleError`]; nothing is stored then.
    pub async fn store_findings(&self, mut found: Vec<Finding>) -> Result<Vec<Finding>, TimescaleError> {
        let action = "storing findings";
        let (all, wait) = (&found, self.group_wait);
        let new = self
            .pool
            .ask(action, async move |connection| {
                // One statement, so a transaction by itself.
                findings::store(connection, all, wait)
                    .await
                    .map_err(failed(action))
            })
            .await?;
        found.retain(|finding| new.contains(&finding.id.to_string()));
        Ok(found)
    }
}

const ROLLOUTS: &str = "
select d.firmware, d.model, (extract(epoch from date_trunc('day', d.since, 'UTC')) * 1000)::bigint as day,
       count(distinct d.device)
from device_version d
where d.since >= to_timestamp($1 / 1000.0) and d.since < to_timestamp($2 / 1000.0)
  and exists (select from device_version p where p.device = d.device and p.since < d.since
                                             and p.firmware <> d.firmware and p.model = d.model)
group by 1, 2, 3 having count(distinct d.device) >= $3
order by day, d.firmware, d.model";

/// Treated devices and controls are compared over the same days, so that what the world did to both falls out. A control
/// is of the same model, was there before, changed nothing meanwhile and ran something else.
const DEVICE_MEDIANS: &str = "
with days (rollout, first, after) as (
    select to_timestamp($3 / 1000.0), to_timestamp($3 / 1000.0) - interval '1 day', to_timestamp($3 / 1000.0) + interval '3 days'
), treated as (
    select d.device from device_version d, days
    where d.firmware = $1 and d.model = $2 and d.since >= rollout and d.since < rollout + interval '1 day'
      and exists (select from device_version p where p.device = d.device and p.since < rollout and p.model = $2
                                                 and p.firmware <> $1)
    group by d.device order by hashtextextended(d.device, 0) limit $4
), control as (
    select d.device from device_version d, days
    where d.model = $2 and d.since < first
    group by d.device
    -- The newest before these days.
    having (array_agg(d.firmware order by d.since desc))[1] <> $1
       and not exists (select from device_version c, days
                       where c.device = d.device and c.since >= first and c.since < after)
    order by hashtextextended(d.device, 0) limit $4
), compared as (
    select device, true as treated from treated union all select device, false from control
)
select r.device, c.treated, r.metric, r.unit, floor(extract(epoch from r.time - rollout) / 86400)::integer as day,
       percentile_cont(0.5) within group (order by r.value), count(*)
from readings r join compared c using (device), days
where r.time >= to_timestamp($3 / 1000.0) - interval '1 day' and r.time < to_timestamp($3 / 1000.0) + interval '3 days'
  and (r.time < rollout or r.time >= rollout + interval '1 day')
  and r.quality = 0 and abs(r.value) <= 1e100
group by 1, 2, 3, 4, 5 having count(*) >= $5";

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

/// The server's own limit, for the rest of the transaction.
async fn limit_time(connection: &mut PgConnection, time_max_ms: u128) -> Result<(), sqlx::Error> {
    sqlx::query("select set_config('statement_timeout', $1, true), set_config('plan_cache_mode', 'force_custom_plan', true)")
        .bind(time_max_ms.to_string())
        .execute(connection)
        .await
        .map(drop)
}

async fn device_medians(
    connection: &mut PgConnection,
    rollout: &Rollout,
    devices_max: u32,
    time_max_ms: u128,
) -> Result<Vec<PgRow>, sqlx::Error> {
    limit_time(connection, time_max_ms).await?;
    sqlx::query(DEVICE_MEDIANS)
        .bind(&rollout.firmware)
        .bind(&rollout.model)
        .bind(rollout.day_ms)
        .bind(i64::from(devices_max))
        .bind(DAY_READINGS_MIN)
        .fetch_all(connection)
        .await
}

fn count(row: &PgRow, column: usize) -> Result<u32, sqlx::Error> {
    row.try_get::<i64, _>(column)
        .map(|count| u32::try_from(count).unwrap_or(u32::MAX))
}

fn rollout(row: &PgRow) -> Result<Rollout, sqlx::Error> {
    Ok(Rollout {
        firmware: row.try_get(0)?,
        model: row.try_get(1)?,
        day_ms: row.try_get(2)?,
        devices: count(row, 3)?,
    })
}

/// `None` for a device whose name is no token: somebody put it there by hand.
fn median(row: &PgRow) -> Result<Option<DeviceMedian>, sqlx::Error> {
    let Some(device) = Token::new(row.try_get::<&str, _>(0)?.as_bytes()) else {
        return Ok(None);
    };
    Ok(Some(DeviceMedian {
        device,
        treated: row.try_get(1)?,
        metric: row.try_get(2)?,
        unit: row.try_get(3)?,
        day: row.try_get(4)?,
        median: row.try_get(5)?,
        readings: count(row, 6)?,
    }))
}

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
