//! The audit database as of one moment, read page by page.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use crate::io::audit::head::{PAGE_ENTRIES, failed};
use crate::io::postgres::DatabaseError;
use pulsegate_ledger::verify::stored::{Head, Row as Entry, StoredCheckpoint};

/// The bound on one reading of the whole log: longer than any takes.
pub const TIME_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Makes every query of the transaction see the same moment.
pub async fn begin(connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let fault = failed("reading the audit log");
    sqlx::query("set transaction isolation level repeatable read read only")
        .execute(&mut *connection)
        .await
        .map_err(&fault)?;
    // A verification takes as long as the log is long.
    for setting in ["statement_timeout", "idle_in_transaction_session_timeout"] {
        sqlx::query("select set_config($1, '0', true)")
            .bind(setting)
            .execute(&mut *connection)
            .await
            .map_err(&fault)?;
    }
    Ok(())
}

/// Reads all lanes that have a head.
pub async fn heads(connection: &mut PgConnection) -> Result<Vec<Head>, DatabaseError> {
    let fault = failed("reading the lanes of the audit log");
    let rows = sqlx::query("select lane, size, frontier from audit_lane order by lane")
        .fetch_all(connection)
        .await
        .map_err(&fault)?;
    rows.iter()
        .map(|row| {
            Ok(Head {
                lane: row.try_get(0).map_err(&fault)?,
                size: row.try_get::<i64, _>(1).map_err(&fault)?.cast_unsigned(),
                frontier: row.try_get(2).map_err(&fault)?,
            })
        })
        .collect()
}

/// Reads the log's next offset in each partition of `topic`.
pub async fn offsets(
    connection: &mut PgConnection,
    topic: &str,
) -> Result<BTreeMap<i32, i64>, DatabaseError> {
    let fault = failed("reading how far the audit log has come");
    let rows = sqlx::query("select partition, next from sink_offset where topic = $1 and next is not null")
        .bind(topic)
        .fetch_all(connection)
        .await
        .map_err(&fault)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0).map_err(&fault)?, row.try_get(1).map_err(&fault)?)))
        .collect()
}

/// Size of the newest checkpoint of a lane.
pub async fn newest_size(connection: &mut PgConnection, lane: &str) -> Result<Option<u64>, DatabaseError> {
    let size: Option<i64> = sqlx::query_scalar("select max(size) from audit_checkpoint where lane = $1")
        .bind(lane)
        .fetch_one(connection)
        .await
        .map_err(failed("reading the checkpoints"))?;
    Ok(size.map(i64::cast_unsigned))
}

/// Entries of a lane in order.
pub struct Rows {
    lane: String,
    buffer: VecDeque<Entry>,
    /// Number after the last entry read.
    next: i64,
    ended: bool,
}

impl Rows {
    /// Before the first one of `lane`.
    #[must_use]
    pub fn new(lane: &str) -> Self {
        Self {
            lane: lane.to_owned(),
            buffer: VecDeque::new(),
            next: 0,
            ended: false,
        }
    }

    /// Consumes the next entry. Afterwards [`Self::ahead`] has at least `ahead` more, if the lane has as many.
    pub async fn next(
        &mut self,
        connection: &mut PgConnection,
        ahead: usize,
    ) -> Result<Option<Entry>, DatabaseError> {
        while self.buffer.len() <= ahead && !self.ended {
            self.read(connection).await?;
        }
        Ok(self.buffer.pop_front())
    }

    /// Entries read ahead of the next one.
    pub fn ahead(&self) -> &VecDeque<Entry> {
        &self.buffer
    }

    async fn read(&mut self, connection: &mut PgConnection) -> Result<(), DatabaseError> {
        let fault = failed("reading entries");
        let rows = sqlx::query(
            "select seq, entry from audit_entry where lane = $1 and seq >= $2 order by seq limit $3",
        )
        .bind(&self.lane)
        .bind(self.next)
        .bind(PAGE_ENTRIES)
        .fetch_all(connection)
        .await
        .map_err(&fault)?;
        self.ended = rows.is_empty();
        for row in &rows {
            let seq: i64 = row.try_get(0).map_err(&fault)?;
            let bytes = row.try_get(1).map_err(&fault)?;
            self.buffer.push_back(Entry::new(seq.cast_unsigned(), bytes));
            self.next = seq.saturating_add(1);
        }
        Ok(())
    }
}

/// Checkpoints of a lane by size and time.
pub struct Checkpoints {
    lane: String,
    buffer: VecDeque<StoredCheckpoint>,
    last: (i64, f64),
    ended: bool,
}

impl Checkpoints {
    /// Before the first one of `lane`.
    #[must_use]
    pub fn new(lane: &str) -> Self {
        Self {
            lane: lane.to_owned(),
            buffer: VecDeque::new(),
            last: (-1, 0.0),
            ended: false,
        }
    }

    /// Consumes the next checkpoint if its size is at most `size`.
    pub async fn next_up_to(
        &mut self,
        connection: &mut PgConnection,
        size: u64,
    ) -> Result<Option<StoredCheckpoint>, DatabaseError> {
        if self.buffer.is_empty() && !self.ended {
            self.read(connection).await?;
        }
        let due = self
            .buffer
            .front()
            .is_some_and(|checkpoint| checkpoint.size <= size);
        Ok(if due { self.buffer.pop_front() } else { None })
    }

    async fn read(&mut self, connection: &mut PgConnection) -> Result<(), DatabaseError> {
        let fault = failed("reading checkpoints");
        let rows = sqlx::query(
            "select size, extract(epoch from signed_at)::float8, note from audit_checkpoint
             where lane = $1 and (size, signed_at) > ($2, to_timestamp($3)) order by size, signed_at limit $4",
        )
        .bind(&self.lane)
        .bind(self.last.0)
        .bind(self.last.1)
        .bind(PAGE_ENTRIES)
        .fetch_all(connection)
        .await
        .map_err(&fault)?;
        self.ended = rows.is_empty();
        for row in &rows {
            let size: i64 = row.try_get(0).map_err(&fault)?;
            let signed_at: f64 = row.try_get(1).map_err(&fault)?;
            self.last = (size, signed_at);
            self.buffer.push_back(StoredCheckpoint {
                size: size.cast_unsigned(),
                signed_at_s: signed_at as i64,
                note: row.try_get(2).map_err(&fault)?,
            });
        }
        Ok(())
    }
}
