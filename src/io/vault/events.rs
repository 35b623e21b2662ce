//! Relays key events (keys created or renewed) from the vault to the audit log.
//!
//! ```text
//! keys written ─▶ key_event (by triggers, in the same transaction) ─▶ relay ─▶ audit log, lane `administration`
//! ```
//!
//! One gate at a time takes the oldest events, records them in the audit log, and only then deletes them. Nothing waits
//! for it: while the audit database is down keys are still created, and their events stay in the vault. Each event is
//! recorded at least once: if a gate ends between the two commits, its events are recorded again. An entry holds the
//! number of its event, so a repeat can be recognized.
//!
//! An entry's own time and host are those of the gate that relayed it; its detail says when the keys were created and
//! with which login. Neither holds subjects, lookups, salts or keys; key ids are not secret, since they precede every
//! sealed field.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use sqlx::postgres::PgRow;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row};
use thiserror::Error;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::config::Settings;
use super::fault::{VAULT, VaultFault};
use super::shared::options;
use crate::io::audit;
use crate::io::audit::AuditError;
use crate::io::audit::journal::{self, Journal, Role};
use crate::io::postgres::within;
use crate::telemetry::metrics::{Metrics, Service};
use pulsegate_ledger::log::entry::Deed;

/// Most events that are relayed at once, each with at most 500 key ids.
const EVENTS_MAX: usize = 500;
const _: () = assert!(EVENTS_MAX <= journal::ACTIONS_MAX);
/// How long recording them in the audit log may take.
const RECORD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the vault lets the transaction with taken events idle: longer than recording may take.
const REST_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a stopping gate goes on relaying.
const FINISH_TIME_MAX: Duration = Duration::from_secs(3);

/// Takes the oldest events. Locking rows needs the privilege to update them, so relays use an advisory lock instead.
const TAKE: &str = "
with oldest as (select id from key_event order by id limit $1),
     taken as (delete from key_event e using oldest o where e.id = o.id returning e.*)
select id, kind, made_by, tenant, kek, keys, rotations, key_ids,
       to_char(made_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as made_at
from taken order by id";

/// Why events were not relayed. They stay in the vault and are retried.
#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Vault(#[from] VaultFault),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("the audit log did not answer within {} s", RECORD_TIME_MAX.as_secs())]
    Late,
}

impl Fault {
    const fn service(&self) -> Service {
        match self {
            Self::Vault(_) => Service::Vault,
            Self::Audit(_) | Self::Late => Service::Audit,
        }
    }
}

/// An action to record in the audit log, with its detail.
type Action = (Deed, Map<String, Value>);

/// The relay of one gate. It keeps no connection between two runs, and shares none: a cancelled run closes its
/// connections, and the vault keeps the events.
pub(super) struct Relay {
    settings: Settings,
    audit: audit::Settings,
    /// Whether the last attempt failed, and a warning was logged.
    failing: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Relay {
    pub(super) fn new(settings: Settings, audit: audit::Settings, metrics: Arc<Metrics>) -> Self {
        Self {
            settings,
            audit,
            failing: AtomicBool::new(false),
            metrics,
        }
    }

    /// Relays all events. Every failure is counted, but only the first of a row is logged as a warning.
    pub(super) async fn relay(&self) {
        match self.relay_all().await {
            Ok(Left::Nothing) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("relaying key events to the audit log again");
                }
            }
            Ok(Left::ToAnother | Left::More) => {}
            Err(fault) => {
                self.metrics.failed(fault.service());
                if self.failing.swap(true, Ordering::Relaxed) {
                    debug!(%fault, "failed again to relay key events to the audit log: they stay in the vault");
                } else {
                    warn!(%fault, "failed to relay key events to the audit log: they stay in the vault, retrying");
                }
            }
        }
    }

    /// Relays a last time, for at most `FINISH_TIME_MAX`.
    pub(super) async fn finish(&self) {
        if timeout(FINISH_TIME_MAX, self.relay()).await.is_err() {
            warn!("timed out relaying key events on stop: the next gate relays those left in the vault");
        }
    }

    async fn relay_all(&self) -> Result<Left, Fault> {
        let rest = REST_TIME_MAX.as_millis().to_string();
        let options = options(&self.settings, "gate_vault")?;
        let options = options.options([("idle_in_transaction_session_timeout", rest)]);
        let mut vault = self.ask("connecting", options.connect()).await?;
        let journal = OnceCell::new();
        let mut left = Left::More;
        while matches!(left, Left::More) {
            left = self.relay_some(&mut vault, &journal).await?;
        }
        if let Some(journal) = journal.into_inner() {
            journal.close().await;
        }
        Ok(left)
    }

    /// Relays the oldest events.
    async fn relay_some(&self, vault: &mut PgConnection, journal: &OnceCell<Journal>) -> Result<Left, Fault> {
        let action = "taking key events";
        let mut transaction = self.ask(action, vault.begin()).await?;
        let Some(taken) = self.ask(action, take(&mut transaction)).await? else {
            return Ok(Left::ToAnother);
        };
        if !taken.is_empty() {
            let actions = taken.iter().map(read).collect::<Result<_, _>>()?;
            self.record(journal, actions).await?;
        }
        self.ask("deleting key events", transaction.commit()).await?;
        self.metrics.key_events_relayed(taken.len());
        Ok(if taken.len() < EVENTS_MAX {
            Left::Nothing
        } else {
            Left::More
        })
    }

    async fn record(&self, journal: &OnceCell<Journal>, actions: Vec<Action>) -> Result<(), Fault> {
        let record = async {
            let connect = || Journal::connect(&self.audit, Role::Gate);
            let journal = journal.get_or_try_init(connect).await?;
            journal.record_all(Timestamp::now(), actions).await
        };
        match timeout(RECORD_TIME_MAX, record).await {
            Ok(recorded) => Ok(recorded?),
            Err(_) => Err(Fault::Late),
        }
    }

    async fn ask<T>(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, VaultFault> {
        let time_max = Duration::from_millis(self.settings.access.request_time_max_ms);
        Ok(within(time_max, VAULT, action, request).await?)
    }
}

/// What is left to relay.
#[derive(Clone, Copy)]
enum Left {
    Nothing,
    More,
    /// Another gate is relaying.
    ToAnother,
}

/// Takes the oldest events; `None` while another gate holds the lock.
async fn take(connection: &mut PgConnection) -> Result<Option<Vec<PgRow>>, sqlx::Error> {
    let alone: bool = sqlx::query_scalar(
        "select pg_try_advisory_xact_lock(hashtextextended('pulsegate key_event relay', 0))",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !alone {
        return Ok(None);
    }
    let taken = sqlx::query(TAKE).bind(EVENTS_MAX as i64);
    taken.fetch_all(connection).await.map(Some)
}

/// Turns an event into an action of the audit log.
fn read(row: &PgRow) -> Result<Action, VaultFault> {
    let fault = |error| VaultFault::database("reading a key event", &error);
    let kind: &str = row.try_get("kind").map_err(fault)?;
    let deed =
        serde_json::from_value(kind.into()).map_err(|error| VaultFault::damaged("key event", error))?;
    let text = |name| row.try_get::<Option<String>, _>(name).map_err(fault);
    let number = |name| row.try_get::<i32, _>(name).map_err(fault);
    let mut detail = journal::detail([
        ("event", row.try_get::<i64, _>("id").map_err(fault)?.into()),
        ("made_at", text("made_at")?.into()),
        ("made_by", text("made_by")?.into()),
        ("keys", number("keys")?.into()),
        ("rotations", number("rotations")?.into()),
    ]);
    for name in ["tenant", "kek"] {
        if let Some(value) = text(name)? {
            detail.insert(name.to_owned(), value.into());
        }
    }
    let key_ids: Vec<i64> = row.try_get("key_ids").map_err(fault)?;
    if !key_ids.is_empty() {
        detail.insert("key_ids".to_owned(), key_ids.into());
    }
    Ok((deed, detail))
}
