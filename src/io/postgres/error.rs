//! Why a database did not do what was asked, and whether that passes by itself.

use thiserror::Error;

/// Why a database did not do what was asked. Always a fault of ours: what needs it waits.
#[derive(Debug, Error)]
pub enum DatabaseError {
    /// No answer in time, or an answer that says to come again: shutting down, out of space, out of connections.
    #[error("the {database} database can't be reached ({action}): {reason}")]
    Unreachable {
        /// Which database.
        database: &'static str,
        /// What was asked.
        action: &'static str,
        /// What the client library or the database said.
        reason: String,
    },
    /// The database answered with a refusal.
    #[error("the {database} database refused ({action}): {reason}")]
    Refused {
        /// Which database.
        database: &'static str,
        /// What was asked.
        action: &'static str,
        /// What the database said.
        reason: String,
    },
    /// The configuration or the state of the database does not allow it.
    #[error("{0}")]
    Invalid(String),
}

impl DatabaseError {
    /// Classifies what the client library says of a request to `database`.
    #[must_use]
    pub fn new(database: &'static str, action: &'static str, error: &sqlx::Error) -> Self {
        // Class 57 is the operator's doing (shutting down, starting up, cancelled for time), 53 a lack of space, memory or
        // connections, 40 a transaction that lost against another: all of them may be over the next time.
        let passes = |code: &str| ["57", "53", "40"].iter().any(|class| code.starts_with(class));
        // The message alone: a detail can quote a row.
        let (unreachable, reason) = match error {
            sqlx::Error::Database(database) => (
                database.code().is_some_and(|code| passes(&code)),
                database.message().to_owned(),
            ),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => (true, error.to_string()),
            _ => (false, error.to_string()),
        };
        if unreachable {
            Self::Unreachable {
                database,
                action,
                reason,
            }
        } else {
            Self::Refused {
                database,
                action,
                reason,
            }
        }
    }
}

/// Why a batch was not written. Nothing of it is stored then.
#[derive(Debug, Error)]
pub enum WriteError {
    /// Another worker has claimed the partition since: this one has to stop working on it.
    #[error(
        "partition {partition} of {topic} was taken over by another worker; this one writes no more of it"
    )]
    Fenced {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// No answer, or one that says to come again: write the same batch again later.
    #[error("{0}")]
    Unreachable(DatabaseError),
    /// The database will not take it, whoever asks how often; an operator has to look.
    #[error("{0}")]
    Refused(DatabaseError),
}

impl From<DatabaseError> for WriteError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Unreachable { .. } => Self::Unreachable(error),
            DatabaseError::Refused { .. } | DatabaseError::Invalid(_) => Self::Refused(error),
        }
    }
}
