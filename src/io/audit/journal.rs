//! The lane of administrative actions: keys created, rotated and revoked, PHI decrypted, configuration, schemas and
//! topology changed.
//!
//! Each entry carries the hash of the previous one. Many processes append, rarely: they queue for the lock on its head.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use jiff::Timestamp;
use serde_json::{Map, Value};
use sqlx::{Connection, PgConnection, Row};
use tracing::warn;

use super::head::{self, failed};
use super::{AuditError, Settings};
use crate::io::host;
use crate::io::postgres::{DatabaseError, Pool};
use pulsegate_ledger::log::entry::{self, ADMINISTRATION, Action, Deed, VERSION, Who};
use pulsegate_ledger::merkle::{self, MerkleRoot};

/// Most actions in one write.
pub const ACTIONS_MAX: usize = 1_000;

/// Longest pause between attempts to record a start.
const SAY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Database login that a journal uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A command run by an operator.
    Operator,
    /// The gate.
    Gate,
    /// The watch.
    Watch,
}

/// Records actions in the lane [`ADMINISTRATION`].
pub struct Journal {
    pool: Pool,
    who: Who,
}

impl Journal {
    /// Connects with the login of `role`.
    ///
    /// # Errors
    /// [`AuditError::Database`] if the connection fails or this host has no name.
    pub async fn connect(settings: &Settings, role: Role) -> Result<Self, AuditError> {
        let role = match role {
            Role::Operator => "operator_audit",
            Role::Gate => "gate_audit",
            Role::Watch => "watch_audit",
        };
        Self::new(head::connect(settings, role, 1).await?)
    }

    pub(super) fn new(pool: Pool) -> Result<Self, AuditError> {
        let host = host::name().ok_or_else(|| DatabaseError::Invalid("this host has no name".to_owned()))?;
        let who = Who {
            uid: rustix::process::getuid().as_raw(),
            host,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Ok(Self { pool, who })
    }

    /// Records an action that was, or is about to be, taken. The entry is in the log once this returns.
    ///
    /// # Errors
    /// [`AuditError`]; nothing was written then, unless the database's answer was lost.
    pub async fn record(
        &self,
        at: Timestamp,
        deed: Deed,
        detail: Map<String, Value>,
    ) -> Result<(), AuditError> {
        self.record_all(at, vec![(deed, detail)]).await
    }

    /// As [`Journal::record`], for up to [`ACTIONS_MAX`] actions at once: all of them are written, or none.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn record_all(
        &self,
        at: Timestamp,
        deeds: Vec<(Deed, Map<String, Value>)>,
    ) -> Result<(), AuditError> {
        if deeds.len() > ACTIONS_MAX {
            let problem = format!("too many actions in one write: at most {ACTIONS_MAX} are allowed");
            return Err(DatabaseError::Invalid(problem).into());
        }
        let action = "writing to the audit log";
        self.pool
            .ask(action, async |connection| {
                let fault = failed(action);
                let mut transaction = connection.begin().await.map_err(&fault)?;
                head::open_lane(&mut transaction, ADMINISTRATION)
                    .await
                    .map_err(&fault)?;
                let (mut tree, last) = lock(&mut transaction)
                    .await
                    .map_err(&fault)?
                    .ok_or_else(damaged)?;
                let from = tree.leaves();
                let entries = self.entries(at, &deeds, from, last);
                if entries.iter().any(|entry| entry.len() > entry::ENTRY_BYTES_MAX) {
                    return Err(DatabaseError::Invalid(
                        "the details of an action are too long for an audit entry".to_owned(),
                    )
                    .into());
                }
                entries.iter().for_each(|entry| tree.push(merkle::leaf(&[entry])));
                let moved = head::append(&mut transaction, ADMINISTRATION, from, &entries, &tree).await;
                if !moved.map_err(&fault)? {
                    return Err(damaged());
                }
                transaction.commit().await.map_err(|error| fault(error).into())
            })
            .await
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.pool.close().await;
    }

    fn entries(
        &self,
        at: Timestamp,
        deeds: &[(Deed, Map<String, Value>)],
        from: u64,
        last: Option<Vec<u8>>,
    ) -> Vec<Vec<u8>> {
        let mut prev = last.map_or_else(|| hex::encode([0; 32]), |last| entry::digest(&last));
        let numbered = (from..).zip(deeds);
        let written = numbered.map(|(seq, (deed, detail))| {
            let bytes = entry::bytes(&Action {
                v: VERSION,
                seq,
                prev: prev.clone(),
                at: format!("{at:.3}"),
                action: *deed,
                who: self.who.clone(),
                detail: detail.clone(),
            });
            prev = entry::digest(&bytes);
            bytes
        });
        written.collect()
    }
}

/// Locks the lane's head until the transaction ends. Returns the tree and the last entry; `None` if the head is
/// damaged.
pub(super) async fn lock(
    connection: &mut PgConnection,
) -> Result<Option<(MerkleRoot, Option<Vec<u8>>)>, sqlx::Error> {
    let row = sqlx::query("select size, frontier from audit_lane where lane = $1 for no key update")
        .bind(ADMINISTRATION)
        .fetch_one(&mut *connection)
        .await?;
    let size: i64 = row.try_get(0)?;
    let Some(tree) = merkle::tree_of(size.cast_unsigned(), row.try_get(1)?) else {
        return Ok(None);
    };
    let last = sqlx::query_scalar("select entry from audit_entry where lane = $1 and seq = $2")
        .bind(ADMINISTRATION)
        .bind(size - 1)
        .fetch_optional(connection)
        .await?;
    Ok(Some((tree, last)))
}

fn damaged() -> AuditError {
    AuditError::Tampered {
        lane: ADMINISTRATION.to_owned(),
        seq: 0,
        reason: "its head is damaged".to_owned(),
    }
}

/// Records that a process has started, and with which configuration. Retries until it succeeds or the process ends,
/// since nothing else tells which configuration the process ran with. A lost answer of the database leads to two
/// entries.
pub async fn say_started(settings: Settings, role: Role, deed: Deed, config_sha256: String) {
    let at = Timestamp::now();
    let say = async || {
        let journal = Journal::connect(&settings, role).await?;
        let detail = detail([("config_sha256", config_sha256.clone().into())]);
        let recorded = journal.record(at, deed, detail).await;
        journal.close().await;
        recorded
    };
    let pauses = ExponentialBuilder::default()
        .with_max_delay(SAY_PAUSE_MAX)
        .with_jitter()
        .without_max_times();
    let said = say.retry(pauses).notify(|error: &AuditError, pause| {
        warn!(%error, ?pause, "failed to record the start in the audit log; retrying");
    });
    if let Err(error) = said.await {
        warn!(%error, "gave up recording the start in the audit log");
    }
}

/// Builds an action's detail from its members.
#[must_use]
pub fn detail<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Pseudonym of a key or device for the log: the digest of its name, which only those who know the name can recognise.
#[must_use]
pub fn pseudonym(name: &str) -> String {
    entry::digest(name.as_bytes())
}
