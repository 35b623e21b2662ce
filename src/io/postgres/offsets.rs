//! How far a sink has come in each partition, and who may take it further: the table `sink_offset`, which every database
//! with a sink has.
//!
//! Two conditions stand in one `UPDATE`: the row is where the writer believes it to be, and nobody has claimed it since.
//! Done last in the transaction that stores the batch, it makes both true of the batch or leaves nothing of it behind.

use std::time::{Duration, Instant};

use sqlx::{PgConnection, Postgres, Row, Transaction};

use super::{DatabaseError, WriteError};

/// Where a sink stands in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The first offset that is not stored yet; `None` where nothing was ever stored.
    pub next: Option<i64>,
    /// The number of the claim; every claim has a higher one.
    pub epoch: i64,
    /// Where the log ended when it was found to end before `next`; `None` where it never was, or somebody has decided what
    /// is to become of it.
    pub log_end: Option<i64>,
}

/// One step of one partition.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The writer's claim.
    pub epoch: i64,
    /// Where the writer believes the sink to be.
    pub expected: Option<i64>,
    /// Where it is once this batch is stored.
    pub next: i64,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// Taken: commit.
    Taken,
    /// Taken already, by an earlier try of the same writer whose commit was not heard of: roll back, all is stored.
    TakenBefore,
    /// Somebody else has claimed the partition: roll back and stop.
    Fenced,
    /// The claim still holds, but the sink stands somewhere else than the writer believes: roll back.
    Elsewhere(Option<i64>),
}

/// Claims a partition: whoever claimed it before can't write it any more. Not to be called within a transaction that
/// stays open, because it would make the one who has it wait.
///
/// # Errors
/// What the database says.
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

/// Notes where a log ends that ends before what is stored of it. It stays noted when the log has grown: what stands at the
/// offsets that are stored is something else by then, and no later look at the log shows it.
///
/// # Errors
/// What the database says.
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

/// Takes a step, within the transaction that stores the batch and after everything else in it.
///
/// # Errors
/// What the database says.
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
    // A row that is gone was taken away by hand; whoever claims it afresh decides.
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

/// Commits the transaction of a step that was taken. Gives how long that took.
///
/// # Errors
/// What the database says; whether it is committed is then not known.
pub async fn commit(transaction: Transaction<'_, Postgres>) -> Result<Duration, sqlx::Error> {
    let begun = Instant::now();
    transaction.commit().await?;
    Ok(begun.elapsed())
}

/// What a step that was not taken means for its batch, for a writer to `database`.
///
/// # Errors
/// [`WriteError`] unless the batch is stored already.
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
                "the {database} database stands at {} in partition {} of {}, not at {}; claim the partition anew",
                show(next),
                step.partition,
                step.topic,
                show(step.expected)
            ))))
        }
    }
}
