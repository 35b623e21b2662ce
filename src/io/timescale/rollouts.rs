//! Rollouts of firmware: choice of the devices to compare, and medians of their readings, measured hour by hour.
//!
//! Measurements are stored, so that an interrupted job continues where it stopped. An hour's medians and the mark that
//! it is measured are one transaction: hours are complete, and each is measured once, whichever process runs the job.

use sqlx::postgres::PgRow;
use sqlx::{Executor, PgConnection, Row};

use super::Analytics;
use super::analytics::failed;
use crate::io::postgres::DatabaseError;
use pulsegate_detect::reading::{DeviceMedian, Rollout, Token};
use pulsegate_detect::regression::comparison::{self, DAY_READINGS_MIN, Times};
use pulsegate_detect::regression::schedule::ROLLOUT_KEPT_DAYS;
use pulsegate_detect::time::HOUR_MS;

/// A rollout with its chosen devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    id: i32,
    day_ms: i64,
    /// Number of devices that received the firmware.
    pub treated: u32,
    /// Number of devices that they are compared with.
    pub controls: u32,
}

impl Analytics {
    /// Returns the rollouts that began on a day (UTC) from `from_ms` on and before `until_ms` with at least
    /// `devices_min` devices. A device never seen before belongs to none.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn rollouts(
        &self,
        from_ms: i64,
        until_ms: i64,
        devices_min: u32,
    ) -> Result<Vec<Rollout>, DatabaseError> {
        let query = sqlx::query(ROLLOUTS)
            .bind(from_ms)
            .bind(until_ms)
            .bind(i64::from(devices_min));
        self.rows("looking for rollouts", query, rollout).await
    }

    /// Chooses the devices to compare: at most `devices_max` devices that received the firmware, and including their
    /// controls twice as many, picked by a hash of their tokens. A rollout to few devices gets more controls, which
    /// costs the same and reveals smaller differences. The choice is made once and stays, whatever is learnt of devices
    /// later: all hours of a rollout must cover the same devices.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn choose_devices(&self, rollout: &Rollout, devices_max: u32) -> Result<Chosen, DatabaseError> {
        let action = "choosing the devices of a rollout";
        self.long(action, async |connection| {
            choose(connection, rollout, devices_max).await
        })
        .await
    }

    /// Returns the hours of a rollout still to be measured, in order of time, counted from the beginning of its day.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn hours_left(&self, chosen: &Chosen) -> Result<Vec<i16>, DatabaseError> {
        let action = "looking for hours to measure";
        let measured: Vec<i16> = self
            .pool
            .ask(action, async move |connection| {
                sqlx::query_scalar("select hour from rollout_hour where rollout = $1")
                    .bind(chosen.id)
                    .fetch_all(connection)
                    .await
                    .map_err(failed(action))
            })
            .await?;
        Ok(comparison::hours()
            .filter(|hour| !measured.contains(hour))
            .collect())
    }

    /// Measures an hour of a rollout, unless it is already measured. Stores all of it or nothing. Returns whether it
    /// measured.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn measure_hour(&self, chosen: &Chosen, hour: i16) -> Result<bool, DatabaseError> {
        let action = "measuring an hour of a rollout";
        self.long(action, async |connection| measure(connection, chosen, hour).await)
            .await
    }

    /// Returns the medians of each device of a rollout, and of its controls, on the day before and the two days after
    /// it, as far as its hours are measured.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn device_medians(&self, chosen: &Chosen) -> Result<Vec<DeviceMedian>, DatabaseError> {
        let action = "reading medians of devices";
        let rows = self
            .long(action, async |connection| {
                sqlx::query(DEVICE_MEDIANS)
                    .bind(chosen.id)
                    .bind(DAY_READINGS_MIN)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        rows.iter()
            .filter_map(|row| median(row).transpose())
            .collect::<Result<_, _>>()
            .map_err(failed(action))
    }
}

const ROLLOUTS: &str = "
select d.firmware, d.model, (extract(epoch from date_trunc('day', d.since, 'UTC')) * 1000)::bigint as day,
       count(distinct d.device)
from device_version d
join lateral (
    select firmware, model from device_version p where p.device = d.device and p.since < d.since
    order by since desc limit 1
) before on before.firmware <> d.firmware and before.model = d.model
where d.since >= to_timestamp($1 / 1000.0) and d.since < to_timestamp($2 / 1000.0)
group by 1, 2, 3 having count(distinct d.device) >= $3
order by day, d.firmware, d.model";

/// Executes [`comparison::side`] for all devices at once.
const CHOOSE: &str = "
with days (first, rollout, changed, after) as (
    select to_timestamp($6 / 1000.0), to_timestamp($3 / 1000.0), to_timestamp($7 / 1000.0), to_timestamp($8 / 1000.0)
), treated as (
    select d.device from days cross join device_version d
    join lateral (
        select firmware, model from device_version p where p.device = d.device and p.since < rollout
        order by since desc limit 1
    ) before on before.firmware <> $1 and before.model = $2
    where d.firmware = $1 and d.model = $2 and d.since >= rollout and d.since < changed
    group by d.device order by hashtextextended(d.device, 0) limit $4
), control as (
    select d.device from device_version d, days
    where d.model = $2 and d.since < first
    group by d.device
    -- The newest before these days.
    having (array_agg(d.firmware order by d.since desc))[1] <> $1
       and not exists (select from device_version c, days
                       where c.device = d.device and c.since >= first and c.since < after)
    order by hashtextextended(d.device, 0) limit 2 * $4 - (select count(*) from treated)
)
insert into rollout_device (rollout, device, treated)
select $5, device, true from treated union all select $5, device, false from control";

/// Measured over a chunk of 18,000,000 readings (10,000 devices, four metrics, an hour at 5,000 a second) for 4,000
/// devices: 11 to 22 s for 15,680 medians of 7,056,000 readings, on 2 cores with the server's default of 4 MB
/// `work_mem`; the time goes into reading and sorting the chunk, and neither more memory nor a hash aggregate makes it
/// faster. So the 72 hours of a rollout take 13 to 26 minutes the first time.
const MEASURE: &str = "
insert into rollout_median (rollout, hour, device, metric, unit, median, readings)
select $1, $2, device, metric, unit, percentile_cont(0.5) within group (order by value), count(*)
from readings join rollout_device chosen using (device)
where chosen.rollout = $1
  and time >= to_timestamp($3 / 1000.0) and time < to_timestamp($3 / 1000.0) + interval '1 hour'
  and quality = 0 and abs(value) <= 1e100
group by device, metric, unit";

/// Median of the hours' medians: each hour has the same weight, however often a device reported in it, and a few
/// outliers have no effect. Over the 1,128,960 medians of 72 hours as in [`MEASURE`]: 2.2 s.
const DEVICE_MEDIANS: &str = "
select device, treated, metric, unit, floor(hour / 24.0)::integer as day,
       percentile_cont(0.5) within group (order by median), sum(readings)
from rollout_median join rollout_device using (rollout, device)
where rollout = $1
group by device, treated, metric, unit, day having sum(readings) >= $2";

async fn choose(
    connection: &mut PgConnection,
    rollout: &Rollout,
    devices_max: u32,
) -> Result<Chosen, sqlx::Error> {
    // A second process waits here until the first is done.
    let new: Option<i32> = sqlx::query_scalar(
        "insert into rollout (firmware, model, day) values ($1, $2, to_timestamp($3 / 1000.0))
         on conflict do nothing returning id",
    )
    .bind(&rollout.firmware)
    .bind(&rollout.model)
    .bind(rollout.day_ms)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(id) = new {
        let times = Times::of(rollout.day_ms);
        sqlx::query(CHOOSE)
            .bind(&rollout.firmware)
            .bind(&rollout.model)
            .bind(times.day_ms)
            .bind(i64::from(devices_max))
            .bind(id)
            .bind(times.first_ms)
            .bind(times.changed_ms)
            .bind(times.end_ms)
            .execute(&mut *connection)
            .await?;
    }
    let row = sqlx::query(
        "select id, (select count(*) from rollout_device where rollout = id and treated),
                (select count(*) from rollout_device where rollout = id and not treated)
         from rollout where firmware = $1 and model = $2 and day = to_timestamp($3 / 1000.0)",
    )
    .bind(&rollout.firmware)
    .bind(&rollout.model)
    .bind(rollout.day_ms)
    .fetch_one(connection)
    .await?;
    Ok(Chosen {
        id: row.try_get(0)?,
        day_ms: rollout.day_ms,
        treated: count(&row, 1)?,
        controls: count(&row, 2)?,
    })
}

async fn measure(connection: &mut PgConnection, chosen: &Chosen, hour: i16) -> Result<bool, sqlx::Error> {
    // Waits until another process that measures this hour has ended.
    let marked =
        sqlx::query("insert into rollout_hour (rollout, hour) values ($1, $2) on conflict do nothing")
            .bind(chosen.id)
            .bind(hour)
            .execute(&mut *connection)
            .await?;
    if marked.rows_affected() == 0 {
        return Ok(false);
    }
    // The planner assumes few devices until it has statistics on them, and would look each up in the index of readings,
    // which is four times slower with everything in memory: 72 to 79 s, seven million pages.
    connection.execute("set local enable_nestloop = off").await?;
    sqlx::query(MEASURE)
        .bind(chosen.id)
        .bind(hour)
        .bind(chosen.day_ms + i64::from(hour) * HOUR_MS)
        .execute(connection)
        .await?;
    Ok(true)
}

/// Drops rollouts that are no longer judged; their devices, hours and medians go with them.
pub(super) async fn drop_rollouts(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let done = sqlx::query("delete from rollout where day < now() - make_interval(days => $1::int)")
        .bind(ROLLOUT_KEPT_DAYS)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
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

/// Returns `None` for a device whose name is not a token: such a row was inserted by hand.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The watch runs these futures on the threads of a runtime.
    #[test]
    fn queries_about_rollouts_can_move_between_threads() {
        fn sent<T: Send>(_: impl FnOnce(&'static Analytics, &'static Rollout, &'static Chosen) -> T) {}
        sent(|analytics, _, _| analytics.rollouts(0, 1, 1));
        sent(|analytics, rollout, _| analytics.choose_devices(rollout, 1));
        sent(|analytics, _, chosen| analytics.hours_left(chosen));
        sent(|analytics, _, chosen| analytics.measure_hour(chosen, 0));
        sent(|analytics, _, chosen| analytics.device_medians(chosen));
    }
}
