//! Outbox of findings, each delivered to its topic exactly once.
//!
//! One relay at a time takes findings in consecutively numbered batches. A batch's number is fixed in the database
//! before the batch is produced, and the Kafka transaction that produces the batch commits the number as well (as the
//! offset of a dedicated consumer group). So after a crash at any point, the number in Kafka tells whether the newest
//! batch in the database was produced: if not, it is produced; if so, it is deleted. An older relay that is still
//! running is fenced by the producer's `transactional.id`.

use sqlx::{Connection, PgConnection, Row};

use super::Analytics;
use super::analytics::failed;
use crate::io::postgres::DatabaseError;

/// A finding in the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Id of the finding, the header by which consumers recognise it.
    pub id: [u8; 16],
    /// Key of the record: the series.
    pub key: String,
    /// Value of the record.
    pub document: Vec<u8>,
    /// Whether the finding notifies an operator, as in the document.
    pub notify: bool,
}

/// Findings to produce in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxBatch {
    /// Number to commit with the batch. Numbers begin at 1 and have no gaps.
    pub number: i64,
    /// Findings in the order in which they were stored, except that those that waited to be grouped come later.
    pub rows: Vec<OutboxRow>,
}

impl Analytics {
    /// Fixes the next batch of at most `rows_max` due findings, or returns the batch that was fixed but not yet
    /// reported sent. `None` if there is nothing to send.
    ///
    /// The caller must be the only relay: it holds the topic's `transactional.id`.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn outbox_take(&self, rows_max: u32) -> Result<Option<OutboxBatch>, DatabaseError> {
        let action = "taking findings from the outbox";
        self.pool
            .ask(action, async move |connection| {
                let mut transaction = connection.begin().await.map_err(failed(action))?;
                let batch = take(&mut transaction, rows_max).await.map_err(failed(action))?;
                transaction.commit().await.map_err(failed(action))?;
                Ok(batch)
            })
            .await
    }

    /// Deletes every batch up to `number`, which the topic has. Returns the number of findings.
    ///
    /// No later batch gets one of these numbers either: the topic may be ahead of a database that was rebuilt or
    /// restored, and a batch with a number already in the topic would pass for a sent one.
    ///
    /// # Errors
    /// [`DatabaseError`]; the call may be repeated, as after a crash.
    pub async fn outbox_sent(&self, number: i64) -> Result<u64, DatabaseError> {
        let action = "deleting sent findings from the outbox";
        self.pool
            .ask(action, async move |connection| {
                let mut transaction = connection.begin().await.map_err(failed(action))?;
                let gone = forget(&mut transaction, number).await.map_err(failed(action))?;
                transaction.commit().await.map_err(failed(action))?;
                Ok(gone)
            })
            .await
    }
}

async fn take(connection: &mut PgConnection, rows_max: u32) -> Result<Option<OutboxBatch>, sqlx::Error> {
    // The row lock also orders two relays that both consider themselves the only one.
    let newest: i64 = sqlx::query_scalar("select batch from outbox_head for update")
        .fetch_one(&mut *connection)
        .await?;
    let rows = read(connection, newest).await?;
    if !rows.is_empty() {
        return Ok(Some(OutboxBatch { number: newest, rows }));
    }
    let number = newest + 1;
    let fixed = sqlx::query(
        "update outbox set batch = $1
         where sequence in (select sequence from outbox where batch is null and due <= now()
                            order by sequence limit $2 for update skip locked)",
    )
    .bind(number)
    .bind(i64::from(rows_max))
    .execute(&mut *connection)
    .await?;
    if fixed.rows_affected() == 0 {
        return Ok(None);
    }
    sqlx::query("update outbox_head set batch = $1")
        .bind(number)
        .execute(&mut *connection)
        .await?;
    let rows = read(connection, number).await?;
    Ok(Some(OutboxBatch { number, rows }))
}

async fn forget(connection: &mut PgConnection, number: i64) -> Result<u64, sqlx::Error> {
    sqlx::query("update outbox_head set batch = $1 where batch < $1")
        .bind(number)
        .execute(&mut *connection)
        .await?;
    let gone = sqlx::query("delete from outbox where batch <= $1")
        .bind(number)
        .execute(&mut *connection)
        .await?;
    Ok(gone.rows_affected())
}

async fn read(connection: &mut PgConnection, number: i64) -> Result<Vec<OutboxRow>, sqlx::Error> {
    let rows = sqlx::query(
        "select uuid_send(id), key, document, (convert_from(document, 'UTF8')::json->>'notify')::boolean
                     from outbox where batch = $1 order by sequence",
    )
    .bind(number)
    .fetch_all(connection)
    .await?;
    let read = |row: &sqlx::postgres::PgRow| {
        let id: &[u8] = row.try_get(0)?;
        Ok(OutboxRow {
            // A uuid has 16 bytes.
            id: id.try_into().map_err(|_| sqlx::Error::RowNotFound)?,
            key: row.try_get(1)?,
            document: row.try_get(2)?,
            notify: row.try_get(3)?,
        })
    };
    rows.iter().map(read).collect()
}
