//! Groups of devices with the same finding at the same time, gathered from stored findings.
//!
//! Findings about devices wait in the outbox until they are due. While they wait, a group may absorb them: their
//! document then names the group and no longer notifies an operator. A finding that falls due first stands by itself.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::PgRow;
use sqlx::{Executor as _, PgConnection, Row};

use super::analytics::failed;
use super::{Analytics, findings};
use crate::io::postgres::DatabaseError;
use pulsegate_detect::absorbed;
use pulsegate_detect::alert::{
    DEVICES_MIN, GroupsConfig, Sighting, Version, WINDOW_MS, WINDOWS_BACK, gather,
};
use pulsegate_detect::finding::{Finding, FindingId, Severity};
use pulsegate_detect::reading::Token;

/// Most findings examined in one run.
const SIGHTINGS_MAX: i64 = 50_000;
/// At most this many of them are chosen because they wait ungrouped, oldest first: an absorbed finding frees its place
/// for the next. The others show whether there is a group and whether it continues, equally many from each window.
const WAITING_MAX: i64 = 40_000;

impl Analytics {
    /// Gathers waiting findings with others of the same time, stores the findings of new groups, and silences the
    /// members. Returns the new findings; `None` if another process is gathering.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing is changed then.
    pub async fn gather(&self, config: &GroupsConfig) -> Result<Option<Vec<Finding>>, DatabaseError> {
        let action = "gathering findings";
        let wait = self.group_wait;
        self.locked(action, "pulsegate groups", async move |connection| {
            let Some(times) = times(connection).await.map_err(failed(action))? else {
                return Ok(Vec::new());
            };
            let sightings = sightings(connection, times).await.map_err(failed(action))?;
            let alone: BTreeSet<Token> = sightings.iter().map(|sighting| sighting.device).collect();
            if alone.len() < DEVICES_MIN {
                return Ok(Vec::new());
            }
            let devices = devices(connection).await.map_err(failed(action))?;
            let mut gathered = gather(config, &sightings, &devices);
            let new = findings::store(connection, &gathered.findings, wait)
                .await
                .map_err(failed(action))?;
            silence(connection, &gathered.joined, times)
                .await
                .map_err(failed(action))?;
            gathered
                .findings
                .retain(|finding| new.contains(&finding.id.to_string()));
            Ok(gathered.findings)
        })
        .await
    }
}

/// Waiting findings, and others of the same time: some windows back, to tell whether a group continues, and one ahead,
/// because a late finding may make the next window a group.
const SIGHTINGS: &str = "
with waiting as materialized (
    select f.time, f.id, f.metric, f.group_id
    from outbox o join findings f on f.id = o.id and f.time = o.time
    where o.batch is null and f.kind = 'anomaly' and f.time between to_timestamp($4) and to_timestamp($5)
), spans as (
    select distinct metric, time_bucket($1 * interval '1 ms', time) as span from waiting
), around as (
    select f.time, f.id, f.metric, false as alone
    from spans s join findings f on f.metric = s.metric and f.kind = 'anomaly'
                                and f.time >= s.span - $3 * $1 * interval '1 ms' and f.time < s.span + 2 * $1 * interval '1 ms'
    where f.time between to_timestamp($4) and to_timestamp($5)
    union all
    select time, id, metric, group_id is null from waiting
), ranked as (
    -- Not a join with the waiting findings: without statistics on them the planner would assume few.
    select time, id, bool_or(alone) as alone,
           row_number() over (partition by bool_or(alone) order by time, id) as rank,
           row_number() over (partition by metric, time_bucket($1 * interval '1 ms', time) order by time, id) as rank_in_window
    from around group by time, id, metric
), near as (
    select time, id from ranked order by (alone and rank <= $6) desc, rank_in_window, time, id limit $2
)
select uuid_send(f.id), f.device, f.metric, f.unit, (extract(epoch from f.time) * 1000)::bigint,
       (extract(epoch from f.detected_at) * 1000)::bigint, f.severity, f.reason,
       (extract(epoch from f.baseline_age) * 1000)::bigint, v.firmware, v.model
from near n join findings f on f.time = n.time and f.id = n.id
                       and f.time between to_timestamp($4) and to_timestamp($5)
left join lateral (
    -- A finding is of the start of its window, which can be a few minutes before the event that ended it.
    select firmware, model from device_version v where v.device = f.device and v.since < f.time + $1 * interval '1 ms'
    order by since desc limit 1
) v on true
order by f.time, f.id";

/// Returns the time range of all findings that matter, in seconds since 1970; `None` if nothing waits. As constants of
/// the plan the bounds restrict it to the few chunks of findings of that range.
async fn times(connection: &mut PgConnection) -> Result<Option<(f64, f64)>, sqlx::Error> {
    let row = sqlx::query(
        "select extract(epoch from min(time))::float8, extract(epoch from max(time))::float8 from outbox
         where batch is null",
    )
    .fetch_one(&mut *connection)
    .await?;
    let window = WINDOW_MS as f64 / 1_000.0;
    let (first, last): (Option<f64>, Option<f64>) = (row.try_get(0)?, row.try_get(1)?);
    let around = |(first, last)| (first - (WINDOWS_BACK + 1) as f64 * window, last + 2.0 * window);
    connection
        .execute("set local plan_cache_mode = force_custom_plan")
        .await?;
    Ok(first.zip(last).map(around))
}

async fn sightings(
    connection: &mut PgConnection,
    (first, last): (f64, f64),
) -> Result<Vec<Sighting>, sqlx::Error> {
    let rows = sqlx::query(SIGHTINGS)
        .bind(WINDOW_MS as f64)
        .bind(SIGHTINGS_MAX)
        .bind(WINDOWS_BACK as f64)
        .bind(first)
        .bind(last)
        .bind(WAITING_MAX)
        .fetch_all(connection)
        .await?;
    rows.iter().filter_map(|row| sighting(row).transpose()).collect()
}

/// Returns `None` for a device whose name is not a token: such a row was inserted by hand.
fn sighting(row: &PgRow) -> Result<Option<Sighting>, sqlx::Error> {
    let Some(device) = Token::new(row.try_get::<&str, _>(1)?.as_bytes()) else {
        return Ok(None);
    };
    let id: &[u8] = row.try_get(0)?;
    let version: Option<String> = row.try_get(9)?;
    let version = version.zip(row.try_get(10)?);
    Ok(Some(Sighting {
        // A uuid has 16 bytes.
        id: FindingId::from_bytes(id.try_into().map_err(|_| sqlx::Error::RowNotFound)?),
        device,
        // Devices that do not report a version have nothing else in common.
        version: version.filter(|(firmware, model): &Version| !firmware.is_empty() || !model.is_empty()),
        metric: row.try_get(2)?,
        unit: row.try_get(3)?,
        time_ms: row.try_get(4)?,
        detected_ms: row.try_get(5)?,
        severity: Severity::from_name(row.try_get(6)?).unwrap_or_default(),
        reason: row.try_get(7)?,
        baseline_age_ms: row.try_get(8)?,
    }))
}

/// Counts devices by version.
async fn devices(connection: &mut PgConnection) -> Result<BTreeMap<Version, u32>, sqlx::Error> {
    let rows = sqlx::query(
        "select firmware, model, count(*) from (
             select distinct on (device) firmware, model from device_version order by device, since desc
         ) newest group by firmware, model",
    )
    .fetch_all(connection)
    .await?;
    let of = |row: &PgRow| {
        let devices: i64 = row.try_get(2)?;
        let version = (row.try_get(0)?, row.try_get(1)?);
        Ok((version, u32::try_from(devices).unwrap_or(u32::MAX)))
    };
    rows.iter().map(of).collect()
}

/// Locks the waiting documents. Leaves rows that the relay is about to take to the relay; both lock their rows in the
/// same order.
const WAITING: &str = "
select sequence, id::text, document from outbox where batch is null and id = any ($1::uuid[])
order by sequence for update skip locked";

const SILENCE: &str = "
with silent as (
    update outbox o set document = a.document
    from unnest($1::bigint[], $2::bytea[], $3::uuid[]) as a (sequence, document, group_id)
    where o.sequence = a.sequence
    returning o.id, o.time, o.document, a.group_id
)
update findings f set notify = false, group_id = s.group_id, document = convert_from(s.document, 'UTF8')::json
from silent s where f.id = s.id and f.time = s.time and f.time between to_timestamp($4) and to_timestamp($5)";

async fn silence(
    connection: &mut PgConnection,
    joined: &[(FindingId, FindingId)],
    (first, last): (f64, f64),
) -> Result<(), sqlx::Error> {
    let groups: BTreeMap<String, FindingId> = joined
        .iter()
        .map(|(id, group)| (id.to_string(), *group))
        .collect();
    let ids: Vec<&String> = groups.keys().collect();
    let waiting = sqlx::query(WAITING).bind(ids).fetch_all(&mut *connection).await?;
    let (mut sequences, mut documents, mut of) = (Vec::new(), Vec::new(), Vec::new());
    for row in &waiting {
        let Some(group) = groups.get(row.try_get::<&str, _>(1)?) else {
            continue;
        };
        if let Some(document) = absorbed(row.try_get(2)?, *group) {
            sequences.push(row.try_get::<i64, _>(0)?);
            documents.push(document);
            of.push(group.to_string());
        }
    }
    sqlx::query(SILENCE)
        .bind(sequences)
        .bind(documents)
        .bind(of)
        .bind(first)
        .bind(last)
        .execute(connection)
        .await
        .map(drop)
}
