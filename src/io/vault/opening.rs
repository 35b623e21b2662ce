//! Keys for `pulsegate open`, read by the key ids in sealed bytes.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::Row;

use super::config::Settings;
use super::fault::VaultFault;
use super::home::Branch;
use super::shared::{connect, read_kek};
use super::tenants::{self, Which};
use crate::io::postgres::Pool;
use pulsegate_core::crypto::envelope::FieldKey;
use pulsegate_core::crypto::kek::Kek;
use pulsegate_core::crypto::keys::Wrapped;

/// Most key ids in one request.
const REQUEST_KEYS_MAX: usize = 5_000;

/// A read-only view of the vault, for readers of sealed fields.
pub struct Opener {
    database: Pool,
    kek: Kek,
    branches: tokio::sync::Mutex<HashMap<i32, Arc<Branch>>>,
}

impl Opener {
    /// Connects with the reader's login.
    ///
    /// # Errors
    /// [`VaultFault`], also where the configured KEK is not the vault's.
    pub async fn connect(settings: &Settings) -> Result<Self, VaultFault> {
        let database = connect(settings, "open_vault").await?;
        let kek = read_kek(settings)?;
        database
            .ask("connecting", async |connection| {
                tenants::check_kek(connection, &kek, false).await
            })
            .await?;
        Ok(Self {
            database,
            kek,
            branches: HashMap::new().into(),
        })
    }

    /// Data keys with these ids, current or not. An id that is missing from the result was never assigned, or its
    /// subject was shredded.
    ///
    /// # Errors
    /// [`VaultFault`].
    pub async fn keys_by_id(&self, ids: &[u32]) -> Result<HashMap<u32, FieldKey>, VaultFault> {
        let mut keys = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(REQUEST_KEYS_MAX) {
            self.read_data_keys(chunk, &mut keys).await?;
        }
        Ok(keys)
    }

    /// Quarantine keys with these ids, to which deadletter payloads are sealed. Their ids are a separate space.
    ///
    /// # Errors
    /// [`VaultFault`].
    pub async fn quarantine_keys(&self, ids: &[u32]) -> Result<HashMap<u32, FieldKey>, VaultFault> {
        let mut keys = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(REQUEST_KEYS_MAX) {
            self.read_quarantine_keys(chunk, &mut keys).await?;
        }
        Ok(keys)
    }

    async fn read_data_keys(&self, ids: &[u32], keys: &mut HashMap<u32, FieldKey>) -> Result<(), VaultFault> {
        let action = "reading subject keys";
        let fault = |error| VaultFault::database(action, &error);
        let length = |error| VaultFault::damaged("subject key", error);
        let ids: Vec<i64> = ids.iter().copied().map(i64::from).collect();
        let query = sqlx::query(
            "select k.key_id, s.tenant_id, s.lookup, k.wrapped, k.commitment, k.encryptions
             from subject_key k join subject s on s.id = k.subject_id where k.key_id = any($1)",
        )
        .bind(ids);
        let rows = self
            .database
            .ask(action, async |connection| {
                query.fetch_all(connection).await.map_err(fault)
            })
            .await?;
        for row in rows {
            let id: i64 = row.try_get(0).map_err(fault)?;
            let id = u32::try_from(id).map_err(|error| VaultFault::damaged("key id", error))?;
            let branch = self.branch(row.try_get(1).map_err(fault)?).await?;
            let (lookup, commitment): (&[u8], &[u8]) =
                (row.try_get(2).map_err(fault)?, row.try_get(4).map_err(fault)?);
            let wrapped = Wrapped {
                sealed: row.try_get(3).map_err(fault)?,
                commitment: commitment.try_into().map_err(length)?,
            };
            let seals = row.try_get::<i64, _>(5).map_err(fault)?.cast_unsigned();
            let key = branch
                .tenant
                .open_data_key(id, &lookup.try_into().map_err(length)?, seals, &wrapped)
                .map_err(|error| VaultFault::damaged("subject key", error))?;
            keys.insert(id, key);
        }
        Ok(())
    }

    async fn read_quarantine_keys(
        &self,
        ids: &[u32],
        keys: &mut HashMap<u32, FieldKey>,
    ) -> Result<(), VaultFault> {
        let action = "reading quarantine keys";
        let fault = |error| VaultFault::database(action, &error);
        let ids: Vec<i64> = ids.iter().copied().map(i64::from).collect();
        let query =
            sqlx::query("select key_id, tenant_id, encryptions from quarantine_key where key_id = any($1)")
                .bind(ids);
        let rows = self
            .database
            .ask(action, async |connection| {
                query.fetch_all(connection).await.map_err(fault)
            })
            .await?;
        for row in rows {
            let id: i64 = row.try_get(0).map_err(fault)?;
            let id = u32::try_from(id).map_err(|error| VaultFault::damaged("key id", error))?;
            let branch = self.branch(row.try_get(1).map_err(fault)?).await?;
            let seals = row.try_get::<i64, _>(2).map_err(fault)?.cast_unsigned();
            keys.insert(id, branch.tenant.quarantine(id, seals));
        }
        Ok(())
    }

    async fn branch(&self, id: i32) -> Result<Arc<Branch>, VaultFault> {
        let mut branches = self.branches.lock().await;
        if let Some(branch) = branches.get(&id) {
            return Ok(Arc::clone(branch));
        }
        let read = self
            .database
            .ask("reading a tenant", async |connection| {
                tenants::read(connection, &self.kek, Which::Numbered(&[id])).await
            })
            .await?;
        let branch = read
            .into_iter()
            .next()
            .ok_or_else(|| VaultFault::damaged("tenant", "the tenant of a key has no row"))?;
        Ok(Arc::clone(branches.entry(id).or_insert(Arc::new(branch))))
    }
}
