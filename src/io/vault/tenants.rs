//! Tenants: their branch keys, opened once, and the keys that their deadletters are sealed to.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use sqlx::{PgConnection, Row};

use super::fault::VaultFault;
use super::home::{Branch, Home, Quarantine};
use super::shared::{Shared, random};
use crate::io::postgres::Pool;
use pulsegate_core::crypto::envelope::Nonce;
use pulsegate_core::crypto::kek::Kek;
use pulsegate_core::crypto::keys::{Key32, ROTATE_AGE_MS, ROTATE_SEALS, Tenant, Wrapped};

/// Which tenants to read.
pub(super) enum Which<'w> {
    All,
    Named(&'w [String]),
    Numbered(&'w [i32]),
}

/// Checks that this KEK is the vault's. With `found`, an empty vault is founded with this KEK.
pub(super) async fn check_kek(
    connection: &mut PgConnection,
    kek: &Kek,
    found: bool,
) -> Result<(), VaultFault> {
    let fault = |error| VaultFault::database("reading the KEK's row", &error);
    let known = "select id, commitment from kek order by created_at";
    let mut rows = sqlx::query(known)
        .fetch_all(&mut *connection)
        .await
        .map_err(fault)?;
    if found && rows.is_empty() {
        sqlx::query("insert into kek (id, commitment) values ($1, $2) on conflict do nothing")
            .bind(kek.id())
            .bind(kek.commitment().as_slice())
            .execute(&mut *connection)
            .await
            .map_err(fault)?;
        rows = sqlx::query(known)
            .fetch_all(&mut *connection)
            .await
            .map_err(fault)?;
    }
    let mut answer = Err(VaultFault::damaged(
        "KEK row",
        "it is missing; start a gate or import device keys first",
    ));
    for row in &rows {
        let (id, commitment): (&str, &[u8]) =
            (row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?);
        answer = kek.check(id, commitment).map_err(VaultFault::from);
        if answer.is_ok() {
            break;
        }
    }
    answer
}

/// Creates missing tenants, each with a branch key of its own, and returns how many.
pub(super) async fn ensure(
    connection: &mut PgConnection,
    kek: &Kek,
    names: &[String],
) -> Result<u64, VaultFault> {
    let (mut sealed, mut commitments) = (Vec::new(), Vec::new());
    for name in names {
        let branch = Key32::random(*random()?);
        let nonce = Nonce::from_random(*random()?);
        let wrapped = Tenant::wrap_branch(kek, name, &branch, nonce)
            .map_err(|error| VaultFault::Invalid(format!("failed to wrap a branch key: {error}")))?;
        sealed.push(wrapped.sealed);
        commitments.push(wrapped.commitment.to_vec());
    }
    let inserted = sqlx::query(
        "insert into tenant (name, kek_id, branch_wrapped, branch_commitment)
         select n.name, $2, n.sealed, n.commitment from unnest($1::text[], $3::bytea[], $4::bytea[])
             as n (name, sealed, commitment)
         where not exists (select from tenant t where t.name = n.name) order by n.name
         on conflict do nothing",
    )
    .bind(names)
    .bind(kek.id())
    .bind(sealed)
    .bind(commitments)
    .execute(connection)
    .await
    .map_err(|error| VaultFault::database("creating tenants", &error))?;
    Ok(inserted.rows_affected())
}

/// Reads tenants and opens their branch keys.
pub(super) async fn read(
    connection: &mut PgConnection,
    kek: &Kek,
    which: Which<'_>,
) -> Result<Vec<Branch>, VaultFault> {
    let fault = |error| VaultFault::database("reading tenants", &error);
    let (all, names, ids): (bool, &[String], &[i32]) = match which {
        Which::All => (true, &[], &[]),
        Which::Named(names) => (false, names, &[]),
        Which::Numbered(ids) => (false, &[], ids),
    };
    let rows = sqlx::query(
        "select id, name, branch_wrapped, branch_commitment from tenant
         where $1 or name = any($2) or id = any($3) order by id",
    )
    .bind(all)
    .bind(names)
    .bind(ids)
    .fetch_all(connection)
    .await
    .map_err(fault)?;
    let mut branches = Vec::with_capacity(rows.len());
    for row in &rows {
        let commitment: &[u8] = row.try_get(3).map_err(fault)?;
        let wrapped = Wrapped {
            sealed: row.try_get(2).map_err(fault)?,
            commitment: commitment
                .try_into()
                .map_err(|_| VaultFault::damaged("tenant", "its commitment has the wrong length"))?,
        };
        let tenant = Tenant::open(kek, row.try_get(1).map_err(fault)?, &wrapped)
            .map_err(|error| VaultFault::damaged("tenant", error))?;
        branches.push(Branch {
            id: row.try_get(0).map_err(fault)?,
            tenant,
        });
    }
    Ok(branches)
}

/// Adds the quarantine keys of tenants; the vault creates missing ones.
pub(super) async fn settle(database: &Pool, branches: Vec<Branch>) -> Result<Vec<Arc<Home>>, VaultFault> {
    let ids: Vec<i32> = branches.iter().map(|branch| branch.id).collect();
    let mut keys = quarantine_ids(database, &ids).await?;
    let home = |branch: Branch| {
        let (key_id, seals) = keys
            .remove(&branch.id)
            .ok_or_else(|| VaultFault::damaged("quarantine key", "the vault returned none"))?;
        let quarantine = ArcSwap::from_pointee(Quarantine::new(&branch.tenant, key_id, seals));
        Ok(Arc::new(Home { branch, quarantine }))
    };
    branches.into_iter().map(home).collect()
}

/// Reports the use of quarantine keys to the vault, and switches to new ones where they are used up or old.
pub(super) async fn renew_quarantines(shared: &Shared) -> Result<(), VaultFault> {
    let homes = shared.keys.load().homes();
    let mut used = HashMap::new();
    for home in &homes {
        let quarantine = home.quarantine.load_full();
        let seals = quarantine.key.seals();
        let more = seals.saturating_sub(quarantine.reported.load(Ordering::Relaxed));
        if more > 0 {
            used.insert(quarantine.key.key_id(), (more, seals, quarantine));
        }
    }
    if !used.is_empty() {
        let (ids, counts): (Vec<i64>, Vec<i64>) = used
            .iter()
            .map(|(&id, &(more, ..))| (i64::from(id), more.cast_signed()))
            .unzip();
        let action = "reporting the use of quarantine keys";
        let query = sqlx::query(ADD_USES).bind(ids).bind(counts);
        let added = async |connection: &mut PgConnection| {
            query
                .execute(connection)
                .await
                .map_err(|error| VaultFault::database(action, &error))
        };
        shared.database.ask(action, added).await?;
        for (_, seals, quarantine) in used.into_values() {
            quarantine.reported.store(seals, Ordering::Relaxed);
        }
    }
    let ids: Vec<i32> = homes.iter().map(|home| home.branch.id).collect();
    let current = quarantine_ids(&shared.database, &ids).await?;
    for home in homes {
        match current.get(&home.branch.id) {
            Some(&(id, seals)) if id != home.quarantine.load().key.key_id() => {
                home.quarantine
                    .store(Arc::new(Quarantine::new(&home.branch.tenant, id, seals)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Rows are locked in the order of their ids, so that two gates that report the same keys never deadlock.
const ADD_USES: &str = "
with used as (select * from unnest($1::bigint[], $2::bigint[]) as u (key_id, more)),
     locked as (select k.key_id from quarantine_key k join used using (key_id) order by k.key_id for no key update of k)
update quarantine_key k set encryptions = k.encryptions + u.more
from locked join used u using (key_id) where k.key_id = locked.key_id";

/// The current quarantine key of each tenant, with its use count. A tenant is requested again while the random id of
/// its new key is already taken.
async fn quarantine_ids(database: &Pool, tenants: &[i32]) -> Result<HashMap<i32, (u32, u64)>, VaultFault> {
    let action = "reading the quarantine keys";
    let mut found = HashMap::with_capacity(tenants.len());
    let mut missing = tenants.to_vec();
    for _ in 0..4 {
        let ids = missing
            .iter()
            .map(|_| random_key_id())
            .collect::<Result<Vec<i64>, _>>()?;
        let query =
            sqlx::query("select * from quarantine_keys($1, $2, $3::bigint * interval '1 millisecond', $4)")
                .bind(missing.as_slice())
                .bind(ids)
                .bind(ROTATE_AGE_MS)
                .bind(ROTATE_SEALS.cast_signed());
        let fault = |error| VaultFault::database(action, &error);
        let rows = database
            .ask(action, async |connection| {
                query.fetch_all(connection).await.map_err(fault)
            })
            .await?;
        for row in rows {
            let (id, count): (i64, i64) = (row.try_get(1).map_err(fault)?, row.try_get(2).map_err(fault)?);
            let id = u32::try_from(id).map_err(|error| VaultFault::damaged("quarantine key", error))?;
            found.insert(row.try_get(0).map_err(fault)?, (id, count.cast_unsigned()));
        }
        missing.retain(|tenant| !found.contains_key(tenant));
        if missing.is_empty() {
            return Ok(found);
        }
    }
    Err(VaultFault::damaged(
        "quarantine key",
        "no free key id was found in four rounds",
    ))
}

/// A random id for a new key: any but 0.
pub(super) fn random_key_id() -> Result<i64, VaultFault> {
    Ok(i64::from(u32::from_ne_bytes(*random()?).max(1)))
}
