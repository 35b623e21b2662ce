//! Adds device keys: any number of lines in one transaction, all or none.
//!
//! Lines are checked and wrapped as they are read and go through COPY into a temporary table, so a file of any length
//! needs little memory. The database then finds conflicts between lines (a repeated key id, a device of two tenants),
//! and the error names the line.

use std::collections::{BTreeSet, HashMap};
use std::io::BufRead;

use futures_util::TryStreamExt;
use serde::Serialize;
use sqlx::{Connection as _, PgConnection, Row};
use subtle::ConstantTimeEq;
use thiserror::Error;

use super::fault::VaultFault;
use super::home::Branch;
use super::lines::{self, KeyLine, Problem};
use super::registrar::Registrar;
use super::shared::{random, without_haste};
use super::tenants::{self, Which};
use crate::io::postgres::copy::Rows;
use pulsegate_core::crypto::envelope::Nonce;
use pulsegate_core::crypto::kek::Kek;
use pulsegate_core::gate::keyring::{Algorithm, CLASSES_MAX, VERIFYING_KEYS_MAX};

/// Lines that are sent to the database at once.
const CHUNK_LINES: usize = 10_000;

/// Result of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Lines that were read.
    pub lines: u64,
    /// New keys.
    pub keys: u64,
    /// Keys that the vault already had, with the same content.
    pub unchanged: u64,
    /// New devices.
    pub devices: u64,
    /// New tenants.
    pub tenants: u64,
}

/// Why nothing was imported.
#[derive(Debug, Error)]
pub enum ImportError {
    /// A line is invalid, or conflicts with an earlier line or the vault.
    #[error("{0}; nothing was imported")]
    Line(Problem),
    /// The input could not be read.
    #[error("failed to read the input: {0}; nothing was imported")]
    Input(std::io::Error),
    /// The vault failed.
    #[error("{0}; nothing was imported")]
    Vault(#[from] VaultFault),
}

impl Registrar {
    /// Imports JSON lines.
    ///
    /// # Errors
    /// [`ImportError`]; nothing was imported then.
    pub async fn import(&self, reader: &mut impl BufRead) -> Result<Imported, ImportError> {
        let fault = |error| VaultFault::database("importing device keys", &error);
        let mut lease = self
            .database
            .lease("importing device keys")
            .await
            .map_err(VaultFault::from)?;
        let mut transaction = lease.connection().begin().await.map_err(fault)?;
        without_haste(&mut transaction).await.map_err(fault)?;
        tenants::check_kek(&mut transaction, &self.kek, true).await?;
        sqlx::raw_sql(STAGE)
            .execute(&mut *transaction)
            .await
            .map_err(fault)?;
        let mut staging = Staging {
            kek: &self.kek,
            branches: HashMap::new(),
            imported: Imported::default(),
        };
        let mut buffer = zeroize::Zeroizing::new(Vec::new());
        loop {
            let chunk = read_chunk(reader, &mut buffer, &mut staging.imported.lines)?;
            if chunk.is_empty() {
                break;
            }
            staging.stage(&mut transaction, &chunk).await?;
        }
        let Staging {
            branches,
            mut imported,
            ..
        } = staging;
        // Other writers wait from here to the commit (see the migration), so the checks stay valid.
        sqlx::query("select pg_advisory_xact_lock(hashtextextended('pulsegate device_key revision', 0))")
            .execute(&mut *transaction)
            .await
            .map_err(fault)?;
        find_conflicts(&mut transaction).await?;
        imported.unchanged = compare_known(&mut transaction, &branches).await?;
        let done = |result: sqlx::postgres::PgQueryResult| result.rows_affected();
        imported.devices = sqlx::query(ADD_DEVICES)
            .execute(&mut *transaction)
            .await
            .map(done)
            .map_err(fault)?;
        imported.keys = sqlx::query(ADD_KEYS)
            .execute(&mut *transaction)
            .await
            .map(done)
            .map_err(fault)?;
        transaction.commit().await.map_err(fault)?;
        Ok(imported)
    }
}

fn read_chunk(
    reader: &mut impl BufRead,
    buffer: &mut Vec<u8>,
    lines: &mut u64,
) -> Result<Vec<(u64, KeyLine)>, ImportError> {
    let mut chunk = Vec::new();
    while chunk.len() < CHUNK_LINES {
        let more = lines::read_line(reader, buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => ImportError::Line(Problem {
                line: *lines + 1,
                field: None,
                reason: error.to_string(),
            }),
            _ => ImportError::Input(error),
        })?;
        if !more {
            break;
        }
        *lines += 1;
        chunk.push((*lines, lines::parse(*lines, buffer).map_err(ImportError::Line)?));
    }
    Ok(chunk)
}

const STAGE: &str = "
create temporary table staged (
    line bigint not null, device text not null, kid text not null, tenant_id integer not null, class text not null,
    profile text not null, alg text not null, secret_wrapped bytea, public_key bytea, token_salt bytea not null
) on commit drop";

/// An import while its lines are copied into the temporary table.
struct Staging<'k> {
    kek: &'k Kek,
    branches: HashMap<String, Branch>,
    imported: Imported,
}

impl Staging<'_> {
    async fn stage(
        &mut self,
        connection: &mut PgConnection,
        chunk: &[(u64, KeyLine)],
    ) -> Result<(), VaultFault> {
        self.meet_tenants(connection, chunk).await?;
        let mut rows = Rows::new(10);
        for (number, line) in chunk {
            self.wrap(*number, line, &mut rows)?;
        }
        let fault = |error| VaultFault::database("copying device keys", &error);
        let mut copy = connection
            .copy_in_raw("COPY staged FROM STDIN (FORMAT binary)")
            .await
            .map_err(fault)?;
        copy.send(rows.finish()).await.map_err(fault)?;
        copy.finish().await.map(drop).map_err(fault)
    }

    /// Creates and opens the tenants that these lines are the first to name.
    async fn meet_tenants(
        &mut self,
        connection: &mut PgConnection,
        chunk: &[(u64, KeyLine)],
    ) -> Result<(), VaultFault> {
        let named: BTreeSet<&String> = chunk.iter().map(|(_, line)| &line.tenant).collect();
        let new: Vec<String> = named
            .into_iter()
            .filter(|name| !self.branches.contains_key(*name))
            .cloned()
            .collect();
        if !new.is_empty() {
            self.imported.tenants += tenants::ensure(connection, self.kek, &new).await?;
            for branch in tenants::read(connection, self.kek, Which::Named(&new)).await? {
                self.branches.insert(branch.tenant.name().to_owned(), branch);
            }
        }
        Ok(())
    }

    fn wrap(&self, number: u64, line: &KeyLine, rows: &mut Rows) -> Result<(), VaultFault> {
        let unknown = || VaultFault::damaged("tenant", "one that was just created is missing");
        let Branch { id, tenant } = self.branches.get(&line.tenant).ok_or_else(unknown)?;
        let secret = match line.algorithm {
            Algorithm::HmacSha256 => {
                let nonce = Nonce::from_random(*random()?);
                let wrapped = tenant.wrap_device_secret(&line.device, &line.kid, &line.material, nonce);
                Some(
                    wrapped
                        .map_err(|error| VaultFault::Invalid(format!("failed to wrap a secret: {error}")))?,
                )
            }
            Algorithm::Ed25519 => None,
        };
        let public_key = secret.is_none().then_some(line.material.as_slice());
        rows.push([
            Some(&number.to_be_bytes()),
            Some(line.device.as_bytes()),
            Some(line.kid.as_bytes()),
            Some(&id.to_be_bytes()),
            Some(line.class.as_bytes()),
            Some(line.profile.as_str().as_bytes()),
            Some(line.algorithm.as_str().as_bytes()),
            secret.as_deref(),
            public_key,
            Some(random::<16>()?.as_slice()),
        ]);
        Ok(())
    }
}

/// A conflict of a line with earlier lines or with the vault.
struct Conflict {
    field: &'static str,
    reason: &'static str,
    /// Returns the first line with this conflict.
    query: &'static str,
    /// The limit that is bound to the query, if it has one.
    limit: Option<usize>,
}

const CONFLICTS: [Conflict; 6] = [
    Conflict {
        field: "kid",
        reason: "is already in an earlier line",
        query: "select line from (select line, row_number() over (partition by kid order by line) as n from staged) s
         where n > 1 order by line limit 1",
        limit: None,
    },
    Conflict {
        field: "tenant",
        reason: "differs from an earlier line or the vault for the same device",
        query: "select s.line from staged s
         join (select device, first_value(tenant_id) over (partition by device order by line) as tenant_id, line
               from staged) f on f.line = s.line
         left join device d on d.name = s.device
         where s.tenant_id <> coalesce(d.tenant_id, f.tenant_id) order by s.line limit 1",
        limit: None,
    },
    Conflict {
        field: "class",
        reason: "differs from an earlier line or the vault for the same device",
        query: "select s.line from staged s
         join (select device, first_value(class) over (partition by device order by line) as class, line
               from staged) f on f.line = s.line
         left join device d on d.name = s.device
         where s.class <> coalesce(d.class, f.class) order by s.line limit 1",
        limit: None,
    },
    Conflict {
        field: "kid",
        reason: "is in the vault already, with another device, profile, alg or key",
        query: "select s.line from staged s join device_key k on k.kid = s.kid join device d on d.id = k.device_id
         where (d.name, k.profile, k.alg) <> (s.device, s.profile, s.alg)
            or k.public_key is distinct from s.public_key order by s.line limit 1",
        limit: None,
    },
    Conflict {
        field: "device",
        reason: "would have more than two keys that verify; revoke one before you add another",
        query: "select line from (
             select s.line, count(*) over (partition by s.device order by s.line) + coalesce(v.n, 0) as n
             from staged s
             left join (select d.name, count(*) as n from device_key k join device d on d.id = k.device_id
                        where k.state in ('active', 'verify_only') and d.name in (select device from staged)
                        group by d.name) v on v.name = s.device
             where not exists (select from device_key k where k.kid = s.kid)) s
         where n > $1 order by line limit 1",
        limit: Some(VERIFYING_KEYS_MAX),
    },
    Conflict {
        field: "class",
        reason: "would exceed the 256 device classes that a gate supports; use an existing class",
        query: "with known as (select distinct class from device)
         select line from (
             select min(line) as line, row_number() over (order by min(line)) as n from staged
             where class not in (select class from known) group by class) s
         where n + (select count(*) from known) > $1 order by line limit 1",
        limit: Some(CLASSES_MAX),
    },
];

async fn find_conflicts(connection: &mut PgConnection) -> Result<(), ImportError> {
    let fault = |error| VaultFault::database("comparing with the vault", &error);
    sqlx::raw_sql("analyze staged")
        .execute(&mut *connection)
        .await
        .map_err(fault)?;
    for Conflict {
        field,
        reason,
        query,
        limit,
    } in CONFLICTS
    {
        let mut query = sqlx::query_scalar(query);
        if let Some(limit) = limit {
            query = query.bind(limit as i64);
        }
        let line: Option<i64> = query.fetch_optional(&mut *connection).await.map_err(fault)?;
        if let Some(line) = line {
            let line = line.cast_unsigned();
            return Err(ImportError::Line(Problem {
                line,
                field: Some(field),
                reason: reason.to_owned(),
            }));
        }
    }
    Ok(())
}

/// Checks that keys which are already in the vault have the same secret there. Two ciphertexts of one secret always
/// differ, so both are opened. Returns the number of known keys.
async fn compare_known(
    connection: &mut PgConnection,
    branches: &HashMap<String, Branch>,
) -> Result<u64, ImportError> {
    let fault = |error| VaultFault::database("comparing secrets", &error);
    let damaged = |error| VaultFault::damaged("device key", error);
    let mut rows = sqlx::query(
        "select s.line, s.device, s.kid, t.name, s.secret_wrapped, k.secret_wrapped
         from staged s join device_key k on k.kid = s.kid join tenant t on t.id = s.tenant_id order by s.line",
    )
    .fetch(connection);
    let mut known = 0;
    while let Some(row) = rows.try_next().await.map_err(fault)? {
        known += 1;
        let text = |index: usize| row.try_get::<&str, _>(index).map_err(fault);
        let stored = |index: usize| row.try_get::<Option<&[u8]>, _>(index).map_err(fault);
        let (Some(given), Some(kept)) = (stored(4)?, stored(5)?) else {
            continue;
        };
        let (device, kid) = (text(1)?, text(2)?);
        let Some(Branch { tenant, .. }) = branches.get(text(3)?) else {
            continue;
        };
        let given = tenant.open_device_secret(device, kid, given).map_err(damaged)?;
        let kept = tenant.open_device_secret(device, kid, kept).map_err(damaged)?;
        if !bool::from(given.as_slice().ct_eq(&kept)) {
            let line = row.try_get::<i64, _>(0).map_err(fault)?.cast_unsigned();
            let reason = "is in the vault already, with another secret".to_owned();
            return Err(ImportError::Line(Problem {
                line,
                field: Some("kid"),
                reason,
            }));
        }
    }
    Ok(known)
}

const ADD_DEVICES: &str = "
insert into device (tenant_id, name, class, token_salt)
select distinct on (s.device) s.tenant_id, s.device, s.class, s.token_salt from staged s
where not exists (select from device d where d.name = s.device)
order by s.device, s.line";

const ADD_KEYS: &str = "
insert into device_key (kid, device_id, profile, alg, state, secret_wrapped, public_key)
select s.kid, d.id, s.profile, s.alg, 'active', s.secret_wrapped, s.public_key
from staged s join device d on d.name = s.device
where not exists (select from device_key k where k.kid = s.kid)
order by s.line";
