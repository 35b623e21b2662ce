//! The audit log as the watch writes it: lanes are claimed, extended and signed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Connection, PgConnection, Row};
use tracing::{info, warn};

use super::head::{self, failed};
use super::journal::{self, Journal};
use super::{AuditError, Settings, keys};
use crate::io::postgres::offsets::{Position, Step};
use crate::io::postgres::{DatabaseError, Pool, WriteError};
use crate::telemetry::metrics::PoolStatistics;
use pulsegate_ledger::log::chain::Chain;
use pulsegate_ledger::log::checkpoint::Signed;
use pulsegate_ledger::log::entry::ADMINISTRATION;
use pulsegate_ledger::log::{lane_of, origin};
use pulsegate_ledger::merkle::{self, MerkleRoot};
use pulsegate_ledger::note::{Checkpoint, LogKey, PublicKey};

/// Most ledger records in one batch: while its last batch is being written, a watch fills the next one to twice its
/// limit plus one chunk.
pub const BATCH_RECORDS_MAX: usize = 21_024;

/// Most connections of one watch: its lanes append one after another, and rarely.
const CONNECTIONS_MAX: u32 = 5;

/// A record of the ledger topic.
#[derive(Clone, Copy, Debug)]
pub struct LedgerRecord<'a> {
    /// Offset in the ledger topic.
    pub offset: i64,
    /// Value; empty if the record has none.
    pub value: &'a [u8],
}

/// Consecutive records of one partition of the ledger topic.
#[derive(Clone, Copy, Debug)]
pub struct LedgerBatch<'a> {
    /// Partition of the ledger topic.
    pub partition: i32,
    /// Epoch of the claim.
    pub epoch: i64,
    /// Offset at which the log stands: the claim's `next`, then that of the previous batch.
    pub expected: Option<i64>,
    /// First offset after this batch.
    pub next: i64,
    /// At most [`BATCH_RECORDS_MAX`] records.
    pub records: &'a [LedgerRecord<'a>],
}

/// Result of claiming a partition of the ledger topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Offset to continue reading at; `None` if nothing was ever stored.
    pub next: Option<i64>,
    /// Epoch to pass with each batch; every later claim has a higher one.
    pub epoch: i64,
    /// End of the ledger, if it was found to end before `next`; see [`Position`].
    pub log_end: Option<i64>,
    /// Number of entries in the lane.
    pub size: u64,
}

/// Result of appending a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Entries added, alerts included.
    pub entries: usize,
    /// Alerts among them.
    pub alerts: usize,
    /// Duration of the commit.
    pub commit: Duration,
}

/// The watch's access to the audit log.
pub struct AuditLog {
    pool: Pool,
    key: LogKey,
    trusted: Vec<PublicKey>,
    environment: String,
    raw_topic: String,
    ledger_topic: String,
    /// Lanes claimed by this worker, by partition.
    lanes: Mutex<BTreeMap<i32, Claimed>>,
    /// Last known tree of the lane of actions, to which every process appends.
    administration: tokio::sync::Mutex<Option<MerkleRoot>>,
}

/// A claimed lane.
#[derive(Clone)]
struct Claimed {
    epoch: i64,
    lane: Arc<tokio::sync::Mutex<ClaimedLane>>,
}

/// State of a claimed lane after the last stored batch.
struct ClaimedLane {
    tree: MerkleRoot,
    chain: Chain,
    signed: Option<Signed>,
}

impl AuditLog {
    /// Connects as the role `watch_audit` and reads the signing key.
    ///
    /// # Errors
    /// [`AuditError`], also if the signing key is not among the trusted keys.
    pub async fn connect(settings: &Settings) -> Result<Self, AuditError> {
        let key = keys::signing(settings)?;
        let trusted = keys::trusted(settings)?;
        if !trusted.contains(&key.public()) {
            return Err(AuditError::Key {
                path: "of public keys".to_owned(),
                reason: "does not contain the public key of audit.key_file; add it, or this log's \
                         checkpoints cannot be verified"
                    .to_owned(),
            });
        }
        let pool = head::connect(settings, "watch_audit", CONNECTIONS_MAX).await?;
        Ok(Self {
            pool,
            key,
            trusted,
            environment: settings.access.environment.clone(),
            raw_topic: settings.topics.raw.clone(),
            ledger_topic: settings.topics.ledger.clone(),
            lanes: Mutex::default(),
            administration: tokio::sync::Mutex::default(),
        })
    }

    /// Usage of the connection pool.
    #[must_use]
    pub fn pool(&self) -> PoolStatistics {
        self.pool.statistics()
    }

    /// Returns a journal of this process's own actions, on the same connections.
    ///
    /// # Errors
    /// [`AuditError`] if this host has no name.
    pub fn journal(&self) -> Result<Journal, AuditError> {
        Journal::new(self.pool.clone())
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Claims a partition of the ledger topic: its previous owner can no longer write. The head of its lane is
    /// recomputed from the newest signed checkpoint and the entries after it.
    ///
    /// # Errors
    /// [`AuditError::Tampered`] if they do not yield the stored head; [`AuditError::Database`].
    pub async fn claim(&self, partition: i32) -> Result<Claim, AuditError> {
        let name = lane_of(&self.raw_topic, partition);
        let (position, lane) = self
            .pool
            .claim(&self.ledger_topic, partition, async |connection, position| {
                let lane = self.recover(connection, &name, position).await?;
                Ok::<_, AuditError>((position, lane))
            })
            .await?;
        let size = lane.tree.leaves();
        info!(partition, size, next = position.next, "audit lane claimed");
        let Position { next, epoch, log_end } = position;
        let lane = Arc::new(tokio::sync::Mutex::new(lane));
        self.lanes().insert(partition, Claimed { epoch, lane });
        Ok(Claim {
            next,
            epoch,
            log_end,
            size,
        })
    }

    /// Records that a partition of the ledger ends at `log_end`, before the offset already appended: it is held from
    /// now on.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn note_log_end(&self, partition: i32, log_end: i64) -> Result<(), DatabaseError> {
        self.pool
            .note_log_end(&self.ledger_topic, partition, log_end)
            .await
    }

    /// Forgets a revoked partition, unless it was claimed again meanwhile: this worker no longer signs its lane.
    pub fn release(&self, partition: i32, epoch: i64) {
        self.lanes()
            .retain(|of, claimed| *of != partition || claimed.epoch != epoch);
    }

    async fn recover(
        &self,
        connection: &mut PgConnection,
        name: &str,
        position: Position,
    ) -> Result<ClaimedLane, AuditError> {
        let fault = failed("reading a lane");
        head::open_lane(connection, name).await.map_err(&fault)?;
        let origin = origin(&self.environment, name);
        let mut tree = head::vouched(connection, name, &origin, &self.trusted).await?;
        head::catch_up(connection, name, &mut tree).await?;
        if position.next.is_none() && tree.leaves() > 0 {
            return Err(AuditError::Tampered {
                lane: name.to_owned(),
                seq: tree.leaves(),
                reason: "it has entries, but its offset in the ledger topic is missing".to_owned(),
            });
        }
        let chain = last_record(connection, name).await.map_err(&fault)?;
        Ok(ClaimedLane {
            tree,
            chain,
            signed: None,
        })
    }

    /// Appends a batch: its entries, the lane's head and the partition's step, or nothing. A failed batch may be
    /// retried: if it was stored after all, this is detected and counts as success.
    ///
    /// # Errors
    /// [`WriteError`]; this call stored nothing of the batch then.
    pub async fn append(&self, batch: &LedgerBatch<'_>) -> Result<Appended, WriteError> {
        let claimed = self.lanes().get(&batch.partition).cloned();
        let Some(claimed) = claimed else {
            return Err(self.fenced(batch));
        };
        let mut lane = claimed.lane.lock().await;
        if claimed.epoch != batch.epoch {
            return Err(self.fenced(batch));
        }
        if batch.records.len() > BATCH_RECORDS_MAX {
            return Err(WriteError::Refused(DatabaseError::Invalid(format!(
                "the batch has too many ledger records: at most {BATCH_RECORDS_MAX} can be appended at once"
            ))));
        }
        let (mut tree, mut chain) = (lane.tree.clone(), lane.chain.clone());
        let mut entries = Vec::with_capacity(batch.records.len());
        let mut alerts = 0;
        for record in batch.records {
            let observed = chain.observe(record.offset, record.value);
            alerts += observed
                .iter()
                .filter(|entry| entry.as_slice() != record.value)
                .count();
            entries.extend(observed);
        }
        entries.iter().for_each(|entry| tree.push(merkle::leaf(&[entry])));
        let commit = self
            .pool
            .ask("appending to the audit log", async |connection| {
                self.store(connection, batch, &lane, &entries, &tree).await
            })
            .await?;
        if alerts > 0 {
            warn!(
                lane = lane.chain.lane(),
                alerts,
                "the ledger topic has faults: alerts appended to the audit log; run `pulsegate audit verify`"
            );
        }
        (lane.tree, lane.chain) = (tree, chain);
        let entries = entries.len();
        Ok(Appended {
            entries,
            alerts,
            commit,
        })
    }

    async fn store(
        &self,
        connection: &mut PgConnection,
        batch: &LedgerBatch<'_>,
        lane: &ClaimedLane,
        entries: &[Vec<u8>],
        tree: &MerkleRoot,
    ) -> Result<Duration, WriteError> {
        let fault = failed("appending to the audit log");
        let step = Step {
            topic: &self.ledger_topic,
            partition: batch.partition,
            epoch: batch.epoch,
            expected: batch.expected,
            next: batch.next,
        };
        let mut transaction = connection.begin().await.map_err(&fault)?;
        // The step comes first because of its row lock: only the partition's owner continues. That it is not the last
        // statement makes no difference, since the transaction is atomic.
        if !self.pool.take_step(&mut transaction, &step).await? {
            return self.pool.end_batch(transaction, false).await;
        }
        let name = lane.chain.lane();
        let moved = head::append(&mut transaction, name, lane.tree.leaves(), entries, tree)
            .await
            .map_err(&fault)?;
        if !moved {
            return Err(WriteError::Refused(DatabaseError::Invalid(format!(
                "another process changed the head of the audit log's lane {name}; run `pulsegate audit verify`"
            ))));
        }
        self.pool.end_batch(transaction, true).await
    }

    /// Signs the heads of the lanes claimed by this worker and of the lane `administration`: those that have grown
    /// since they were last signed, and any after [`pulsegate_ledger::log::checkpoint::IDLE_INTERVAL_S`]. To be called every
    /// `audit.checkpoint_interval_ms`, also when no records arrive. Returns the number of lanes signed.
    ///
    /// # Errors
    /// [`AuditError::Tampered`] if the lane `administration` was changed; [`AuditError::Database`].
    pub async fn checkpoint(&self, now: Timestamp) -> Result<usize, AuditError> {
        let now_s = now.as_second();
        let lanes: Vec<_> = self
            .lanes()
            .values()
            .map(|claimed| Arc::clone(&claimed.lane))
            .collect();
        let (mut due, mut heads) = (Vec::new(), Vec::new());
        for held in lanes {
            let lane = held.lock().await;
            let size = lane.tree.leaves();
            if lane.signed.is_none_or(|signed| signed.is_outdated(size, now_s)) {
                heads.push((lane.chain.lane().to_owned(), lane.tree.clone()));
                drop(lane);
                due.push((held, Signed { size, at_s: now_s }));
            }
        }
        self.pool
            .ask("signing checkpoints", async |connection| {
                self.sign(connection, &heads, now).await
            })
            .await?;
        for (lane, signed) in due {
            lane.lock().await.signed = Some(signed);
        }
        let administration = self.sign_administration(now).await?;
        Ok(heads.len() + usize::from(administration))
    }

    async fn sign(
        &self,
        connection: &mut PgConnection,
        heads: &[(String, MerkleRoot)],
        now: Timestamp,
    ) -> Result<(), AuditError> {
        let mut rows = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let now_s = now.as_second();
        for (lane, tree) in heads {
            let checkpoint = Checkpoint {
                origin: origin(&self.environment, lane),
                size: tree.leaves(),
                root: tree.root(),
            };
            let note = self
                .key
                .sign(&checkpoint, now_s.unsigned_abs())
                .map_err(|error| {
                    DatabaseError::Invalid(format!("failed to sign the checkpoint of {lane}: {error}"))
                })?;
            rows.0.push(lane.as_str());
            rows.1.push(tree.leaves().cast_signed());
            rows.2.push(merkle::stored_frontier(tree));
            rows.3.push(note.to_string());
        }
        sqlx::query(
            "insert into audit_checkpoint (lane, size, frontier, note, signed_at)
             select lane, size, frontier, note, to_timestamp($5)
             from unnest($1::text[], $2::bigint[], $3::bytea[], $4::text[]) as c (lane, size, frontier, note)
             on conflict do nothing",
        )
        .bind(rows.0)
        .bind(rows.1)
        .bind(rows.2)
        .bind(rows.3)
        .bind(now_s as f64)
        .execute(connection)
        .await
        .map_err(failed("signing checkpoints"))?;
        Ok(())
    }

    /// Every process appends to this lane, so its growth is read and recomputed before it is signed.
    async fn sign_administration(&self, now: Timestamp) -> Result<bool, AuditError> {
        let mut seen = self.administration.lock().await;
        let action = "signing the lane of actions";
        let grown = self
            .pool
            .ask(action, async |connection| {
                let fault = failed(action);
                let mut transaction = connection.begin().await.map_err(&fault)?;
                if !is_due(&mut transaction, now).await.map_err(&fault)? {
                    // A dropped transaction would hold its lock until the connection is used again.
                    transaction.rollback().await.map_err(&fault)?;
                    return Ok::<_, AuditError>(None);
                }
                let mut tree = match &*seen {
                    Some(tree) => tree.clone(),
                    None => {
                        head::open_lane(&mut transaction, ADMINISTRATION)
                            .await
                            .map_err(&fault)?;
                        let origin = origin(&self.environment, ADMINISTRATION);
                        head::vouched(&mut transaction, ADMINISTRATION, &origin, &self.trusted).await?
                    }
                };
                journal::lock(&mut transaction).await.map_err(&fault)?;
                head::catch_up(&mut transaction, ADMINISTRATION, &mut tree).await?;
                let head = (ADMINISTRATION.to_owned(), tree.clone());
                self.sign(&mut transaction, &[head], now).await?;
                transaction.commit().await.map_err(&fault)?;
                Ok(Some(tree))
            })
            .await?;
        let signed = grown.is_some();
        *seen = grown.or(seen.take());
        Ok(signed)
    }

    fn fenced(&self, batch: &LedgerBatch<'_>) -> WriteError {
        WriteError::Fenced {
            topic: self.ledger_topic.clone(),
            partition: batch.partition,
        }
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, Claimed>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether no other process is signing this lane, and a checkpoint would add information.
async fn is_due(connection: &mut PgConnection, now: Timestamp) -> Result<bool, sqlx::Error> {
    let free: bool = sqlx::query_scalar(
        "select pg_try_advisory_xact_lock(hashtextextended('pulsegate audit administration', 0))",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !free {
        return Ok(false);
    }
    let newest = sqlx::query(
        "select c.size, extract(epoch from c.signed_at)::bigint, l.size
         from audit_checkpoint c join audit_lane l using (lane)
         where lane = $1 order by c.size desc, c.signed_at desc limit 1",
    )
    .bind(ADMINISTRATION)
    .fetch_optional(connection)
    .await?;
    let Some(row) = newest else { return Ok(true) };
    let signed = Signed {
        size: row.try_get::<i64, _>(0)?.cast_unsigned(),
        at_s: row.try_get(1)?,
    };
    let size = row.try_get::<i64, _>(2)?.cast_unsigned();
    Ok(signed.is_outdated(size, now.as_second()))
}

/// Restores a lane's chain from its last ledger record, which alerts may follow.
async fn last_record(connection: &mut PgConnection, lane: &str) -> Result<Chain, sqlx::Error> {
    let mut chain = Chain::new(lane);
    let mut before = i64::MAX;
    loop {
        let rows = sqlx::query(
            "select seq, entry from audit_entry where lane = $1 and seq < $2 order by seq desc limit 16",
        )
        .bind(lane)
        .bind(before)
        .fetch_all(&mut *connection)
        .await?;
        for row in &rows {
            before = row.try_get(0)?;
            if chain.resume(row.try_get(1)?) {
                return Ok(chain);
            }
        }
        if rows.is_empty() {
            return Ok(chain);
        }
    }
}
