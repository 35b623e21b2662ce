//! Heads of lanes: read from the database, and recomputed from signed checkpoints.

use sqlx::{PgConnection, Row};

use super::{AuditError, Settings};
use crate::io::postgres::{DatabaseError, Pool, Who};
use pulsegate_ledger::merkle::{self, MerkleRoot, stored_frontier, tree_of};
use pulsegate_ledger::note::{Note, PublicKey};

/// Entries read in one query.
pub(super) const PAGE_ENTRIES: i64 = 2_000;

/// Head of a lane as stored in the database.
pub(super) struct Stored {
    pub size: u64,
    pub frontier: Vec<u8>,
}

/// Makes errors of the audit database that name the action.
pub fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> DatabaseError {
    move |error| DatabaseError::new("audit", action, &error)
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

/// Creates a lane unless it exists.
pub(super) async fn open_lane(connection: &mut PgConnection, lane: &str) -> Result<(), sqlx::Error> {
    sqlx::query("insert into audit_lane (lane) values ($1) on conflict do nothing")
        .bind(lane)
        .execute(connection)
        .await?;
    Ok(())
}

/// Reads the stored head; `None` if the lane does not exist.
pub(super) async fn stored(connection: &mut PgConnection, lane: &str) -> Result<Option<Stored>, sqlx::Error> {
    let row = sqlx::query("select size, frontier from audit_lane where lane = $1")
        .bind(lane)
        .fetch_optional(connection)
        .await?;
    row.map(|row| {
        Ok(Stored {
            size: row.try_get::<i64, _>(0)?.cast_unsigned(),
            frontier: row.try_get(1)?,
        })
    })
    .transpose()
}

/// Returns the tree that a lane's newest checkpoint vouches for; the empty tree if none has been signed yet.
pub(super) async fn vouched(
    connection: &mut PgConnection,
    lane: &str,
    origin: &str,
    keys: &[PublicKey],
) -> Result<MerkleRoot, AuditError> {
    let newest = sqlx::query(
        "select size, frontier, note from audit_checkpoint where lane = $1 order by size desc, signed_at desc limit 1",
    )
    .bind(lane)
    .fetch_optional(connection)
    .await
    .map_err(failed("reading the newest checkpoint"))?;
    let Some(row) = newest else {
        return Ok(MerkleRoot::new());
    };
    let fault = failed("reading the newest checkpoint");
    let size = row.try_get::<i64, _>(0).map_err(&fault)?.cast_unsigned();
    let frontier: &[u8] = row.try_get(1).map_err(&fault)?;
    let note: &str = row.try_get(2).map_err(&fault)?;
    let tampered = |reason: String| AuditError::Tampered {
        lane: lane.to_owned(),
        seq: size,
        reason,
    };
    let signed = Note::parse(note.as_bytes())
        .and_then(|note| note.open(keys))
        .map_err(|error| tampered(format!("its newest checkpoint is invalid: {error}")))?
        .checkpoint;
    let tree = tree_of(size, frontier)
        .filter(|tree| (signed.origin.as_str(), signed.size, signed.root) == (origin, size, tree.root()));
    tree.ok_or_else(|| tampered("its newest checkpoint differs from the signed one".to_owned()))
}

/// Adds the entries after `tree` to it, and compares the result with the stored head.
pub(super) async fn catch_up(
    connection: &mut PgConnection,
    lane: &str,
    tree: &mut MerkleRoot,
) -> Result<(), AuditError> {
    let fault = failed("reading entries");
    let tampered = |seq: u64, reason: &str| AuditError::Tampered {
        lane: lane.to_owned(),
        seq,
        reason: reason.to_owned(),
    };
    let head = stored(connection, lane).await.map_err(&fault)?;
    let Some(head) = head else {
        return Err(tampered(tree.leaves(), "it has no head"));
    };
    while tree.leaves() < head.size {
        let rows = sqlx::query(
            "select seq, entry from audit_entry where lane = $1 and seq >= $2 and seq < $3 order by seq limit $4",
        )
        .bind(lane)
        .bind(tree.leaves().cast_signed())
        .bind(head.size.cast_signed())
        .bind(PAGE_ENTRIES)
        .fetch_all(&mut *connection)
        .await
        .map_err(&fault)?;
        if rows.is_empty() {
            return Err(tampered(tree.leaves(), "entries are missing"));
        }
        for row in rows {
            let seq = row.try_get::<i64, _>(0).map_err(&fault)?.cast_unsigned();
            if seq != tree.leaves() {
                return Err(tampered(tree.leaves(), "an entry is missing"));
            }
            tree.push(merkle::leaf(&[row.try_get(1).map_err(&fault)?]));
        }
    }
    if tree.leaves() != head.size {
        return Err(tampered(head.size, "it is shorter than its newest checkpoint"));
    }
    if stored_frontier(tree) != head.frontier {
        return Err(tampered(tree.leaves(), "its entries do not match its head"));
    }
    Ok(())
}

/// Appends entries starting with number `from`, and advances the head from there. Returns false if another process has
/// moved the head: the transaction must be rolled back then.
pub(super) async fn append(
    connection: &mut PgConnection,
    lane: &str,
    from: u64,
    entries: &[Vec<u8>],
    tree: &MerkleRoot,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(
        "update audit_lane set size = $3, frontier = $4, updated_at = now() where lane = $1 and size = $2",
    )
    .bind(lane)
    .bind(from.cast_signed())
    .bind(tree.leaves().cast_signed())
    .bind(stored_frontier(tree))
    .execute(&mut *connection)
    .await?;
    if moved.rows_affected() != 1 {
        return Ok(false);
    }
    sqlx::query(
        "insert into audit_entry (lane, seq, entry)
         select $1, $2 + place - 1, entry from unnest($3::bytea[]) with ordinality as e (entry, place)",
    )
    .bind(lane)
    .bind(from.cast_signed())
    .bind(entries)
    .execute(connection)
    .await?;
    Ok(true)
}
