//! The registrar's view of the vault: it adds, revokes and lists device keys, and has no access to subjects.

use serde::Serialize;
use sqlx::{Connection as _, PgConnection, Row};

use super::config::Settings;
use super::fault::VaultFault;
use super::shared::{connect, read_kek};
use crate::io::postgres::Pool;
use pulsegate_core::crypto::kek::Kek;

/// Access to device keys, for `pulsegate device`.
pub struct Registrar {
    pub(super) database: Pool,
    pub(super) kek: Kek,
}

/// A listed device key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Device id.
    pub device: String,
    /// Key id.
    pub kid: String,
    /// Name of the tenant.
    pub tenant: String,
    /// Device class, which selects the rate limit.
    pub class: String,
    /// Signing profile: `jws` or `webhook`.
    pub profile: String,
    /// Signature algorithm: `HS256` or `Ed25519`.
    pub alg: String,
    /// State of the key, such as `active` or `revoked`.
    pub state: String,
    /// Time at which it was added, RFC 3339 in UTC.
    pub created_at: String,
}

/// Which keys to list: those that match all conditions that are set.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only keys of this tenant.
    pub tenant: Option<String>,
    /// Only keys of this device.
    pub device: Option<String>,
    /// Only keys in this state.
    pub state: Option<String>,
    /// Most keys to list.
    pub keys_max: u32,
}

impl Registrar {
    /// Connects with the registrar's login.
    ///
    /// # Errors
    /// [`VaultFault`].
    pub async fn connect(settings: &Settings) -> Result<Self, VaultFault> {
        Ok(Self {
            database: connect(settings, "device_vault").await?,
            kek: read_kek(settings)?,
        })
    }

    /// Lists keys by device and key id.
    ///
    /// # Errors
    /// [`VaultFault`].
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Listed>, VaultFault> {
        let action = "listing device keys";
        let query = sqlx::query(
            "select d.name, k.kid, t.name, d.class, k.profile, k.alg, k.state,
                    to_char(k.created_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
             from device_key k join device d on d.id = k.device_id join tenant t on t.id = d.tenant_id
             where ($1::text is null or t.name = $1) and ($2::text is null or d.name = $2)
               and ($3::text is null or k.state = $3)
             order by d.name, k.kid limit $4",
        )
        .bind(&filter.tenant)
        .bind(&filter.device)
        .bind(&filter.state)
        .bind(i64::from(filter.keys_max));
        let fault = |error| VaultFault::database(action, &error);
        let rows = self
            .database
            .ask(action, async |connection| {
                query.fetch_all(connection).await.map_err(fault)
            })
            .await?;
        let listed = |row: &sqlx::postgres::PgRow| {
            let text = |index: usize| row.try_get::<String, _>(index).map_err(fault);
            Ok(Listed {
                device: text(0)?,
                kid: text(1)?,
                tenant: text(2)?,
                class: text(3)?,
                profile: text(4)?,
                alg: text(5)?,
                state: text(6)?,
                created_at: text(7)?,
            })
        };
        rows.iter().map(listed).collect()
    }

    /// Revokes keys; revoked ones stay revoked. Returns the unknown key ids; if there are any, nothing was revoked.
    ///
    /// # Errors
    /// [`VaultFault`].
    pub async fn revoke(&self, kids: &[String]) -> Result<Vec<String>, VaultFault> {
        let action = "revoking device keys";
        let work = async |connection: &mut PgConnection| {
            let mut transaction = connection.begin().await?;
            let unknown: Vec<String> = sqlx::query_scalar(
                "select g.kid from unnest($1::text[]) as g (kid)
                 where not exists (select from device_key k where k.kid = g.kid) order by 1",
            )
            .bind(kids)
            .fetch_all(&mut *transaction)
            .await?;
            if unknown.is_empty() {
                sqlx::query(
                    "update device_key set state = 'revoked', revoked_at = now()
                     where kid = any($1) and state <> 'revoked'",
                )
                .bind(kids)
                .execute(&mut *transaction)
                .await?;
                transaction.commit().await?;
            }
            Ok(unknown)
        };
        self.database
            .ask(action, async |connection| {
                let revoked: Result<_, sqlx::Error> = work(connection).await;
                revoked.map_err(|error| VaultFault::database(action, &error))
            })
            .await
    }

    /// Closes the connections.
    pub async fn close(self) {
        self.database.close().await;
    }
}
