//! Read access to what the watch has stored, as its own role.

use pulsegate::io::postgres::{DatabaseError, Pool, Who};
use pulsegate::io::timescale::Settings;
use sqlx::Row as _;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;

const ANALYTICS: &str = "analytics";
/// The demo asks one question at a time.
const CONNECTIONS: (u32, u32) = (0, 1);

/// First finding about a device since a given time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Token of the device.
    pub device: String,
    /// Kind of finding: one of `pulsegate_detect::finding`.
    pub kind: String,
    /// Description of the finding.
    pub reason: String,
    /// Event time of the reading that revealed it, in milliseconds since 1970.
    pub time_ms: i64,
}

/// The analytics database, for reading.
pub struct Account {
    pool: Pool,
}

impl Account {
    /// Connects as the role `watch_analytics`.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn connect(settings: &Settings) -> Result<Self, DatabaseError> {
        let who = Who {
            database: ANALYTICS,
            role: "watch_analytics",
            url: &settings.timescale.analytics_url,
            connections: CONNECTIONS,
        };
        let pool = Pool::connect(&settings.access, who).await?;
        Ok(Self { pool })
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.pool.close().await;
    }

    async fn rows<T>(
        &self,
        action: &'static str,
        query: Query<'_, sqlx::Postgres, PgArguments>,
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

    /// Returns the first offset not yet stored of each partition of a topic that has one.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn stored_until(&self, topic: &str) -> Result<Vec<(i32, i64)>, DatabaseError> {
        let query = "select partition, next from sink_offset where topic = $1 and next is not null";
        self.rows("reading the offsets", sqlx::query(query).bind(topic), |row| {
            Ok((row.try_get(0)?, row.try_get(1)?))
        })
        .await
    }

    /// Counts the readings from these offsets of each partition on, by quality.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn readings_since(&self, from: &[(i32, i64)]) -> Result<Vec<(String, i64)>, DatabaseError> {
        let (partitions, offsets): (Vec<_>, Vec<_>) = from.iter().copied().unzip();
        let query = "select name, count(*) from readings
             join unnest($1::integer[], $2::bigint[]) as since (partition, first)
               on partition = origin_partition and origin_offset >= first
             join quality on code = readings.quality group by name order by 2 desc, 1";
        let query = sqlx::query(query).bind(partitions).bind(offsets);
        self.rows("counting readings", query, |row| {
            Ok((row.try_get(0)?, row.try_get(1)?))
        })
        .await
    }

    /// Counts the findings from these offsets of the clean topic on, including those of their groups, and how many of
    /// them notify an operator, by kind.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn findings_since(
        &self,
        from: &[(i32, i64)],
    ) -> Result<Vec<(String, i64, i64)>, DatabaseError> {
        let (partitions, offsets): (Vec<_>, Vec<_>) = from.iter().copied().unzip();
        let query = "with own as (
                 select id, kind, notify, group_id from findings
                 join unnest($1::integer[], $2::bigint[]) as since (partition, first)
                   on partition = origin_partition and origin_offset >= first
             ), groups as (
                 select id, kind, notify, group_id from findings where id in (select group_id from own)
             ), told as (
                 select id, kind, notify from own
                 union select id, kind, notify from groups
                 union select id, kind, notify from findings where id in (select group_id from groups)
             )
             select kind, count(*), count(*) filter (where notify) from told group by kind order by kind";
        let query = sqlx::query(query).bind(partitions).bind(offsets);
        self.rows("counting findings", query, |row| {
            Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
        })
        .await
    }

    /// Returns the first finding about each device and metric since the time given for it, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn first_found(
        &self,
        metric: &str,
        since: &[(String, i64)],
    ) -> Result<Vec<Found>, DatabaseError> {
        let (devices, times): (Vec<_>, Vec<_>) = since
            .iter()
            .map(|(device, time_ms)| (device.as_str(), *time_ms))
            .unzip();
        let query =
            "select distinct on (device) device, kind, reason, (extract(epoch from time) * 1000)::bigint
             from findings join unnest($2::text[], $3::bigint[]) as asked (token, since_ms)
               on device = token and time >= to_timestamp(since_ms / 1000.0)
             where metric = $1 order by device, time, id";
        let query = sqlx::query(query).bind(metric).bind(devices).bind(times);
        self.rows("reading findings", query, |row| {
            Ok(Found {
                device: row.try_get(0)?,
                kind: row.try_get(1)?,
                reason: row.try_get(2)?,
                time_ms: row.try_get(3)?,
            })
        })
        .await
    }

    /// Returns the regressions of a metric caused by rollouts of the day that began at this time, in milliseconds since
    /// 1970: reason and time of detection.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn regressions_of(
        &self,
        metric: &str,
        day_ms: i64,
    ) -> Result<Vec<(String, i64)>, DatabaseError> {
        let query = "select reason, (extract(epoch from detected_at) * 1000)::bigint from findings
             where kind = 'regression' and metric = $1 and time = to_timestamp($2 / 1000.0)
             order by (document->'cohort'->>'rank')::integer";
        let query = sqlx::query(query).bind(metric).bind(day_ms);
        self.rows("reading regressions", query, |row| {
            Ok((row.try_get(0)?, row.try_get(1)?))
        })
        .await
    }
}
