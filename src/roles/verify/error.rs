//! What a verification compares with, and why one produced no report.

use thiserror::Error;

use crate::io::audit::AuditError;
use crate::io::postgres::DatabaseError;
use pulsegate_ledger::note::NoteError;
use pulsegate_ledger::verify::TooMany;

/// Sources that the log is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Against {
    /// The raw and deadletter topics.
    Raw,
    /// The clean topic.
    Clean,
    /// The ledger topic.
    Ledger,
    /// The database itself, and checkpoints kept elsewhere.
    Database,
}

/// Reason for which a verification produced no report.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The audit database failed, or a key is missing or invalid.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Kafka did not answer.
    #[error("failed to read from Kafka; check kafka.brokers: {0}")]
    Kafka(String),
    /// The schema registry did not answer.
    #[error("failed to query the schema registry; check registry.url: {0}")]
    Registry(String),
    /// A given checkpoint cannot be used.
    #[error("failed to use the checkpoint {name}: {error}")]
    Checkpoint {
        /// Name of the checkpoint.
        name: String,
        /// The note's error.
        error: NoteError,
    },
    /// The command asks for something that does not exist.
    #[error("{0}")]
    Usage(String),
}

impl From<TooMany> for VerifyError {
    fn from(error: TooMany) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<DatabaseError> for VerifyError {
    fn from(error: DatabaseError) -> Self {
        Self::Audit(error.into())
    }
}
