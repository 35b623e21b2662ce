//! Topics, databases and roles as declared in `topology/`, applied to the live services and checked against them.
//!
//! The declarations are embedded in the binary, so what a version of Pulsegate expects can't drift from the version.
//! Everything is compared as a list of [`Item`]s: `show` prints all of them, `check` those that disagree, and `apply`
//! makes them agree where that loses nothing.

pub mod access;
mod admin;
pub mod databases;
pub mod topics;

use rdkafka::error::KafkaError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::io::kafka::{self, Topics};
use crate::io::postgres::logins::LoginError;
use crate::io::postgres::{self, DatabaseError};
use crate::io::timescale;
use pulsegate_settings::Check;

/// Settings that may differ between installations that share the declared topology.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Partitions of every topic. Default: as `topology/topics.toml` says (8).
    pub partitions: Option<u32>,
    /// Replicas of every topic; with three or more, two of them must acknowledge. Default: 1.
    pub replication_factor: Option<u32>,
    /// How long one request to Kafka or PostgreSQL may take, in milliseconds. Default: 30,000.
    pub request_time_max_ms: u64,
}

/// What the topology is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The environment; outside `local` logins are not made.
    pub environment: String,
    /// How to reach Kafka.
    pub kafka: kafka::Config,
    /// The names of the topics.
    pub topics: Topics,
    /// How to reach the databases.
    pub databases: postgres::Config,
    /// Its section.
    pub topology: Config,
    /// How long data are kept.
    pub timescale: timescale::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            partitions: None,
            replication_factor: None,
            request_time_max_ms: 30_000,
        }
    }
}

impl Config {
    /// Reports invalid values.
    pub fn check(&self, check: &mut Check) {
        if let Some(partitions) = self.partitions {
            check.range("partitions", partitions.into(), 1..=10_000);
        }
        if let Some(replicas) = self.replication_factor {
            check.range("replication_factor", replicas.into(), 1..=15);
        }
        check.range("request_time_max_ms", self.request_time_max_ms, 100..=600_000);
    }
}

/// Kind of object that an item is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A Kafka topic.
    Topic,
    /// A database and its migrations.
    Database,
    /// A login role.
    Role,
    /// Privileges of one grantee on one object.
    Grant,
}

/// One property of an object that is declared, live, or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Item {
    /// Kind of the object.
    pub kind: Kind,
    /// Name of the object.
    pub name: String,
    /// Property of the object, such as `partitions`.
    pub aspect: String,
    /// Declared value; `None` where nothing is declared.
    pub declared: Option<String>,
    /// Live value; `None` where nothing was found.
    pub live: Option<String>,
}

impl Item {
    /// Whether the declared and the live value are equal.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.declared == self.live
    }
}

impl std::fmt::Display for Item {
    /// Describes the difference.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
        let Self {
            name,
            aspect,
            declared,
            live,
            ..
        } = self;
        write!(
            f,
            "{name}, {aspect}: found {}, declared {}",
            show(live),
            show(declared)
        )
    }
}

/// What `apply` did and what it found afterwards.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// One sentence per change; empty where everything agreed already.
    pub changes: Vec<String>,
    /// Everything declared or found, after the changes.
    pub items: Vec<Item>,
}

impl Report {
    /// Items that still disagree: each needs a decision of the operator.
    pub fn differences(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| !item.agrees())
    }
}

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
    fn kafka(action: &str, error: &KafkaError) -> Self {
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

    fn postgres(action: impl Into<String>, error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut => Self::Unreachable {
                service: "PostgreSQL",
                reason: error.to_string(),
            },
            _ => Self::Refused {
                action: action.into(),
                reason: error.to_string(),
            },
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

/// Makes the live topology agree with the declared one, where that loses nothing; idempotent. A change that needs a
/// decision of the operator (a new partition count moves devices) stays in the report as a difference.
///
/// # Errors
/// [`Fault`] where a service does not answer or refuses.
pub async fn apply(settings: &Settings) -> Result<Report, Fault> {
    let mut report = Report::default();
    topics::apply(settings, &mut report.changes).await?;
    databases::apply(settings, &mut report.changes).await?;
    report.items = inspect(settings).await?;
    Ok(report)
}

/// Compares the live topology with the declared one and changes nothing.
///
/// # Errors
/// [`Fault`] where a service does not answer or refuses.
pub async fn inspect(settings: &Settings) -> Result<Vec<Item>, Fault> {
    let mut items = topics::inspect(settings).await?;
    items.extend(databases::inspect(settings).await?);
    Ok(items)
}
