//! What the parts of the vault share: connections, keys in memory, and randomness.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use super::config::Settings;
use super::fault::{VAULT, VaultFault};
use super::keys::Keys;
use crate::io::postgres::{Pool, Who, logins};
use crate::telemetry::metrics::Metrics;
use pulsegate_core::crypto::kek::Kek;

/// State that the parts of an open vault share.
pub(super) struct Shared {
    pub(super) database: Pool,
    pub(super) kek: Kek,
    /// Device keys and tenants, replaced as a whole.
    pub(super) keys: ArcSwap<Keys>,
    /// Whether the last request failed: the vault is unreachable, or refuses requests.
    pub(super) down: AtomicBool,
    pub(super) metrics: Arc<Metrics>,
}

impl Shared {
    /// Records whether the vault answered; while it does not, cached subject keys may be used for longer.
    pub(super) fn heard<T>(&self, answer: Result<T, VaultFault>) -> Result<T, VaultFault> {
        let down = matches!(answer, Err(VaultFault::Database(_)));
        self.down.store(down, Ordering::Relaxed);
        answer
    }

    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }
}

/// Connects with the configured URL, or else with the login of `role`.
pub(super) async fn connect(settings: &Settings, role: &'static str) -> Result<Pool, VaultFault> {
    let who = Who {
        database: VAULT,
        role,
        url: &settings.vault.url,
        connections: (0, settings.vault.connections_max),
    };
    Ok(Pool::connect(&settings.access, who).await?)
}

/// Connection options: the configured URL, or else the login of `role`.
pub(super) fn options(settings: &Settings, role: &str) -> Result<PgConnectOptions, VaultFault> {
    let options = logins::options(&settings.access, VAULT, role, &settings.vault.url)
        .map_err(|fault| VaultFault::Invalid(fault.to_string()))?;
    Ok(options.options([(
        "statement_timeout",
        settings.access.request_time_max_ms.to_string(),
    )]))
}

pub(super) fn read_kek(settings: &Settings) -> Result<Kek, VaultFault> {
    crate::io::kek::read(&settings.kek, &settings.access.environment)
        .map_err(|error| VaultFault::Invalid(error.to_string()))
}

/// Random bytes from the operating system.
pub(super) fn random<const N: usize>() -> Result<zeroize::Zeroizing<[u8; N]>, VaultFault> {
    let mut bytes = zeroize::Zeroizing::new([0; N]);
    fill(bytes.as_mut_slice())?;
    Ok(bytes)
}

pub(super) fn fill(bytes: &mut [u8]) -> Result<(), VaultFault> {
    getrandom::fill(bytes).map_err(|error| {
        VaultFault::Invalid(format!(
            "failed to get random bytes from the operating system: {error}"
        ))
    })
}

/// Raises the time limits of this transaction to what a whole registry of devices needs, whose lines may come slowly.
pub(super) async fn without_haste(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select set_config('statement_timeout', '10min', true),
                set_config('idle_in_transaction_session_timeout', '10min', true)",
    )
    .execute(connection)
    .await
    .map(drop)
}
