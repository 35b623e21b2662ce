//! The log as the watch writes it: lanes that are claimed, extended and signed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Connection, PgConnection, Row};
use tracing::{info, warn};

use super::head::{self, failed};
use super::journal::{self, Journal};
use super::{AuditError, Settings, keys};
use crate::io::postgres::offsets::{self, Position, Step, Stepped};
use crate::io::postgres::{DatabaseError, Pool, Who, WriteError};
use crate::telemetry::metrics::PoolStatistics;
use pulsegate_ledger::log::chain::Chain;
use pulsegate_ledger::log::entry::ADMINISTRATION;
use pulsegate_ledger::log::{lane_of, origin};
use pulsegate_ledger::merkle::{self, MerkleRoot};
use pulsegate_ledger::note::{Checkpoint, LogKey, PublicKey};

/// The most ledger records of one batch: a watch whose last batch is still being written fills the next one to twice its
/// limit, and a chunk more.
pub const BATCH_RECORDS_MAX: usize = 21_024;

/// Connections that one watch opens at most: its lanes append one after the other, and seldom.
const CONNECTIONS_MAX: u32 = 5;

/// How often a lane is signed that has not grown, in seconds: that shows that the log is alive. Signed as often as one
/// that grows, idle lanes would fill 75 MB a day with it.
pub const IDLE_CHECKPOINT_INTERVAL_S: i64 = 60;

/// A record of the ledger topic.
#[derive(Clone, Copy, Debug)]
pub struct LedgerRecord<'a> {
    /// Its offset there.
    pub offset: i64,
    /// Its value; empty where it has none.
    pub value: &'a [u8],
}

/// Records of one partition of the ledger topic, in their order.
#[derive(Clone, Copy, Debug)]
pub struct LedgerBatch<'a> {
    /// The partition.
    pub partition: i32,
    /// From the claim.
    pub epoch: i64,
    /// Where the log stands: the claim's `next`, and then that of the batch before.
    pub expected: Option<i64>,
    /// The first offset after this batch.
    pub next: i64,
    /// The records; at most [`BATCH_RECORDS_MAX`].
    pub records: &'a [LedgerRecord<'a>],
}

/// What a worker gets with a partition of the ledger topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where to read on; `None` where nothing was ever stored.
    pub next: Option<i64>,
    /// To be given with each batch; whoever claims the partition later has a higher one.
    pub epoch: i64,
    /// Where the ledger ended when it was found to end before `next`; as in [`Position`].
    pub log_end: Option<i64>,
    /// How many entries the lane has.
    pub size: u64,
}

/// What a batch added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Entries, alerts included.
    pub entries: usize,
    /// How many of them say that the ledger is not what it should be.
    pub alerts: usize,
    /// How long the commit took.
    pub commit: Duration,
}

/// The audit log as the watch sees it.
pub struct AuditLog {
    pool: Pool,
    key: LogKey,
    trusted: Vec<PublicKey>,
    environment: String,
    raw_topic: String,
    ledger_topic: String,
    /// The lanes that were claimed here.
    lanes: Mutex<BTreeMap<i32, Claimed>>,
    /// The lane of actions as far as it was seen here; everybody appends to it.
    administration: tokio::sync::Mutex<Option<MerkleRoot>>,
}

/// A lane that was claimed.
#[derive(Clone)]
struct Claimed {
    epoch: i64,
    lane: Arc<tokio::sync::Mutex<Lane>>,
}

/// A lane that was claimed, as of the last batch that was stored.
struct Lane {
    tree: MerkleRoot,
    chain: Chain,
    signed: Option<Signed>,
}

/// What a lane was when it was last signed, and when that was.
#[derive(Clone, Copy)]
struct Signed {
    size: u64,
    at_s: i64,
}

impl Signed {
    /// Whether a checkpoint of `size` entries would say more than this one did.
    fn is_outdated(self, size: u64, now_s: i64) -> bool {
        self.size != size || !(0..IDLE_CHECKPOINT_INTERVAL_S).contains(&(now_s - self.at_s))
    }
}

impl AuditLog {
    /// Connects as the role `watch_audit` and reads the key that signs.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn connect(settings: &Settings) -> Result<Self, AuditError> {
        let key = keys::signing(settings)?;
        let trusted = keys::trusted(settings)?;
        if !trusted.contains(&key.public()) {
            return Err(AuditError::Key {
                path: "of public keys".to_owned(),
                reason: "does not have the public key of audit.key_file; add it, nobody could verify this log's checkpoints"
                    .to_owned(),
            });
        }
        let pool = connect(settings, "watch_audit", CONNECTIONS_MAX).await?;
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

    /// How the pool is used.
    #[must_use]
    pub fn pool(&self) -> PoolStatistics {
        self.pool.statistics()
    }

    /// To say what this process does in the lane `administration`.
    ///
    /// # Errors
    /// [`AuditError`] where this host has no name.
    pub fn journal(&self) -> Result<Journal, AuditError> {
        Journal::new(self.pool.clone())
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Claims a partition of the ledger topic: whoever had it writes no more of it. The head of its lane is recomputed
    /// from the newest signed checkpoint and the entries after it.
    ///
    /// # Errors
    /// [`AuditError::Tampered`] where they do not give the head that is stored; [`AuditError::Database`].
    pub async fn claim(&self, partition: i32) -> Result<Claim, AuditError> {
        let action = "claiming a lane of the audit log";
        let name = lane_of(&self.raw_topic, partition);
        let (position, lane) = self
            .pool
            .ask(action, async |connection| {
                let position = offsets::claim(connection, &self.ledger_topic, partition)
                    .await
                    .map_err(failed(action))?;
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

    /// Notes that a partition of the ledger ends at `log_end`, before what is appended of it: it is held from now on.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn note_log_end(&self, partition: i32, log_end: i64) -> Result<(), DatabaseError> {
        let action = "noting where a log ends";
        self.pool
            .ask(action, async |connection| {
                offsets::note_log_end(connection, &self.ledger_topic, partition, log_end)
                    .await
                    .map_err(failed(action))
            })
            .await
    }

    /// Forgets a partition that was given back, unless it was claimed again since: it is signed here no more.
    pub fn release(&self, partition: i32, epoch: i64) {
        self.lanes()
            .retain(|of, claimed| *of != partition || claimed.epoch != epoch);
    }

    async fn recover(
        &self,
        connection: &mut PgConnection,
        name: &str,
        position: Position,
    ) -> Result<Lane, AuditError> {
        let fault = failed("reading a lane");
        head::open_lane(connection, name).await.map_err(&fault)?;
        let origin = origin(&self.environment, name);
        let mut tree = head::vouched(connection, name, &origin, &self.trusted).await?;
        head::catch_up(connection, name, &mut tree).await?;
        if position.next.is_none() && tree.leaves() > 0 {
            return Err(AuditError::Tampered {
                lane: name.to_owned(),
                seq: tree.leaves(),
                reason: "it has entries, but how far it has come in the ledger is gone".to_owned(),
            });
        }
        let chain = last_record(connection, name).await.map_err(&fault)?;
        Ok(Lane {
            tree,
            chain,
            signed: None,
        })
    }

    /// Appends a batch: its entries, the head of the lane and the step of its partition, or nothing. After a failure the
    /// same batch may be given again: if it was stored after all, this is noticed and counts as done.
    ///
    /// # Errors
    /// [`WriteError`]; nothing of the batch is stored by this call.
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
                "a batch of the audit log has at most {BATCH_RECORDS_MAX} ledger records"
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
                alerts, "the ledger is not what it should be; the audit log says where"
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
        lane: &Lane,
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
        // First, because of its lock: what follows is done by the one who may. That it is not the last statement changes
        // nothing, the transaction is one.
        let stepped = offsets::step(&mut transaction, &step).await.map_err(&fault)?;
        offsets::verdict("audit", &step, stepped)?;
        if stepped != Stepped::Taken {
            transaction.rollback().await.map_err(&fault)?;
            return Ok(Duration::ZERO);
        }
        let name = lane.chain.lane();
        let moved = head::append(&mut transaction, name, lane.tree.leaves(), entries, tree)
            .await
            .map_err(&fault)?;
        if !moved {
            return Err(WriteError::Refused(DatabaseError::Invalid(format!(
                "the head of the audit log's lane {name} was changed by somebody else; run `pulsegate audit verify`"
            ))));
        }
        offsets::commit(transaction)
            .await
            .map_err(|error| fault(error).into())
    }

    /// Signs the heads of the lanes that are claimed here and of the lane `administration`: those that have grown since
    /// they were last signed, and any after [`IDLE_CHECKPOINT_INTERVAL_S`]. To be called every
    /// `audit.checkpoint_interval_ms`, also where nothing came. Returns how many lanes were signed.
    ///
    /// # Errors
    /// [`AuditError::Tampered`] where the lane `administration` is not what it was; [`AuditError::Database`].
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
                    DatabaseError::Invalid(format!("the checkpoint of {lane} can't be signed: {error}"))
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

    /// Everybody appends to this lane, so what it grew by is read and recomputed before it is signed.
    async fn sign_administration(&self, now: Timestamp) -> Result<bool, AuditError> {
        let mut seen = self.administration.lock().await;
        let action = "signing the lane of actions";
        let grown = self
            .pool
            .ask(action, async |connection| {
                let fault = failed(action);
                let mut transaction = connection.begin().await.map_err(&fault)?;
                if !is_due(&mut transaction, now).await.map_err(&fault)? {
                    // Dropped, it would hold its lock until the connection is used again.
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

/// Connects to the audit database as `role`.
pub async fn connect(
    settings: &Settings,
    role: &'static str,
    connections_max: u32,
) -> Result<Pool, DatabaseError> {
    let who = Who {
        database: "audit",
        role,
        url: &settings.audit.url,
        connections: (0, connections_max),
    };
    Pool::connect(&settings.access, who).await
}

/// No other process signs it now, and a checkpoint would say something new.
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

/// The chain of a lane after its last ledger record: behind that there may be alerts.
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
