//! Why a request to the vault failed.

use thiserror::Error;

use crate::io::postgres::DatabaseError;
use pulsegate_core::crypto::kek::KekError;

/// Name of the database in errors and in the configuration.
pub(super) const VAULT: &str = "vault";

/// Why a request to the vault failed. Never a record's fault: records that need the vault wait.
#[derive(Debug, Error)]
pub enum VaultFault {
    /// The database did not answer, or refused the request.
    #[error(transparent)]
    Database(DatabaseError),
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
    pub(super) fn database(action: &'static str, error: &sqlx::Error) -> Self {
        Self::Database(DatabaseError::new(VAULT, action, error))
    }

    pub(super) fn damaged(what: &'static str, reason: impl ToString) -> Self {
        Self::Damaged {
            what,
            reason: reason.to_string(),
        }
    }
}

impl From<DatabaseError> for VaultFault {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Invalid(reason) => Self::Invalid(reason),
            error => Self::Database(error),
        }
    }
}
