//! Why the topology could not be applied or inspected.

use rdkafka::error::KafkaError;
use thiserror::Error;

use crate::io::postgres::logins::LoginError;
use crate::io::postgres::{DatabaseError, diagnose};

/// Why the topology could not be applied or inspected.
#[derive(Debug, Error)]
pub enum Fault {
    /// A service did not answer.
    #[error(
        "failed to reach {service}: {reason}; check that the stack is up (`make up`) and the address is right"
    )]
    Unreachable {
        /// Name of the service.
        service: &'static str,
        /// Error of the client library.
        reason: String,
    },
    /// A service refused a request.
    #[error("{action} failed: {reason}")]
    Refused {
        /// Action that failed.
        action: String,
        /// Error of the service.
        reason: String,
    },
    /// The declarations or the configuration are invalid.
    #[error("{0}")]
    Invalid(String),
    /// A login file could not be read or written.
    #[error(transparent)]
    Login(#[from] LoginError),
}

impl Fault {
    pub(super) fn kafka(action: &str, error: &KafkaError) -> Self {
        use rdkafka::types::RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(
                Code::AllBrokersDown | Code::BrokerTransportFailure | Code::OperationTimedOut | Code::Resolve,
            ) => Self::Unreachable {
                service: "Kafka",
                reason: error.to_string(),
            },
            _ => Self::Refused {
                action: action.to_owned(),
                reason: error.to_string(),
            },
        }
    }

    pub(super) fn postgres(action: impl Into<String>, error: &sqlx::Error) -> Self {
        let diagnosis = diagnose(error);
        if diagnosis.passes {
            Self::Unreachable {
                service: "PostgreSQL",
                reason: diagnosis.reason,
            }
        } else {
            Self::Refused {
                action: action.into(),
                reason: diagnosis.reason,
            }
        }
    }
}

impl From<DatabaseError> for Fault {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Unreachable { reason, .. } => Self::Unreachable {
                service: "PostgreSQL",
                reason,
            },
            DatabaseError::Refused { action, reason, .. } => Self::Refused {
                action: action.to_owned(),
                reason,
            },
            DatabaseError::Invalid(reason) => Self::Invalid(reason),
        }
    }
}
