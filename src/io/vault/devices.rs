//! Device keys in memory: read as a whole at the start, then followed change by change.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row};
use tracing::{error, info};
use zeroize::Zeroizing;

use super::fault::VaultFault;
use super::home::{Branch, HOUSE, Home};
use super::keys::Keys;
use super::shared::{Shared, without_haste};
use super::tenants::{self, Which};
use crate::io::postgres::Pool;
use pulsegate_core::crypto::kek::Kek;
use pulsegate_core::crypto::token::Token;
use pulsegate_core::gate::keyring::{Algorithm, KeyRow, KeyState, KeyringBuilder, KeyringError, Profile};

/// Most changes that are read at once.
const CHANGES_MAX: i64 = 20_000;
/// How long reading everything may take; the statement timeout of its transaction is the same.
const LOAD_TIME_MAX: Duration = Duration::from_mins(10);

const COLUMNS: &str = "
select k.kid, d.name, d.tenant_id, d.class, d.token_salt, k.profile, k.alg, k.state,
       coalesce(k.secret_wrapped, k.public_key), k.revision
from device_key k join device d on d.id = k.device_id";

/// Reads all device keys and tenants in one snapshot, into `known`.
pub(super) async fn load(database: &Pool, kek: &Kek, known: KeyringBuilder) -> Result<Keys, VaultFault> {
    let action = "reading the device keys";
    let (builder, branches, revision) = database
        .ask_for(LOAD_TIME_MAX, action, async |connection| {
            read_all(connection, kek, known).await
        })
        .await?;
    let keyring = builder
        .finish()
        .map_err(|error| VaultFault::damaged("device keys", error))?;
    let homes = tenants::settle(database, branches).await?;
    Keys::new(
        keyring,
        revision,
        homes.into_iter().map(|home| (home.branch.id, home)).collect(),
    )
}

async fn read_all(
    connection: &mut PgConnection,
    kek: &Kek,
    mut builder: KeyringBuilder,
) -> Result<(KeyringBuilder, Vec<Branch>, u64), VaultFault> {
    let fault = |error| VaultFault::database("reading the device keys", &error);
    tenants::check_kek(connection, kek, true).await?;
    tenants::ensure(connection, kek, &[HOUSE.to_owned()]).await?;

    let mut transaction = connection.begin().await.map_err(fault)?;
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *transaction)
        .await
        .map_err(fault)?;
    without_haste(&mut transaction).await.map_err(fault)?;
    let branches = tenants::read(&mut transaction, kek, Which::All).await?;
    let by_id: HashMap<i32, &Branch> = branches.iter().map(|branch| (branch.id, branch)).collect();
    let mut revision = 0;
    let mut rows = sqlx::query(sqlx::AssertSqlSafe(COLUMNS)).fetch(&mut *transaction);
    while let Some(row) = rows.try_next().await.map_err(fault)? {
        let decoded = Decoded::new(&row, |id| by_id.get(&id).copied())?;
        decoded.put(&mut builder)?;
        revision = revision.max(decoded.revision);
    }
    drop(rows);
    transaction.commit().await.map_err(fault)?;
    Ok((builder, branches, revision))
}

/// Applies the changes since the revision in memory, and returns whether there may be more. Revisions commit in their
/// order (see the migration), so nothing that commits later can be below the last one seen.
pub(super) async fn follow(shared: &Shared) -> Result<bool, VaultFault> {
    let keys = shared.keys.load_full();
    let query = format!("{COLUMNS} where k.revision > $1 order by k.revision limit $2");
    let query = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(keys.revision.cast_signed())
        .bind(CHANGES_MAX);
    let action = "reading the changes of device keys";
    let rows = shared
        .database
        .ask(action, async |connection| {
            let rows = query.fetch_all(connection).await;
            rows.map_err(|error| VaultFault::database(action, &error))
        })
        .await?;
    if rows.is_empty() {
        return Ok(false);
    }
    let by_id = with_new_tenants(shared, &keys, &rows).await?;
    let (mut builder, mut revision) = (keys.keyring.edit(), keys.revision);
    for row in &rows {
        // The rows come in the order of their revisions.
        revision = row.try_get::<i64, _>(9).map_or(revision, i64::cast_unsigned);
        let decoded = Decoded::new(row, |id| by_id.get(&id).map(|home| &home.branch));
        // One damaged row must not keep the revocations behind it from this gate.
        if let Err(fault) = decoded.and_then(|decoded| decoded.put(&mut builder)) {
            error!(%fault, revision, "skipped a damaged device key: the gate keeps its previous state");
        }
    }
    let more = rows.len() as i64 == CHANGES_MAX;
    let keys = match builder.finish() {
        Ok(keyring) => Keys::new(keyring, revision, by_id)?,
        // A key replaces another one whose change is on a later page. Devices and tenants in memory keep their numbers,
        // since admission and subject keys refer to them by these.
        Err(KeyringError::TooManyKeys) if more => {
            load(&shared.database, &shared.kek, keys.keyring.edit()).await?
        }
        Err(error) => return Err(VaultFault::damaged("device keys", error)),
    };
    info!(
        changes = rows.len(),
        revision = keys.revision,
        "applied changes of device keys"
    );
    shared.keys.store(Arc::new(keys));
    Ok(more)
}

/// The tenants in memory and the new ones of these rows.
async fn with_new_tenants(
    shared: &Shared,
    keys: &Keys,
    rows: &[PgRow],
) -> Result<HashMap<i32, Arc<Home>>, VaultFault> {
    let mut by_id = keys.by_id.clone();
    let ids: BTreeSet<i32> = rows.iter().filter_map(|row| row.try_get(2).ok()).collect();
    let new: Vec<i32> = ids.into_iter().filter(|id| !by_id.contains_key(id)).collect();
    if !new.is_empty() {
        let action = "reading new tenants";
        let branches = shared
            .database
            .ask(action, async |connection| {
                tenants::read(connection, &shared.kek, Which::Numbered(&new)).await
            })
            .await?;
        let homes = tenants::settle(&shared.database, branches).await?;
        by_id.extend(homes.into_iter().map(|home| (home.branch.id, home)));
    }
    Ok(by_id)
}

/// A checked row, with its secret opened and its token derived.
struct Decoded<'r> {
    kid: &'r str,
    device: &'r str,
    tenant: &'r str,
    class: &'r str,
    profile: Profile,
    algorithm: Algorithm,
    state: KeyState,
    stored: &'r [u8],
    secret: Option<Zeroizing<Vec<u8>>>,
    token: Token,
    revision: u64,
}

impl<'r> Decoded<'r> {
    fn new(row: &'r PgRow, branch: impl Fn(i32) -> Option<&'r Branch>) -> Result<Self, VaultFault> {
        let damaged = |reason: &dyn std::fmt::Display| VaultFault::damaged("device key", reason);
        let fault = |error| VaultFault::database("reading a device key", &error);
        let unknown = || damaged(&"unknown profile, algorithm, state or tenant");
        let text = |index: usize| row.try_get::<&str, _>(index).map_err(fault);
        let (kid, device) = (text(0)?, text(1)?);
        let Branch { tenant, .. } = branch(row.try_get(2).map_err(fault)?).ok_or_else(unknown)?;
        let salt: &[u8] = row.try_get(4).map_err(fault)?;
        let salt = salt.try_into().map_err(|error| damaged(&error))?;
        let algorithm = Algorithm::from_name(text(6)?).ok_or_else(unknown)?;
        let stored: &[u8] = row.try_get(8).map_err(fault)?;
        let secret = match algorithm {
            Algorithm::HmacSha256 => Some(tenant.open_device_secret(device, kid, stored)),
            Algorithm::Ed25519 => None,
        };
        let decoded = Self {
            kid,
            device,
            tenant: tenant.name(),
            class: text(3)?,
            profile: Profile::from_name(text(5)?).ok_or_else(unknown)?,
            algorithm,
            state: KeyState::from_name(text(7)?).ok_or_else(unknown)?,
            stored,
            secret: secret.transpose().map_err(|error| damaged(&error))?,
            token: tenant
                .device_token(&salt, device)
                .map_err(|error| damaged(&error))?,
            revision: row.try_get::<i64, _>(9).map(i64::cast_unsigned).map_err(fault)?,
        };
        Ok(decoded)
    }

    fn row(&self) -> KeyRow<'_> {
        KeyRow {
            kid: self.kid,
            device: self.device,
            tenant: self.tenant,
            class: self.class,
            profile: self.profile,
            algorithm: self.algorithm,
            state: self.state,
            material: self
                .secret
                .as_ref()
                .map_or(self.stored, |secret| secret.as_slice()),
            device_token: &self.token,
        }
    }

    fn put(&self, builder: &mut KeyringBuilder) -> Result<(), VaultFault> {
        builder
            .put(&self.row())
            .map_err(|error| VaultFault::damaged("device keys", error))
    }
}
