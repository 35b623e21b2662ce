//! The sink for readings and findings.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};
use tracing::info;

use super::{Settings, edition, findings, rows};
use crate::io::postgres::offsets::{Position, Step};
use crate::io::postgres::{DatabaseError, WriteError};
use crate::io::postgres::{Pool, Who};
use crate::telemetry::metrics::{Edition, PoolStatistics};
use pulsegate_detect::finding::Finding;
use pulsegate_detect::reading::{DeviceVersion, Reading};

pub(super) const ANALYTICS: &str = "analytics";
const DAY_MS: i64 = 86_400_000;

/// Largest snapshot of a partition's detectors, in bytes: enough for a few hundred thousand series.
pub const SNAPSHOT_BYTES_MAX: usize = 256 << 20;

/// State of a partition's detectors at one offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// First offset that the detectors had not seen.
    pub next: i64,
    /// Version of the models; another version cannot read the state.
    pub model: String,
    /// Serialized state, at most [`SNAPSHOT_BYTES_MAX`].
    pub state: Vec<u8>,
}

/// Result of claiming a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Offset to continue reading at; `None` if nothing was ever stored.
    pub next: Option<i64>,
    /// Epoch to pass with each batch; every later claim has a higher one.
    pub epoch: i64,
    /// End of the log, if it was found to end before `next`; see [`Position`].
    pub log_end: Option<i64>,
    /// Newest snapshot. Its `next` is not beyond the claim's.
    pub snapshot: Option<Snapshot>,
}

/// Results of a stretch of one partition.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Name of the clean topic.
    pub topic: &'a str,
    /// Partition of the clean topic.
    pub partition: i32,
    /// Epoch of the claim.
    pub epoch: i64,
    /// Offset at which the sink stands: the claim's `next`, then that of the previous batch.
    pub expected: Option<i64>,
    /// First offset after this batch.
    pub next: i64,
    /// All readings of the stretch.
    pub readings: &'a [Reading],
    /// Findings; those already stored are skipped.
    pub findings: &'a [Finding],
    /// Devices that are new or changed firmware or model. Unchanged ones are skipped.
    pub devices: &'a [DeviceVersion],
    /// State of the detectors after the batch, when a snapshot is due.
    pub snapshot: Option<&'a Snapshot>,
}

/// The watch's access to the analytics database.
#[derive(Clone)]
pub struct Analytics {
    pub(super) pool: Pool,
    pub(super) edition: Edition,
    /// Oldest age of a reading's time, in milliseconds.
    keep_ms: i64,
    pub(super) readings_days: u32,
    pub(super) rollups_days: u32,
    /// Time limit of a job.
    pub(super) job_time_max: Duration,
    /// How long findings about devices wait to be grouped.
    pub(super) group_wait: Duration,
}

/// Makes errors of the analytics database that name the action.
pub(super) fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> DatabaseError + Copy {
    move |error| DatabaseError::new(ANALYTICS, action, &error)
}

impl Analytics {
    /// Connects as the role `watch_analytics`, and detects the edition.
    ///
    /// # Errors
    /// [`DatabaseError`], also if the schema was completed for an edition other than the server's.
    pub async fn connect(settings: &Settings) -> Result<Self, DatabaseError> {
        let who = Who {
            database: ANALYTICS,
            role: "watch_analytics",
            url: &settings.timescale.analytics_url,
            connections: (
                settings.timescale.connections_min,
                settings.timescale.connections_max,
            ),
        };
        let pool = Pool::connect(&settings.access, who).await?;
        let edition = pool.ask("asking for the edition", check_edition).await?;
        info!(edition = edition.as_str(), "analytics database connected");
        Ok(Self {
            pool,
            edition,
            keep_ms: i64::from(settings.timescale.readings_days) * DAY_MS,
            readings_days: settings.timescale.readings_days,
            rollups_days: settings.timescale.rollups_days,
            job_time_max: Duration::from_secs(settings.timescale.job_time_max_s),
            group_wait: Duration::from_secs(settings.group_wait_s.into()),
        })
    }

    /// Edition of TimescaleDB that the server runs.
    #[must_use]
    pub const fn edition(&self) -> Edition {
        self.edition
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

    /// Claims a partition of a topic: its previous owner can no longer write, and this worker continues where the last
    /// stored batch ended.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn claim(&self, topic: &str, partition: i32) -> Result<Claim, DatabaseError> {
        self.pool
            .claim(topic, partition, async |connection, position| {
                restore(connection, topic, partition, position)
                    .await
                    .map_err(failed("reading a snapshot"))
            })
            .await
    }

    /// Records that a partition's log ends at `log_end`, before the offset already stored: it is held from now on.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn note_log_end(&self, topic: &str, partition: i32, log_end: i64) -> Result<(), DatabaseError> {
        self.pool.note_log_end(topic, partition, log_end).await
    }

    /// Writes a batch, all of it or nothing. A failed batch may be retried: if it was stored after all, this is
    /// detected and counts as success. Returns the duration of the commit.
    ///
    /// # Errors
    /// [`WriteError`]; this call stored nothing of the batch then.
    pub async fn write(&self, batch: &Batch<'_>) -> Result<Duration, WriteError> {
        if let Some(snapshot) = batch.snapshot
            && snapshot.state.len() > SNAPSHOT_BYTES_MAX
        {
            return Err(WriteError::Refused(DatabaseError::Invalid(format!(
                "the snapshot of partition {} exceeds {SNAPSHOT_BYTES_MAX} bytes; use more partitions",
                batch.partition
            ))));
        }
        self.pool
            .ask("writing a batch", async |connection| {
                self.write_on(connection, batch).await
            })
            .await
    }

    async fn write_on(
        &self,
        connection: &mut PgConnection,
        batch: &Batch<'_>,
    ) -> Result<Duration, WriteError> {
        let failed = |action| move |error| WriteError::from(DatabaseError::new(ANALYTICS, action, &error));
        let mut transaction = connection.begin().await.map_err(failed("beginning a batch"))?;
        let minutes = if batch.readings.is_empty() {
            BTreeSet::new()
        } else {
            rows::copy(&mut transaction, batch.readings, self.keep_ms)
                .await
                .map_err(failed("copying readings"))?
        };
        if self.edition == Edition::Apache && !minutes.is_empty() {
            note_due(&mut transaction, &minutes)
                .await
                .map_err(failed("marking minutes to roll up"))?;
        }
        if !batch.devices.is_empty() {
            self.store_devices(&mut transaction, batch.devices)
                .await
                .map_err(failed("storing devices' versions"))?;
        }
        if !batch.findings.is_empty() {
            findings::store(&mut transaction, batch.findings, self.group_wait)
                .await
                .map_err(failed("storing findings"))?;
        }
        if let Some(snapshot) = batch.snapshot {
            store_snapshot(&mut transaction, batch.topic, batch.partition, snapshot)
                .await
                .map_err(failed("storing a snapshot"))?;
        }
        let step = Step {
            topic: batch.topic,
            partition: batch.partition,
            epoch: batch.epoch,
            expected: batch.expected,
            next: batch.next,
        };
        let is_taken = self.pool.take_step(&mut transaction, &step).await?;
        self.pool.end_batch(transaction, is_taken).await
    }

    /// Runs a query and maps its rows.
    pub(super) async fn rows<T>(
        &self,
        action: &'static str,
        query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
        read: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, DatabaseError> {
        self.pool
            .ask(action, async move |connection| {
                let rows = query.fetch_all(connection).await;
                rows.and_then(|rows| rows.iter().map(read).collect())
                    .map_err(|error| DatabaseError::new(ANALYTICS, action, &error))
            })
            .await
    }

    /// Runs `work` in a transaction with the time limit of a job.
    pub(super) async fn long<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, DatabaseError> {
        let time_max = self.job_time_max;
        self.pool
            .ask_for(time_max, action, async move |connection| {
                let mut transaction = connection.begin().await.map_err(failed(action))?;
                limit_time(&mut transaction, time_max.as_millis())
                    .await
                    .map_err(failed(action))?;
                let done = work(&mut transaction).await.map_err(failed(action))?;
                transaction.commit().await.map_err(failed(action))?;
                Ok(done)
            })
            .await
    }

    async fn store_devices(
        &self,
        connection: &mut PgConnection,
        devices: &[DeviceVersion],
    ) -> Result<(), sqlx::Error> {
        let since = |device: &DeviceVersion| rows::place(device.since_ms, device.append_ms, self.keep_ms);
        sqlx::query(STORE_DEVICES)
            .bind(
                devices
                    .iter()
                    .map(|device| device.device.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(devices.iter().map(since).collect::<Vec<_>>())
            .bind(
                devices
                    .iter()
                    .map(|device| device.version.firmware.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(
                devices
                    .iter()
                    .map(|device| device.version.model.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(devices.iter().map(|device| device.partition).collect::<Vec<_>>())
            .bind(devices.iter().map(|device| device.offset).collect::<Vec<_>>())
            .execute(connection)
            .await
            .map(drop)
    }
}

/// A worker that has forgotten a device reports its version as new. Only a version that differs from the previous one
/// is stored, whether that is in this batch or in the table.
const STORE_DEVICES: &str = "
with given as (
    select device, to_timestamp(since_ms / 1000.0) as since, firmware, model, origin_partition, origin_offset
    from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::integer[], $6::bigint[])
         as d (device, since_ms, firmware, model, origin_partition, origin_offset)
), told as (
    select *, lag(since) over own as since_before, lag(array[firmware, model]) over own as before
    from given window own as (partition by device order by since)
)
insert into device_version (device, since, firmware, model, origin_partition, origin_offset)
select device, told.since, firmware, model, origin_partition, origin_offset
from told left join lateral (
    select v.since, array[v.firmware, v.model] as version from device_version v
    where v.device = told.device and v.since <= told.since order by v.since desc limit 1
) stored on true
where array[firmware, model] is distinct from
      case when stored.since > since_before then stored.version else coalesce(before, stored.version) end
on conflict do nothing";

/// Sets the server's own time limit for the rest of the transaction.
async fn limit_time(connection: &mut PgConnection, time_max_ms: u128) -> Result<(), sqlx::Error> {
    sqlx::query("select set_config('statement_timeout', $1, true), set_config('plan_cache_mode', 'force_custom_plan', true)")
        .bind(time_max_ms.to_string())
        .execute(connection)
        .await
        .map(drop)
}

async fn check_edition(connection: &mut PgConnection) -> Result<Edition, DatabaseError> {
    let edition = edition::ask(connection).await?;
    let made_for: Option<String> = sqlx::query_scalar("select name from edition")
        .fetch_optional(connection)
        .await
        .map_err(|error| DatabaseError::new(ANALYTICS, "asking for the schema's edition", &error))?;
    if made_for.as_deref() == Some(edition.as_str()) {
        return Ok(edition);
    }
    Err(DatabaseError::Invalid(format!(
        "the server runs TimescaleDB's {} edition, and the analytics database is {}; run `pulsegate topology apply`",
        edition.as_str(),
        made_for.map_or("not complete".to_owned(), |name| format!(
            "made for the {name} edition"
        ))
    )))
}

/// Adds the newest snapshot to a claimed position.
async fn restore(
    connection: &mut PgConnection,
    topic: &str,
    partition: i32,
    Position { next, epoch, log_end }: Position,
) -> Result<Claim, sqlx::Error> {
    let row =
        sqlx::query("select next, model, state from detector_snapshot where topic = $1 and partition = $2")
            .bind(topic)
            .bind(partition)
            .fetch_optional(connection)
            .await?;
    let snapshot = row.map(|row| {
        Ok::<_, sqlx::Error>(Snapshot {
            next: row.try_get(0)?,
            model: row.try_get(1)?,
            state: row.try_get(2)?,
        })
    });
    Ok(Claim {
        next,
        epoch,
        log_end,
        // An operator may have moved `next` back after a log was cut: a newer snapshot is unusable then.
        snapshot: snapshot
            .transpose()?
            .filter(|snapshot| next.is_some_and(|next| snapshot.next <= next)),
    })
}

async fn note_due(connection: &mut PgConnection, minutes: &BTreeSet<i64>) -> Result<(), sqlx::Error> {
    sqlx::query("insert into rollup_due select to_timestamp(m * 60.0) from unnest($1::bigint[]) as m")
        .bind(minutes.iter().copied().collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(drop)
}

async fn store_snapshot(
    connection: &mut PgConnection,
    topic: &str,
    partition: i32,
    snapshot: &Snapshot,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into detector_snapshot (topic, partition, next, model, state) values ($1, $2, $3, $4, $5)
         on conflict (topic, partition) do update
         set next = excluded.next, model = excluded.model, state = excluded.state, taken_at = now()",
    )
    .bind(topic)
    .bind(partition)
    .bind(snapshot.next)
    .bind(&snapshot.model)
    .bind(&snapshot.state)
    .execute(connection)
    .await
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    static GROUPS: std::sync::LazyLock<pulsegate_detect::alert::GroupsConfig> =
        std::sync::LazyLock::new(Default::default);

    /// The watch runs these futures on the threads of a runtime.
    #[test]
    fn the_sinks_futures_can_move_between_threads() {
        fn sent<T: Send>(_: impl FnOnce(&'static Analytics, &'static Batch<'static>) -> T) {}
        sent(|analytics, batch| analytics.write(batch));
        sent(|analytics, _| analytics.claim("t", 0));
        sent(|analytics, _| analytics.note_log_end("t", 0, 0));
        sent(|analytics, _| analytics.roll_up());
        sent(|analytics, _| analytics.drop_old());
        sent(|analytics, _| analytics.lock("job"));
        sent(|analytics, _| analytics.fleet_minutes(0, 1));
        sent(|analytics, _| analytics.cohort_windows(0, 1, 1));
        sent(|analytics, _| analytics.known_shifts(0));
        sent(|analytics, _| analytics.gather(&GROUPS));
        sent(|analytics, _| analytics.outbox_take(1));
    }
}
