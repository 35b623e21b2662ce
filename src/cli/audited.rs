//! Changes that people make: in the audit log before they are made, and refused where that can't be.

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::warn;

use crate::config::Config;
use crate::io::audit::AuditError;
use crate::io::audit::journal::{Journal, Role};
use crate::roles::Failure;
use pulsegate_ledger::log::entry::Deed;

/// A change that stands in the audit log before it is made, and again when it is known what became of it.
pub(super) struct Audited {
    journal: Journal,
    deed: Deed,
    detail: Map<String, Value>,
}

impl Audited {
    /// Says what is about to be done.
    ///
    /// # Errors
    /// [`AuditError`]: then it must not be done.
    pub(super) async fn begin(
        config: &Config,
        deed: Deed,
        detail: Map<String, Value>,
    ) -> Result<Self, AuditError> {
        let audited = Self {
            journal: Journal::connect(&config.audit_settings(), Role::Operator).await?,
            deed,
            detail,
        };
        audited.record("begun").await?;
        Ok(audited)
    }

    /// Adds what was only known when it was done.
    pub(super) fn add(&mut self, name: &str, value: Value) {
        self.detail.insert(name.to_owned(), value);
    }

    /// The change is made, or not; that this can't be said is no reason to say that it failed.
    pub(super) async fn end<T>(self, result: &Result<T, Failure>) {
        let state = if result.is_ok() { "done" } else { "failed" };
        if let Err(error) = self.record(state).await {
            warn!(%error, state, "what became of a change is not in the audit log, only that it was begun");
        }
        self.journal.close().await;
    }

    async fn record(&self, state: &str) -> Result<(), AuditError> {
        let mut detail = self.detail.clone();
        detail.insert("state".to_owned(), state.into());
        self.journal.record(Timestamp::now(), self.deed, detail).await
    }
}
