//! That keys were made or renewed, from the vault to the audit log.
//!
//! ```text
//! keys written ─▶ key_event (by triggers, in the same transaction) ─▶ relay ─▶ audit log, lane `administration`
//! ```
//!
//! One gate at a time takes the oldest events, has them recorded, and only then lets them be gone. Nothing waits for it:
//! while the audit database is away keys are made as ever, and their events stay in the vault. Each event is recorded at
//! least once. A gate that ends between the two commits leaves events that are recorded again; the number of an event
//! is in its entry, so a repeat is seen to be one.
//!
//! An entry's own time and host are those of the gate that relayed it; when the keys were made, and with which login, is
//! in its detail. Subjects, lookups, salts and keys are in neither: key ids stand in front of every sealed field.

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

use super::{Settings, VaultFault, answer, options};
use crate::io::audit;
use crate::io::audit::AuditError;
use crate::io::audit::journal::{self, Journal, Role};
use crate::telemetry::metrics::{Metrics, Service};
use pulsegate_ledger::log::entry::Deed;

/// Events that are relayed at once, each with at most 500 key ids.
const EVENTS_MAX: usize = 500;
const _: () = assert!(EVENTS_MAX <= journal::ACTIONS_MAX);
/// How long the audit log may take to record them.
const RECORD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the vault keeps taken events for a gate that does not come back: longer than recording may take.
const REST_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a gate that stops goes on relaying.
const FINISH_TIME_MAX: Duration = Duration::from_secs(3);

/// Takes the oldest events. To lock rows one needs the right to change them, so relays have a lock of their own.
const TAKE: &str = "
with oldest as (select id from key_event order by id limit $1),
     taken as (delete from key_event e using oldest o where e.id = o.id returning e.*)
select id, kind, made_by, tenant, kek, keys, rotations, key_ids,
       to_char(made_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as made_at
from taken order by id";

/// Why events were not relayed. They are where they were, and taken again.
#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Vault(#[from] VaultFault),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("the audit log has not answered within {} s", RECORD_TIME_MAX.as_secs())]
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

/// An action of the audit log.
type Action = (Deed, Map<String, Value>);

/// The relay of one gate. It keeps no connection between two looks, and none that others wait for: a look that is given up
/// takes its connections with it, and the vault its events back.
pub(super) struct Relay {
    settings: Settings,
    audit: audit::Settings,
    /// The last try failed, and this was said.
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

    /// Relays all that there is. That it can't be done is counted each time, and said once.
    pub(super) async fn relay(&self) {
        match self.relay_all().await {
            Ok(Left::Nothing) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("events of keys get into the audit log again");
                }
            }
            Ok(Left::ToAnother | Left::More) => {}
            Err(fault) => {
                self.metrics.failed(fault.service());
                if self.failing.swap(true, Ordering::Relaxed) {
                    debug!(%fault, "events of keys still wait in the vault");
                } else {
                    warn!(%fault, "events of keys wait in the vault, and get into the audit log later");
                }
            }
        }
    }

    /// Relays a last time, and not for long.
    pub(super) async fn finish(&self) {
        if timeout(FINISH_TIME_MAX, self.relay()).await.is_err() {
            warn!("events of keys may be left in the vault; the next gate takes them to the audit log");
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
        let action = "taking events of keys";
        let mut transaction = self.ask(action, vault.begin()).await?;
        let Some(taken) = self.ask(action, take(&mut transaction)).await? else {
            return Ok(Left::ToAnother);
        };
        if !taken.is_empty() {
            let actions = taken.iter().map(read).collect::<Result<_, _>>()?;
            self.record(journal, actions).await?;
        }
        self.ask("forgetting events of keys", transaction.commit())
            .await?;
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
        answer(time_max, action, request).await
    }
}

/// What there is to do after some events were relayed.
#[derive(Clone, Copy)]
enum Left {
    Nothing,
    More,
    /// Another gate is at it.
    ToAnother,
}

/// None where another gate has taken some and not let go of them yet.
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

/// What the audit log is told of an event.
fn read(row: &PgRow) -> Result<Action, VaultFault> {
    let fault = |error| VaultFault::database("reading an event of keys", &error);
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
