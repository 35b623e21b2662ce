//! Changes by operators: recorded in the audit log before they are made, and refused if that fails.

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::warn;

use crate::config::Config;
use crate::io::audit::AuditError;
use crate::io::audit::journal::{Journal, Role};
use crate::roles::Failure;
use pulsegate_ledger::log::entry::Deed;

/// A change recorded in the audit log before it is made, and again once its outcome is known.
pub struct Audited {
    journal: Journal,
    deed: Deed,
    detail: Map<String, Value>,
}

impl Audited {
    /// Records the change that is about to be made.
    ///
    /// # Errors
    /// [`AuditError`]: the change must not be made then.
    pub async fn begin(config: &Config, deed: Deed, detail: Map<String, Value>) -> Result<Self, AuditError> {
        let audited = Self {
            journal: Journal::connect(&config.audit_settings(), Role::Operator).await?,
            deed,
            detail,
        };
        audited.record("begun").await?;
        Ok(audited)
    }

    /// Adds a detail that is only known after the change.
    pub fn add(&mut self, name: &str, value: Value) {
        self.detail.insert(name.to_owned(), value);
    }

    /// Records whether the change was made. A failure to do so is only logged: it does not make the change a failure.
    pub async fn end<T>(self, result: &Result<T, Failure>) {
        let state = if result.is_ok() { "done" } else { "failed" };
        if let Err(error) = self.record(state).await {
            warn!(%error, state, "failed to record the outcome of a change: the audit log has only its beginning");
        }
        self.journal.close().await;
    }

    async fn record(&self, state: &str) -> Result<(), AuditError> {
        let mut detail = self.detail.clone();
        detail.insert("state".to_owned(), state.into());
        self.journal.record(Timestamp::now(), self.deed, detail).await
    }
}
