//! The vault database: device keys and subject keys, wrapped.
//!
//! A gate holds all device keys in memory and follows their changes; it fetches subject keys in batches and caches
//! them. While the vault is down no record is rejected for that reason: cached subject keys are used for a bounded
//! time, and records of other subjects wait.
//!
//! Creating or renewing a key also writes a key event, which a gate relays to the audit log.

mod config;
mod devices;
mod events;
mod fault;
mod home;
pub mod import;
mod keys;
pub mod lines;
pub mod opening;
pub mod registrar;
mod shared;
pub mod subjects;
mod tenants;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

pub use self::config::{Config, Settings};
pub use self::fault::VaultFault;
pub use self::home::HOUSE;
pub use self::keys::Keys;
use self::shared::{Shared, connect, read_kek};
use self::subjects::Subjects;
use crate::io::audit;
use crate::telemetry::metrics::{Metrics, Service};
use pulsegate_core::gate::keyring::KeyringBuilder;

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
        let database = connect(settings, "gate_vault").await?;
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
            down: false.into(),
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
        self.shared.is_down()
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
        self.shared.database.close().await;
    }
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
                let used = shared.database.statistics();
                shared.metrics.vault_pool(used.idle as usize, used.used as usize);
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
