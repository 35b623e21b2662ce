//! A sink's offset in each partition, and the claim that permits to advance it: the table `sink_offset` of every
//! database with a sink.
//!
//! One `UPDATE` checks two conditions: the row is at the offset that the writer expects, and no other worker has
//! claimed it since. As the last statement of the batch's transaction it makes both true of the batch or stores nothing
//! of it.

use std::time::{Duration, Instant};

use sqlx::{PgConnection, Postgres, Row, Transaction};

use super::{DatabaseError, WriteError};

/// Position of a sink in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// First offset not stored yet; `None` if nothing was ever stored.
    pub next: Option<i64>,
    /// Epoch of the claim; every later claim has a higher one.
    pub epoch: i64,
    /// End of the log, if it was found to end before `next`; `None` if it never was, or if an operator has resolved the
    /// case.
    pub log_end: Option<i64>,
}

/// A step of one partition.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Name of the topic.
    pub topic: &'a str,
    /// Number of the partition.
    pub partition: i32,
    /// Epoch of the writer's claim.
    pub epoch: i64,
    /// Offset at which the writer expects the sink.
    pub expected: Option<i64>,
    /// Offset of the sink once this batch is stored.
    pub next: i64,
}

/// Result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// The step was taken: commit.
    Taken,
    /// An earlier attempt took the step, and its commit was not confirmed: roll back, everything is stored.
    TakenBefore,
    /// Another worker has claimed the partition: roll back and stop.
    Fenced,
    /// The claim still holds, but the sink is at another offset than the writer expects: roll back.
    Elsewhere(Option<i64>),
}

/// Claims a partition: its previous owner can no longer write it. Must not run within a transaction that stays open,
/// which would make the owner wait.
///
/// # Errors
/// The database's error.
pub async fn claim(
    connection: &mut PgConnection,
    topic: &str,
    partition: i32,
) -> Result<Position, sqlx::Error> {
    let row = sqlx::query(
        "insert into sink_offset as s (topic, partition, epoch) values ($1, $2, 1)
         on conflict (topic, partition) do update set epoch = s.epoch + 1, updated_at = now()
         returning next, epoch, log_end",
    )
    .bind(topic)
    .bind(partition)
    .fetch_one(connection)
    .await?;
    Ok(Position {
        next: row.try_get(0)?,
        epoch: row.try_get(1)?,
        log_end: row.try_get(2)?,
    })
}

/// Records the end of a log that ends before the stored offset. The record persists when the log has grown: the stored
/// offsets then hold other records, and no later look at the log reveals it.
///
/// # Errors
/// The database's error.
pub async fn note_log_end(
    connection: &mut PgConnection,
    topic: &str,
    partition: i32,
    log_end: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update sink_offset set log_end = $3, updated_at = now()
         where topic = $1 and partition = $2 and next > $3 and log_end is null",
    )
    .bind(topic)
    .bind(partition)
    .bind(log_end)
    .execute(connection)
    .await
    .map(drop)
}

/// Takes a step, as the last statement of the transaction that stores the batch.
///
/// # Errors
/// The database's error.
pub async fn step(connection: &mut PgConnection, step: &Step<'_>) -> Result<Stepped, sqlx::Error> {
    let done = sqlx::query(
        "update sink_offset set next = $5, updated_at = now()
         where topic = $1 and partition = $2 and epoch = $3 and next is not distinct from $4",
    )
    .bind(step.topic)
    .bind(step.partition)
    .bind(step.epoch)
    .bind(step.expected)
    .bind(step.next)
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(Stepped::Taken);
    }
    let row = sqlx::query("select next, epoch from sink_offset where topic = $1 and partition = $2")
        .bind(step.topic)
        .bind(step.partition)
        .fetch_optional(connection)
        .await?;
    // A missing row was removed by hand; the next claim starts anew.
    let Some(row) = row else {
        return Ok(Stepped::Fenced);
    };
    let (next, epoch): (Option<i64>, i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok(match next {
        _ if epoch != step.epoch => Stepped::Fenced,
        Some(next) if next == step.next => Stepped::TakenBefore,
        next => Stepped::Elsewhere(next),
    })
}

/// Commits the transaction of a step that was taken. Returns the duration.
///
/// # Errors
/// The database's error; it is then unknown whether the transaction is committed.
pub async fn commit(transaction: Transaction<'_, Postgres>) -> Result<Duration, sqlx::Error> {
    let begun = Instant::now();
    transaction.commit().await?;
    Ok(begun.elapsed())
}

/// Translates the result of a step into the result of its batch, for a writer to `database`.
///
/// # Errors
/// [`WriteError`] unless the batch is already stored.
pub fn verdict(database: &'static str, step: &Step<'_>, stepped: Stepped) -> Result<(), WriteError> {
    match stepped {
        Stepped::Taken | Stepped::TakenBefore => Ok(()),
        Stepped::Fenced => Err(WriteError::Fenced {
            topic: step.topic.to_owned(),
            partition: step.partition,
        }),
        Stepped::Elsewhere(next) => {
            let show =
                |offset: Option<i64>| offset.map_or("the beginning".to_owned(), |offset| offset.to_string());
            Err(WriteError::Refused(DatabaseError::Invalid(format!(
                "the {database} database stands at {} in partition {} of {}, not at {}; claim the partition again",
                show(next),
                step.partition,
                step.topic,
                show(step.expected)
            ))))
        }
    }
}
