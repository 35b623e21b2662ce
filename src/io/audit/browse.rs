//! Read access to the log: its lanes, their newest checkpoints, and entries with proofs of inclusion.

use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use thiserror::Error;

use super::head::{self, failed};
use super::snapshot::{self, Rows, TIME_MAX};
use super::{AuditError, Settings, keys};
use crate::io::postgres::DatabaseError;
use pulsegate_ledger::log::origin;
use pulsegate_ledger::merkle::proof::{RangeRoots, inclusion_ranges, verify_inclusion};
use pulsegate_ledger::merkle::tree_of;
use pulsegate_ledger::merkle::{self, Hash};
use pulsegate_ledger::note::{Checkpoint, Note, PublicKey};

/// A lane as described by its stored head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneHead {
    /// Name of the lane.
    pub lane: String,
    /// Number of entries.
    pub size: u64,
    /// Merkle root over the entries, in hex; `None` if the head is damaged.
    pub root: Option<String>,
    /// Newest checkpoint; `None` if there is none that a trusted key signed.
    pub checkpoint: Option<NewestCheckpoint>,
    /// C2SP verifier keys, one per trusted key, with which other tools verify the lane's checkpoints.
    pub verifier_keys: Vec<String>,
}

/// A checkpoint with a valid signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewestCheckpoint {
    /// Number of entries covered.
    pub size: u64,
    /// Time of signing, RFC 3339.
    pub signed_at: String,
    /// The signed note: whoever keeps a copy can later demand a proof that the log extends it.
    pub note: String,
}

/// An entry, with the proof that a signed checkpoint covers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proved {
    /// Name of the lane.
    pub lane: String,
    /// Number of the entry.
    pub entry: u64,
    /// Bytes of the entry as text; invalid UTF-8 is replaced.
    pub value: String,
    /// Hash of the entry's leaf, in hex.
    pub leaf: String,
    /// Signed note of the covering checkpoint.
    pub checkpoint: String,
    /// Inclusion proof (RFC 9162 §2.1.3), in hex.
    pub proof: Vec<String>,
}

/// Why the log cannot be shown.
#[derive(Debug, Error)]
pub enum BrowseError {
    /// The database or a key.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// No trusted checkpoint covers the entry.
    #[error(
        "no trusted checkpoint of {lane} covers the entry {entry}; `pulsegate audit show` lists the lanes"
    )]
    NotCovered {
        /// The lane.
        lane: String,
        /// The number of the entry.
        entry: u64,
    },
}

impl From<DatabaseError> for BrowseError {
    fn from(error: DatabaseError) -> Self {
        Self::Audit(error.into())
    }
}

/// All lanes.
///
/// # Errors
/// [`BrowseError`]; a checkpoint that is not signed by a trusted key is not shown.
pub async fn lanes(settings: &Settings) -> Result<Vec<LaneHead>, BrowseError> {
    let trusted = keys::trusted(settings)?;
    let action = "reading the lanes of the audit log";
    let pool = head::connect(settings, "verify_audit", 1).await?;
    let lanes = pool
        .ask(action, async |connection| {
            let mut lanes = Vec::new();
            for head in snapshot::heads(connection).await? {
                let origin = origin(&settings.access.environment, &head.lane);
                let tree = tree_of(head.size, &head.frontier);
                lanes.push(LaneHead {
                    checkpoint: newest(connection, &head.lane, &trusted)
                        .await?
                        .map(|(_, newest)| newest),
                    root: tree.map(|tree| hex::encode(tree.root())),
                    verifier_keys: trusted.iter().map(|key| key.verifier_key(&origin)).collect(),
                    size: head.size,
                    lane: head.lane,
                });
            }
            Ok::<_, BrowseError>(lanes)
        })
        .await;
    pool.close().await;
    lanes
}

async fn newest(
    connection: &mut PgConnection,
    lane: &str,
    trusted: &[PublicKey],
) -> Result<Option<(Checkpoint, NewestCheckpoint)>, DatabaseError> {
    let note: Option<String> = sqlx::query_scalar(
        "select note from audit_checkpoint where lane = $1 order by size desc, signed_at desc limit 1",
    )
    .bind(lane)
    .fetch_optional(connection)
    .await
    .map_err(failed("reading the newest checkpoint"))?;
    Ok(note.and_then(|note| {
        let signed = Note::parse(note.as_bytes())
            .and_then(|parsed| parsed.open(trusted))
            .ok()?;
        let signed_s = signed.signed_s.and_then(|signed_s| i64::try_from(signed_s).ok());
        let newest = NewestCheckpoint {
            size: signed.checkpoint.size,
            signed_at: signed_s.map_or_else(String::new, pulsegate_ledger::verify::timestamp),
            note,
        };
        Some((signed.checkpoint, newest))
    }))
}

/// Returns an entry with a proof that the lane's newest checkpoint covers it.
///
/// # Errors
/// [`BrowseError`], also if no trusted checkpoint covers the entry, or if the log differs from the signed one.
pub async fn prove(settings: &Settings, lane: &str, entry: u64) -> Result<Proved, BrowseError> {
    let trusted = keys::trusted(settings)?;
    let pool = head::connect(settings, "verify_audit", 1).await?;
    let proved = pool
        .ask_for(TIME_MAX, "proving an entry", async |connection| {
            prove_on(connection, lane, entry, &trusted).await
        })
        .await;
    pool.close().await;
    proved
}

async fn prove_on(
    connection: &mut PgConnection,
    lane: &str,
    entry: u64,
    trusted: &[PublicKey],
) -> Result<Proved, BrowseError> {
    let mut transaction = connection.begin().await.map_err(failed("proving an entry"))?;
    snapshot::begin(&mut transaction).await?;
    let covering = newest(&mut transaction, lane, trusted).await?;
    let Some((checkpoint, newest)) = covering.filter(|(checkpoint, _)| checkpoint.size > entry) else {
        return Err(BrowseError::NotCovered {
            lane: lane.to_owned(),
            entry,
        });
    };
    let mut roots = RangeRoots::new(inclusion_ranges(entry, checkpoint.size));
    let (mut rows, mut found): (_, Option<(Hash, Vec<u8>)>) = (Rows::new(lane), None);
    for _ in 0..checkpoint.size {
        let Some(row) = rows.next(&mut transaction, 0).await? else {
            break;
        };
        let leaf = merkle::leaf(&[&row.bytes]);
        roots.push(leaf);
        if row.seq == entry {
            found = Some((leaf, row.bytes));
        }
    }
    let changed = || AuditError::Tampered {
        lane: lane.to_owned(),
        seq: entry,
        reason: "its entries are not those that the newest checkpoint was signed for".to_owned(),
    };
    let (Some((leaf, value)), Some(proof)) = (found, roots.finish()) else {
        return Err(changed().into());
    };
    if !verify_inclusion(&leaf, entry, checkpoint.size, &proof, &checkpoint.root) {
        return Err(changed().into());
    }
    Ok(Proved {
        lane: lane.to_owned(),
        entry,
        value: String::from_utf8_lossy(&value).into_owned(),
        leaf: hex::encode(leaf),
        checkpoint: newest.note,
        proof: proof.iter().map(hex::encode).collect(),
    })
}
