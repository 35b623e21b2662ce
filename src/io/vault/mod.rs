//! The vault database: device keys and subject keys, wrapped.
//!
//! A gate holds all device keys in memory and follows their changes; subject keys it fetches in batches and keeps for a
//! while. While the vault is down nothing is rejected for it: subjects that are known go on from memory for a bounded
//! time, and the records of others wait.
//!
//! Keys that are made or renewed leave an event beside them, which a gate takes to the audit log.

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

/// How the vault is reached and what is kept of it in memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The vault's URL, `postgres://role:password@host:port/database`. Default: none; then the login file of the
    /// command's role in `databases.logins_directory` is read, which `pulsegate topology apply` has written.
    pub url: Secret,
    /// Connections that one process opens at most. Default: 8.
    pub connections_max: u32,
    /// How long to wait for a connection, in milliseconds. Default: 2,000.
    pub acquire_time_max_ms: u64,
    /// How long one request may take until the vault counts as down, in milliseconds. Default: 2,000.
    pub request_time_max_ms: u64,
    /// How often a gate asks for changes of device keys, in milliseconds; a change reaches it within this time and a
    /// request. Default: 500.
    pub poll_interval_ms: u64,
    /// Subject keys that are kept in memory. Default: 100,000.
    pub subjects_max: usize,
    /// How long a subject key is used before it is asked for again, in seconds. Default: 1,800.
    pub subject_fresh_s: u64,
    /// How long a subject key is used at most while the vault is down, in seconds since it was last read; after that its
    /// records are held. It bounds how long a shredded subject can still be sealed for. Default and most: 3,600.
    pub subject_stale_s: u64,
    /// How often the use counts of subject keys are written to the vault, and the events of keys taken from it to the
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
    /// What is wrong with the values.
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

/// Why the vault did not do what was asked. Always a fault of ours: what needs it waits.
#[derive(Debug, Error)]
pub enum VaultFault {
    /// No answer within the time that is configured.
    #[error("the vault database can't be reached ({action}): {reason}")]
    Unreachable {
        /// What was asked.
        action: &'static str,
        /// What the client library said.
        reason: String,
    },
    /// The database answered with a refusal.
    #[error("the vault database refused ({action}): {reason}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// What the database said.
        reason: String,
    },
    /// This process holds another KEK than the vault was made with.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// Something in the vault is not what was put there, or is not for this reader.
    #[error("the vault's {what} can't be used: {reason}")]
    Damaged {
        /// Which kind of row.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration does not lead to a vault.
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
            // Class 57 is the operator's doing: shutting down, starting up, cancelled for time. 53: no connection left.
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

/// A pool of one role's connections, with a limit of time on everything that is asked.
#[derive(Clone)]
pub(super) struct Database {
    pool: PgPool,
    request_time_max: Duration,
}

impl Database {
    /// Connects with the login of `role`, or with the URL that is configured.
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

    /// Waits for an answer as long as is configured, and no longer: the server's own limit does not help where the
    /// server is not there. A request that is given up takes its connection with it.
    async fn ask<T>(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, VaultFault> {
        // The request waits for a connection first, which has a limit of its own.
        answer(self.request_time_max, action, request).await
    }
}

/// How the vault is reached with the login of `role`, or with the URL that is configured.
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

/// What the parts of an open vault share.
struct Shared {
    database: Database,
    kek: Kek,
    /// The device keys and the tenants, swapped whole.
    keys: ArcSwap<Keys>,
    /// The last request was not answered: the vault is away, or lets nobody in.
    down: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Shared {
    /// Notes whether the vault answered, for those who may use what is in memory for longer while it does not.
    fn heard<T>(&self, answer: Result<T, VaultFault>) -> Result<T, VaultFault> {
        let down = matches!(
            answer,
            Err(VaultFault::Unreachable { .. } | VaultFault::Refused { .. })
        );
        self.down.store(down, Ordering::Relaxed);
        answer
    }
}

/// The vault as a gate sees it.
pub struct Vault {
    shared: Arc<Shared>,
    subjects: Arc<Subjects>,
    events: Arc<events::Relay>,
    stop: watch::Sender<bool>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl Vault {
    /// Connects, reads all device keys, and begins to follow their changes and to take events of keys to the audit log,
    /// which nothing waits for.
    ///
    /// # Errors
    /// [`VaultFault`]: no gate starts without its keys.
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
            "device keys read"
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

    /// What is known of devices and tenants as of now.
    #[must_use]
    pub fn keys(&self) -> Arc<Keys> {
        self.shared.keys.load_full()
    }

    /// It did not answer when it was last asked.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// The subject keys.
    #[must_use]
    pub fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// Stops following, reports how often keys were used, takes what is left of events to the audit log, and closes the
    /// connections.
    pub async fn close(&self) {
        // Nobody listens any more when the tasks have ended already.
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

/// Asks for changes of device keys again and again. A failure is logged and counted, the pause grows, and the gate goes
/// on with what it has: a revoked key then verifies for as long as the vault is away, and no longer.
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
                warn!(%fault, "can't follow the device keys; the gate goes on with those it has");
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

/// Takes events of keys to the audit log again and again, those that waited for this gate first. A stop does not wait for
/// an audit database that does not answer: the last try is bounded by itself.
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

/// Tells the vault how often keys were used, and renews quarantine keys that were used enough.
async fn report(shared: &Arc<Shared>, subjects: &Subjects) {
    let reported = subjects.report().await;
    let renewed = tenants::renew_quarantines(shared).await;
    for fault in [reported.err(), renewed.err()].into_iter().flatten() {
        shared.metrics.failed(Service::Vault);
        warn!(%fault, "can't report the use of keys; it is added to the next report");
    }
}

/// Random bytes from the operating system.
fn random<const N: usize>() -> Result<zeroize::Zeroizing<[u8; N]>, VaultFault> {
    let mut bytes = zeroize::Zeroizing::new([0; N]);
    fill(bytes.as_mut_slice())?;
    Ok(bytes)
}

fn fill(bytes: &mut [u8]) -> Result<(), VaultFault> {
    getrandom::fill(bytes)
        .map_err(|error| VaultFault::Invalid(format!("the operating system gave no random bytes: {error}")))
}

/// Lets the statements of this transaction take as long as a whole registry needs.
async fn without_haste(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("set local statement_timeout = '10min'")
        .execute(connection)
        .await
        .map(drop)
}
