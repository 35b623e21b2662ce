//! The sink for readings and findings.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};
use tracing::info;

use super::{Settings, edition, findings, rows};
use crate::io::postgres::offsets::{self, Position, Step, Stepped};
use crate::io::postgres::{DatabaseError, WriteError};
use crate::io::postgres::{Pool, Who};
use crate::telemetry::metrics::{Edition, PoolStatistics};
use pulsegate_detect::finding::Finding;
use pulsegate_detect::reading::{DeviceVersion, Reading};

pub(super) const ANALYTICS: &str = "analytics";
const DAY_MS: i64 = 86_400_000;

/// The largest snapshot of a partition's detectors, in bytes: a few hundred thousand series.
pub const SNAPSHOT_BYTES_MAX: usize = 256 << 20;

/// What the detectors of a partition knew at one point of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The first offset that they had not seen.
    pub next: i64,
    /// The version of the models whose state it is; another version can't read it.
    pub model: String,
    /// Their state, at most [`SNAPSHOT_BYTES_MAX`].
    pub state: Vec<u8>,
}

/// What a worker gets with a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where to read on; `None` where nothing was ever stored.
    pub next: Option<i64>,
    /// To be given with each batch; whoever claims the partition later has a higher one.
    pub epoch: i64,
    /// Where the log ended when it was found to end before `next`; as in [`Position`].
    pub log_end: Option<i64>,
    /// The newest snapshot. Its `next` is not beyond the claim's.
    pub snapshot: Option<Snapshot>,
}

/// Everything that a stretch of one partition came to.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The clean topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// From the claim.
    pub epoch: i64,
    /// Where the sink stands: the claim's `next`, and then that of the batch before.
    pub expected: Option<i64>,
    /// The first offset after this batch.
    pub next: i64,
    /// Every reading of the stretch.
    pub readings: &'a [Reading],
    /// What was found; a finding that is stored already is passed over.
    pub findings: &'a [Finding],
    /// Devices that run something else than before, or are new. One of which the same is stored is passed over.
    pub devices: &'a [DeviceVersion],
    /// What the detectors know after it, where it is time to keep that.
    pub snapshot: Option<&'a Snapshot>,
}

/// The analytics database as the watch sees it.
#[derive(Clone)]
pub struct Analytics {
    pub(super) pool: Pool,
    pub(super) edition: Edition,
    /// How far back a reading may lie.
    keep_ms: i64,
    pub(super) readings_days: u32,
    pub(super) rollups_days: u32,
    /// How long a job may take.
    pub(super) job_time_max: Duration,
    /// How long findings about devices wait for others.
    pub(super) group_wait: Duration,
}

/// What a request that failed is to the caller.
pub(super) fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> DatabaseError + Copy {
    move |error| DatabaseError::new(ANALYTICS, action, &error)
}

impl Analytics {
    /// Connects as the role `watch_analytics`, and asks for the edition.
    ///
    /// # Errors
    /// [`DatabaseError`], also where the schema was completed for another edition than the server has.
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

    /// The edition that the server runs.
    #[must_use]
    pub const fn edition(&self) -> Edition {
        self.edition
    }

    /// How the pool is used.
    #[must_use]
    pub fn pool(&self) -> PoolStatistics {
        self.pool.statistics()
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Claims a partition of a topic: whoever had it writes no more of it, and this worker reads on where that one's last
    /// batch ended.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn claim(&self, topic: &str, partition: i32) -> Result<Claim, DatabaseError> {
        let action = "claiming a partition";
        self.pool
            .ask(action, async |connection| {
                claim(connection, topic, partition)
                    .await
                    .map_err(|error| DatabaseError::new(ANALYTICS, action, &error))
            })
            .await
    }

    /// Notes that a partition's log ends at `log_end`, before what is stored of it: it is held from now on.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn note_log_end(&self, topic: &str, partition: i32, log_end: i64) -> Result<(), DatabaseError> {
        let action = "noting where a log ends";
        self.pool
            .ask(action, async |connection| {
                offsets::note_log_end(connection, topic, partition, log_end)
                    .await
                    .map_err(failed(action))
            })
            .await
    }

    /// Writes a batch, all of it or nothing. After a failure the same batch may be written again: if the one before was
    /// stored after all, this is noticed and counts as done. Gives how long the commit took.
    ///
    /// # Errors
    /// [`WriteError`]; nothing of the batch is stored by this call.
    pub async fn write(&self, batch: &Batch<'_>) -> Result<Duration, WriteError> {
        if let Some(snapshot) = batch.snapshot
            && snapshot.state.len() > SNAPSHOT_BYTES_MAX
        {
            return Err(WriteError::Refused(DatabaseError::Invalid(format!(
                "a snapshot of partition {} has more than {SNAPSHOT_BYTES_MAX} bytes; use more partitions",
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
                .map_err(failed("noting what to roll up"))?;
        }
        if !batch.devices.is_empty() {
            self.store_devices(&mut transaction, batch.devices)
                .await
                .map_err(failed("storing what devices run"))?;
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
        match offsets::step(&mut transaction, &step)
            .await
            .map_err(failed("stepping on"))?
        {
            Stepped::Taken => offsets::commit(transaction)
                .await
                .map_err(failed("committing a batch")),
            stepped => {
                transaction
                    .rollback()
                    .await
                    .map_err(failed("rolling a batch back"))?;
                offsets::verdict(ANALYTICS, &step, stepped).map(|()| Duration::ZERO)
            }
        }
    }

    /// What a question has for an answer, row by row.
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

    /// Runs `work` in a transaction that may take as long as a job.
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

/// A lane that has forgotten a device tells what it runs as if that were new. Only what differs from what it ran before is
/// stored: before in this batch, or in the table.
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

/// The server's own limit, for the rest of the transaction.
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

async fn claim(connection: &mut PgConnection, topic: &str, partition: i32) -> Result<Claim, sqlx::Error> {
    let Position { next, epoch, log_end } = offsets::claim(connection, topic, partition).await?;
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
        // Whoever moves `next` back in a log that was cut moves it before what a snapshot knows.
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

    /// The watch runs these on the threads of a runtime.
    #[test]
    fn what_the_sink_does_can_move_between_threads() {
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
