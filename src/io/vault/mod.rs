//! The vault database: device keys and subject keys, wrapped.
//!
//! A gate holds all device keys in memory and follows their changes; it fetches subject keys in batches and caches
//! them. While the vault is down no record is rejected for that reason: cached subject keys are used for a bounded
//! time, and records of other subjects wait.
//!
//! Creating or renewing a key also writes a key event, which a gate relays to the audit log.

mod devices;
mod events;
pub mod import;
pub mod lines;
pub mod opening;
pub mod registrar;
pub mod subjects;
mod tenants;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use backon::{BackoffBuilder, ExponentialBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

pub use self::devices::Keys;
use self::subjects::Subjects;
use crate::io::audit;
use crate::io::postgres::logins;
use crate::io::postgres::{Access, check_url};
use crate::telemetry::metrics::{Metrics, Service};
use pulsegate_core::crypto::kek::{Kek, KekError};
use pulsegate_core::gate::keyring::KeyringBuilder;
use pulsegate_settings::{Check, Secret};

pub use self::tenants::HOUSE;

/// How the vault is reached, and how much of it is cached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The vault's URL, `postgres://role:password@host:port/database`. Default: none; then the login file of the
    /// command's role, which `pulsegate topology apply` has written to `databases.logins_directory`, is read.
    pub url: Secret,
    /// Most connections that one process opens. Default: 8.
    pub connections_max: u32,
    /// How long to wait for a connection, in milliseconds. Default: 2,000.
    pub acquire_time_max_ms: u64,
    /// How long one request may take before the vault counts as down, in milliseconds. Default: 2,000.
    pub request_time_max_ms: u64,
    /// How often a gate reads changes of device keys, in milliseconds; a change reaches it within this time plus one
    /// request. Default: 500.
    pub poll_interval_ms: u64,
    /// Most subject keys that are cached. Default: 100,000.
    pub subjects_max: usize,
    /// How long a subject key is used before it is fetched again, in seconds. Default: 1,800.
    pub subject_fresh_s: u64,
    /// How long a subject key may be used while the vault is down, in seconds since it was last read; after that its
    /// records are held. It bounds how long a shredded subject can still be sealed for. Default and maximum: 3,600.
    pub subject_stale_s: u64,
    /// How often the use counts of subject keys are written to the vault, and key events are relayed from it to the
    /// audit log, in seconds. Default: 30.
    pub report_interval_s: u64,
}

/// What the vault is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How its database is reached, with the vault's own limits of time.
    pub access: Access,
    /// Its section.
    pub vault: Config,
    /// Where the key encryption key comes from.
    pub kek: pulsegate_core::crypto::kek::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            connections_max: 8,
            acquire_time_max_ms: 2_000,
            request_time_max_ms: 2_000,
            poll_interval_ms: 500,
            subjects_max: 100_000,
            subject_fresh_s: 1_800,
            subject_stale_s: 3_600,
            report_interval_s: 30,
        }
    }
}

impl Config {
    /// Reports invalid values.
    pub fn check(&self, check: &mut Check) {
        check_url("url", &self.url, check);
        check.range("connections_max", self.connections_max.into(), 1..=64);
        check.range("acquire_time_max_ms", self.acquire_time_max_ms, 10..=60_000);
        check.range("request_time_max_ms", self.request_time_max_ms, 10..=60_000);
        check.range("poll_interval_ms", self.poll_interval_ms, 10..=60_000);
        check.range("subjects_max", self.subjects_max as u64, 1_000..=10_000_000);
        check.range("subject_stale_s", self.subject_stale_s, 1..=3_600);
        check.range("subject_fresh_s", self.subject_fresh_s, 1..=self.subject_stale_s);
        check.range("report_interval_s", self.report_interval_s, 1..=3_600);
    }
}

/// Why a request to the vault failed. Never a record's fault: records that need the vault wait.
#[derive(Debug, Error)]
pub enum VaultFault {
    /// The database is down, or did not answer within the configured time.
    #[error("failed to reach the vault database ({action}): {reason}")]
    Unreachable {
        /// Request that failed.
        action: &'static str,
        /// Error of the client library.
        reason: String,
    },
    /// The database refused the request.
    #[error("the vault database refused a request ({action}): {reason}")]
    Refused {
        /// Request that failed.
        action: &'static str,
        /// Error of the database.
        reason: String,
    },
    /// The KEK of this process is not the one that the vault was made with.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// A row of the vault is missing or damaged, or can't be opened with these keys.
    #[error("the vault's {what} can't be used: {reason}")]
    Damaged {
        /// Kind of the row.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration is invalid, or this process failed before it asked the vault.
    #[error("{0}")]
    Invalid(String),
}

impl VaultFault {
    fn database(action: &'static str, error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed => Self::Unreachable {
                action,
                reason: error.to_string(),
            },
            // Class 57 is operator intervention: shutting down, starting up, timed out. Class 53: out of connections.
            sqlx::Error::Database(database)
                if database
                    .code()
                    .is_some_and(|code| code.starts_with("57") || code.starts_with("53")) =>
            {
                Self::Unreachable {
                    action,
                    reason: error.to_string(),
                }
            }
            _ => Self::Refused {
                action,
                reason: error.to_string(),
            },
        }
    }

    fn damaged(what: &'static str, reason: impl ToString) -> Self {
        Self::Damaged {
            what,
            reason: reason.to_string(),
        }
    }
}

/// A pool of one role's connections, with a time limit on every request.
#[derive(Clone)]
pub(super) struct Database {
    pool: PgPool,
    request_time_max: Duration,
}

impl Database {
    /// Connects with the configured URL, or else with the login of `role`.
    async fn connect(settings: &Settings, role: &str) -> Result<Self, VaultFault> {
        let pool = PgPoolOptions::new()
            .max_connections(settings.vault.connections_max)
            .acquire_timeout(Duration::from_millis(settings.access.acquire_time_max_ms))
            .connect_with(options(settings, role)?)
            .await
            .map_err(|error| VaultFault::database("connecting", &error))?;
        Ok(Self {
            pool,
            request_time_max: Duration::from_millis(settings.access.request_time_max_ms),
        })
    }

    /// Runs a request with the configured time limit: the server's own limit does not help while the server is
    /// unreachable. A request that times out closes its connection.
    async fn ask<T>(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, VaultFault> {
        // Acquiring the connection, which comes first, has a limit of its own.
        answer(self.request_time_max, action, request).await
    }
}

/// Connection options: the configured URL, or else the login of `role`.
fn options(settings: &Settings, role: &str) -> Result<PgConnectOptions, VaultFault> {
    let options = logins::options(&settings.access, "vault", role, &settings.vault.url)
        .map_err(|fault| VaultFault::Invalid(fault.to_string()))?;
    Ok(options.options([(
        "statement_timeout",
        settings.access.request_time_max_ms.to_string(),
    )]))
}

async fn answer<T>(
    time_max: Duration,
    action: &'static str,
    request: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, VaultFault> {
    match tokio::time::timeout(time_max, request).await {
        Ok(answer) => answer.map_err(|error| VaultFault::database(action, &error)),
        Err(_) => Err(VaultFault::Unreachable {
            action,
            reason: format!("no answer within {} ms", time_max.as_millis()),
        }),
    }
}

/// State that the parts of an open vault share.
struct Shared {
    database: Database,
    kek: Kek,
    /// Device keys and tenants, replaced as a whole.
    keys: ArcSwap<Keys>,
    /// Whether the last request failed: the vault is unreachable, or refuses requests.
    down: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Shared {
    /// Records whether the vault answered; while it does not, cached subject keys may be used for longer.
    fn heard<T>(&self, answer: Result<T, VaultFault>) -> Result<T, VaultFault> {
        let down = matches!(
            answer,
            Err(VaultFault::Unreachable { .. } | VaultFault::Refused { .. })
        );
        self.down.store(down, Ordering::Relaxed);
        answer
    }
}

/// A gate's view of the vault.
pub struct Vault {
    shared: Arc<Shared>,
    subjects: Arc<Subjects>,
    events: Arc<events::Relay>,
    stop: watch::Sender<bool>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl Vault {
    /// Connects, reads all device keys, and starts tasks that follow their changes, report the use of subject keys, and
    /// relay key events to the audit log.
    ///
    /// # Errors
    /// [`VaultFault`]: a gate does not start without its keys.
    pub async fn connect(
        settings: &Settings,
        audit: audit::Settings,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, VaultFault> {
        let database = Database::connect(settings, "gate_vault").await?;
        let kek = read_kek(settings)?;
        let keys = devices::load(&database, &kek, KeyringBuilder::default()).await?;
        info!(
            devices = keys.keyring().devices(),
            revision = keys.revision(),
            "read all device keys from the vault"
        );
        let shared = Arc::new(Shared {
            database,
            kek,
            keys: ArcSwap::from_pointee(keys),
            down: AtomicBool::new(false),
            metrics: Arc::clone(&metrics),
        });
        let subjects = Arc::new(Subjects::new(&settings.vault, Arc::clone(&shared))?);
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let poll = Duration::from_millis(settings.vault.poll_interval_ms);
        tasks.spawn(follow(Arc::clone(&shared), poll, stopped.clone()));
        let report = Duration::from_secs(settings.vault.report_interval_s);
        tasks.spawn(report_regularly(
            Arc::clone(&shared),
            Arc::clone(&subjects),
            report,
            stopped.clone(),
        ));
        let events = Arc::new(events::Relay::new(settings.clone(), audit, metrics));
        tasks.spawn(relay_regularly(Arc::clone(&events), report, stopped));
        Ok(Arc::new(Self {
            shared,
            subjects,
            events,
            stop,
            tasks: tasks.into(),
        }))
    }

    /// The current device keys and tenants.
    #[must_use]
    pub fn keys(&self) -> Arc<Keys> {
        self.shared.keys.load_full()
    }

    /// Whether the last request to the vault failed.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// The cache of subject keys.
    #[must_use]
    pub fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// Stops the tasks, reports the use of keys and relays key events a last time, and closes the connections.
    pub async fn close(&self) {
        // Sending fails only when all tasks have already ended.
        let _ = self.stop.send(true);
        while self.tasks.lock().await.join_next().await.is_some() {}
        report(&self.shared, &self.subjects).await;
        self.events.finish().await;
        self.shared.database.pool.close().await;
    }
}

fn read_kek(settings: &Settings) -> Result<Kek, VaultFault> {
    crate::io::kek::read(&settings.kek, &settings.access.environment)
        .map_err(|error| VaultFault::Invalid(error.to_string()))
}

/// Reads changes of device keys until stopped. A failure is logged and counted, the pause grows, and the gate goes on
/// with the keys in memory: a revoked key then verifies until the vault is back, and no longer.
async fn follow(shared: Arc<Shared>, poll: Duration, mut stopped: watch::Receiver<bool>) {
    let backoff = || {
        ExponentialBuilder::default()
            .with_min_delay(poll)
            .with_max_delay(poll * 3)
            .without_max_times()
    };
    let mut pauses = backoff().build();
    let mut pause = poll;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.changed() => return,
        }
        let followed = devices::follow(&shared).await;
        match shared.heard(followed) {
            Ok(more) => {
                pauses = backoff().build();
                pause = if more { Duration::ZERO } else { poll };
                let keys = shared.keys.load();
                let checked = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                shared
                    .metrics
                    .keyring(keys.keyring().devices() as usize, keys.revision(), checked);
                let (size, idle) = (
                    shared.database.pool.size() as usize,
                    shared.database.pool.num_idle(),
                );
                shared.metrics.vault_pool(idle, size.saturating_sub(idle));
            }
            Err(fault) => {
                pause = pauses.next().unwrap_or(poll);
                shared.metrics.failed(Service::Vault);
                warn!(%fault, "failed to read changes of device keys: using those in memory, retrying");
            }
        }
    }
}

async fn report_regularly(
    shared: Arc<Shared>,
    subjects: Arc<Subjects>,
    interval: Duration,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => report(&shared, &subjects).await,
            _ = stopped.changed() => return,
        }
    }
}

/// Relays key events to the audit log until stopped, at once and then every `interval`. A stop does not wait for an
/// audit database that does not answer: the last attempt has a time limit of its own.
async fn relay_regularly(events: Arc<events::Relay>, interval: Duration, mut stopped: watch::Receiver<bool>) {
    let mut due = tokio::time::interval(interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let relay = async {
            due.tick().await;
            events.relay().await;
        };
        tokio::select! {
            () = relay => {}
            _ = stopped.changed() => return,
        }
    }
}

/// Reports the use of keys to the vault, and renews quarantine keys that are used up.
async fn report(shared: &Arc<Shared>, subjects: &Subjects) {
    let reported = subjects.report().await;
    let renewed = tenants::renew_quarantines(shared).await;
    for fault in [reported.err(), renewed.err()].into_iter().flatten() {
        shared.metrics.failed(Service::Vault);
        warn!(%fault, "failed to report the use of keys to the vault: the counts are added to the next report");
    }
}

/// Random bytes from the operating system.
fn random<const N: usize>() -> Result<zeroize::Zeroizing<[u8; N]>, VaultFault> {
    let mut bytes = zeroize::Zeroizing::new([0; N]);
    fill(bytes.as_mut_slice())?;
    Ok(bytes)
}

fn fill(bytes: &mut [u8]) -> Result<(), VaultFault> {
    getrandom::fill(bytes).map_err(|error| {
        VaultFault::Invalid(format!(
            "failed to get random bytes from the operating system: {error}"
        ))
    })
}

/// Raises the statement timeout of this transaction to what a whole registry of devices needs.
async fn without_haste(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("set local statement_timeout = '10min'")
        .execute(connection)
        .await
        .map(drop)
}
