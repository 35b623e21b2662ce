//! The sink for settled records: counts of the ledger's records, each exactly once, and the KPIs derived from them.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};

use super::Operations;
use super::operations::{OPERATIONS, store_kpis};
use crate::io::postgres::offsets::{Position, Step};
use crate::io::postgres::{DatabaseError, WriteError};
use pulsegate_detect::kpi::{Count, Settled};
use pulsegate_ledger::outcome::Outcome;

/// Most minutes whose KPIs are computed in one run; the rest waits for the next run.
const MINUTES_MAX: i64 = 1_440;

/// Counts of a stretch of one partition of the ledger.
#[derive(Clone, Copy, Debug)]
pub struct SettledBatch<'a> {
    /// Step of the partition's offset.
    pub step: Step<'a>,
    /// Counts of settled records.
    pub settled: &'a Settled,
}

fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> DatabaseError + Copy {
    move |error| DatabaseError::new(OPERATIONS, action, &error)
}

impl Operations {
    /// Claims a partition of the ledger topic: its previous owner can no longer count it.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn claim(&self, topic: &str, partition: i32) -> Result<Position, DatabaseError> {
        self.pool
            .claim(topic, partition, async |_, position| Ok(position))
            .await
    }

    /// Records that a partition's log ends at `log_end`, before the offset already counted: it is held from now on.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn note_log_end(&self, topic: &str, partition: i32, log_end: i64) -> Result<(), DatabaseError> {
        self.pool.note_log_end(topic, partition, log_end).await
    }

    /// Adds a batch to the minutes, all of it or nothing. A failed batch may be retried: if it was stored after all,
    /// this is detected and counts as success. Returns the duration of the commit.
    ///
    /// # Errors
    /// [`WriteError`]; this call stored nothing of the batch then.
    pub async fn count(&self, batch: &SettledBatch<'_>) -> Result<Duration, WriteError> {
        let action = "counting settled records";
        self.pool
            .ask(action, async |connection| {
                let mut transaction = connection.begin().await.map_err(failed(action))?;
                // The step comes first because of its row lock: only the partition's owner continues.
                let is_taken = self.pool.take_step(&mut transaction, &batch.step).await?;
                if is_taken {
                    add(&mut transaction, batch.settled)
                        .await
                        .map_err(failed(action))?;
                }
                self.pool.end_batch(transaction, is_taken).await
            })
            .await
    }

    /// Computes the KPIs of the minutes whose counts have changed since their last computation; returns the number of
    /// KPIs. A minute is computed from all of its counts, so late counts are included late and nothing is counted
    /// twice. Two processes that do this at once take turns.
    ///
    /// # Errors
    /// [`DatabaseError`]; the minutes wait for the next run then.
    pub async fn compute_kpis(&self) -> Result<u64, DatabaseError> {
        let action = "computing KPIs";
        self.pool
            .ask(action, async |connection| {
                let mut transaction = connection.begin().await.map_err(failed(action))?;
                let kpis = compute_kpis(&mut transaction).await.map_err(failed(action))?;
                transaction.commit().await.map_err(failed(action))?;
                Ok(kpis)
            })
            .await
    }

    /// Whether the counts of a minute (since 1970) before `until` have changed since its KPIs were last computed.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn is_due(&self, until: i64) -> Result<bool, DatabaseError> {
        let action = "looking for minutes that are due";
        self.pool
            .ask(action, async move |connection| {
                sqlx::query_scalar(
                    "select exists (select from settled_minute where due and minute < to_timestamp($1 * 60.0))",
                )
                .bind(until)
                .fetch_one(connection)
                .await
                .map_err(failed(action))
            })
            .await
    }
}

/// Lanes add to the same rows. All lock them in the same order, or two could deadlock.
async fn add(connection: &mut PgConnection, settled: &Settled) -> Result<(), sqlx::Error> {
    let (mut minutes, mut outcomes) = (Vec::new(), Vec::new());
    let (mut records, mut waited) = (Vec::new(), Vec::new());
    for (minute, outcome, count) in settled.iter() {
        minutes.push(minute);
        outcomes.push(outcome);
        records.push(count.records);
        waited.push(count.waited_ms);
    }
    sqlx::query(
        "insert into settled_minute as s (minute, outcome, records, waited_ms)
         select to_timestamp(minute * 60.0), outcome, records, waited_ms
         from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[]) as g (minute, outcome, records, waited_ms)
         order by minute, outcome collate \"C\"
         on conflict (minute, outcome) do update
         set records = s.records + excluded.records, waited_ms = s.waited_ms + excluded.waited_ms, due = true",
    )
    .bind(minutes)
    .bind(outcomes)
    .bind(records)
    .bind(waited)
    .execute(connection)
    .await
    .map(drop)
}

/// Locks all rows of a minute in the order in which lanes lock them; a lane that waits for one makes it due again.
async fn compute_kpis(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let due: Vec<i64> = sqlx::query_scalar(
        "with due as (
             select minute from settled_minute
             where minute in (select distinct minute from settled_minute where due order by minute limit $1)
             order by minute, outcome for update
         )
         select distinct (extract(epoch from minute) / 60)::bigint from due",
    )
    .bind(MINUTES_MAX)
    .fetch_all(&mut *connection)
    .await?;
    let rows = sqlx::query(
        "update settled_minute set due = false
         where minute in (select to_timestamp(minute * 60.0) from unnest($1::bigint[]) as d (minute))
         returning (extract(epoch from minute) / 60)::bigint, outcome, records, waited_ms",
    )
    .bind(due)
    .fetch_all(&mut *connection)
    .await?;
    let mut settled = Settled::default();
    for row in &rows {
        let outcome: &str = row.try_get(1)?;
        // An unknown name was written by another version, or by hand.
        let Some(outcome) = Outcome::all().find(|one| one.as_str() == outcome) else {
            continue;
        };
        let count = Count {
            records: row.try_get(2)?,
            waited_ms: row.try_get(3)?,
        };
        settled.add_count(row.try_get(0)?, outcome, count);
    }
    let kpis = settled.kpis();
    store_kpis(connection, &kpis).await?;
    Ok(kpis.len() as u64)
}
