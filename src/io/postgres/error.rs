//! Why a database did not do what was asked, and whether that passes by itself.

use std::time::Duration;

use thiserror::Error;

/// Why a database did not do what was asked. Always a fault of ours: what needs it waits.
#[derive(Debug, Error)]
pub enum DatabaseError {
    /// No answer in time, or one that says to retry: shutting down, out of space, out of connections.
    #[error("failed to reach the {database} database ({action}): {reason}")]
    Unreachable {
        /// Name of the database.
        database: &'static str,
        /// Request that failed.
        action: &'static str,
        /// Message of the client library or of the database.
        reason: String,
        /// SQLSTATE, if the database answered.
        sqlstate: Option<String>,
    },
    /// The database refused the request, and would refuse it again.
    #[error("the {database} database refused a request ({action}): {reason}")]
    Refused {
        /// Name of the database.
        database: &'static str,
        /// Request that failed.
        action: &'static str,
        /// Message of the database.
        reason: String,
        /// SQLSTATE, if the database answered.
        sqlstate: Option<String>,
    },
    /// The configuration or the state of the database does not allow the request.
    #[error("{0}")]
    Invalid(String),
}

impl DatabaseError {
    /// Classifies the client library's error of a request to `database`.
    #[must_use]
    pub fn new(database: &'static str, action: &'static str, error: &sqlx::Error) -> Self {
        let Diagnosis {
            passes,
            reason,
            sqlstate,
        } = diagnose(error);
        if passes {
            Self::Unreachable {
                database,
                action,
                reason,
                sqlstate,
            }
        } else {
            Self::Refused {
                database,
                action,
                reason,
                sqlstate,
            }
        }
    }

    /// The database did not answer within `time_max`.
    #[must_use]
    pub fn late(database: &'static str, action: &'static str, time_max: Duration) -> Self {
        Self::Unreachable {
            database,
            action,
            reason: format!("no answer within {} ms", time_max.as_millis()),
            sqlstate: None,
        }
    }

    /// Whether the same request may succeed later, without an operator.
    #[must_use]
    pub const fn passes(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// SQLSTATE of the database's answer; `None` if it did not answer.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Unreachable { sqlstate, .. } | Self::Refused { sqlstate, .. } => sqlstate.as_deref(),
            Self::Invalid(_) => None,
        }
    }
}

/// What an error of the client library means.
#[derive(Debug)]
pub struct Diagnosis {
    /// Whether the same request may succeed later, without an operator.
    pub passes: bool,
    /// The message alone, since a detail can quote a row.
    pub reason: String,
    /// SQLSTATE, if the database answered.
    pub sqlstate: Option<String>,
}

/// The only classifier of failures: what passes by itself and what does not.
#[must_use]
pub fn diagnose(error: &sqlx::Error) -> Diagnosis {
    if let sqlx::Error::Database(answer) = error {
        let sqlstate = answer.code().map(|code| code.into_owned());
        return Diagnosis {
            passes: sqlstate.as_deref().is_some_and(passes),
            reason: answer.message().to_owned(),
            sqlstate,
        };
    }
    let passes = matches!(
        error,
        sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
    );
    Diagnosis {
        passes,
        reason: error.to_string(),
        sqlstate: None,
    }
}

/// Whether a failure with this SQLSTATE may be over at the next attempt (PostgreSQL, appendix "Error Codes").
fn passes(sqlstate: &str) -> bool {
    match sqlstate {
        // The database was dropped; its class is the operator's intervention, and only an operator brings it back.
        "57P04" => false,
        // The server ended an idle transaction, or a lock was not free in time: the next attempt begins anew.
        "25P03" | "55P03" => true,
        _ => matches!(
            sqlstate.get(..2),
            // Connection exception; transaction rollback (serialization, deadlock); insufficient resources (space, memory,
            // connections); operator intervention (shutting down, starting up, cancelled for time).
            Some("08" | "40" | "53" | "57")
        ),
    }
}

/// Why a batch was not written. Nothing of it is stored then.
#[derive(Debug, Error)]
pub enum WriteError {
    /// Another worker has claimed the partition since: this one has to stop working on it.
    #[error("partition {partition} of {topic} was claimed by another worker; this one stops writing it")]
    Fenced {
        /// Name of the topic.
        topic: String,
        /// Number of the partition.
        partition: i32,
    },
    /// No answer, or one that says to retry: write the same batch again later.
    #[error(transparent)]
    Unreachable(DatabaseError),
    /// The database refuses the batch and would refuse it again; an operator must investigate.
    #[error(transparent)]
    Refused(DatabaseError),
}

impl From<DatabaseError> for WriteError {
    fn from(error: DatabaseError) -> Self {
        if error.passes() {
            Self::Unreachable(error)
        } else {
            Self::Refused(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_that_pass_by_themselves_are_told_from_those_that_do_not() {
        let table = [
            ("08006", true, "connection failure"),
            ("08001", true, "the client cannot connect"),
            ("40001", true, "serialization failure"),
            ("40P01", true, "deadlock detected"),
            ("53100", true, "disk full"),
            ("53300", true, "too many connections"),
            ("57014", true, "query canceled, as by statement_timeout"),
            ("57P01", true, "admin shutdown"),
            ("57P03", true, "cannot connect now"),
            ("25P03", true, "idle in transaction session timeout"),
            ("55P03", true, "lock not available"),
            ("57P04", false, "database dropped"),
            ("22P02", false, "invalid text representation"),
            ("23505", false, "unique violation"),
            ("25006", false, "read-only transaction"),
            ("28P01", false, "invalid password"),
            ("3D000", false, "unknown database"),
            ("42501", false, "insufficient privilege"),
            ("42P01", false, "undefined table"),
            ("P0001", false, "raised by a function of ours"),
            ("XX001", false, "data corrupted"),
            ("", false, "no code"),
        ];
        for (sqlstate, expected, meaning) in table {
            assert_eq!(passes(sqlstate), expected, "{sqlstate}: {meaning}");
        }
    }

    #[test]
    fn errors_of_the_client_library_pass_where_no_answer_was_read() {
        for error in [
            sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed,
            sqlx::Error::WorkerCrashed,
            sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()),
        ] {
            let error = DatabaseError::new("vault", "reading", &error);
            assert!(error.passes(), "{error}");
            assert_eq!(error.sqlstate(), None);
        }
        assert!(!DatabaseError::new("vault", "reading", &sqlx::Error::RowNotFound).passes());
    }
}
