//! A sink's offset in each partition, and the claim that permits to advance it: the table `sink_offset` of every
//! database with a sink.
//!
//! One `UPDATE` checks two conditions: the row is at the offset that the writer expects, and no other worker has
//! claimed it since. As the last statement of the batch's transaction it makes both true of the batch or stores nothing
//! of it.

use std::time::{Duration, Instant};

use sqlx::{PgConnection, Postgres, Row, Transaction};

use super::error::{DatabaseError, WriteError};
use super::pool::Pool;

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

impl Pool {
    /// Claims a partition for the sink of this database: its previous owner can no longer write it. `restore` reads, on
    /// the same connection, what the new owner continues from.
    ///
    /// # Errors
    /// [`DatabaseError`], or that of `restore`.
    pub async fn claim<T, E: From<DatabaseError>>(
        &self,
        topic: &str,
        partition: i32,
        restore: impl AsyncFnOnce(&mut PgConnection, Position) -> Result<T, E>,
    ) -> Result<T, E> {
        let action = "claiming a partition";
        self.ask(action, async |connection| {
            let position = claim(connection, topic, partition)
                .await
                .map_err(self.failed(action))?;
            restore(connection, position).await
        })
        .await
    }

    /// Records the end of a log that ends before the stored offset. The record persists when the log has grown: the
    /// stored offsets then hold other records, and no later look at the log reveals it.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn note_log_end(&self, topic: &str, partition: i32, log_end: i64) -> Result<(), DatabaseError> {
        let action = "recording the end of a log";
        self.ask(action, async |connection| {
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
            .map_err(self.failed(action))
        })
        .await
    }

    /// Takes a step within the transaction that stores its batch. Returns false if an earlier attempt took it, whose
    /// commit was not confirmed: everything is stored then, and the transaction must be rolled back.
    ///
    /// # Errors
    /// [`WriteError`]; the transaction must be rolled back then.
    pub async fn take_step(
        &self,
        transaction: &mut Transaction<'_, Postgres>,
        taken: &Step<'_>,
    ) -> Result<bool, WriteError> {
        let stepped = step(&mut *transaction, taken)
            .await
            .map_err(self.failed("advancing the offset"))?;
        verdict(self.database(), taken, stepped)?;
        Ok(stepped == Stepped::Taken)
    }

    /// Ends the transaction of a batch: commits it if its step was taken. Returns the duration of the commit.
    ///
    /// # Errors
    /// [`WriteError`]; it is then unknown whether the transaction is committed.
    pub async fn end_batch(
        &self,
        transaction: Transaction<'_, Postgres>,
        is_taken: bool,
    ) -> Result<Duration, WriteError> {
        if !is_taken {
            transaction
                .rollback()
                .await
                .map_err(self.failed("rolling back a batch"))?;
            return Ok(Duration::ZERO);
        }
        let begun = Instant::now();
        transaction
            .commit()
            .await
            .map_err(self.failed("committing a batch"))?;
        Ok(begun.elapsed())
    }
}

/// Claims a partition: its previous owner can no longer write it. Must not run within a transaction that stays open,
/// which would make the owner wait.
async fn claim(connection: &mut PgConnection, topic: &str, partition: i32) -> Result<Position, sqlx::Error> {
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

/// Advances the offset if both conditions hold.
async fn step(connection: &mut PgConnection, step: &Step<'_>) -> Result<Stepped, sqlx::Error> {
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
