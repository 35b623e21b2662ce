//! The result of an opening.

use rdkafka::error::KafkaError;
use thiserror::Error;
use tracing::warn;

use crate::io::registry::RegistryFault;
use crate::roles::assignments::Opening;
use crate::telemetry::health::HoldCause;
use pulsegate_core::gate::lane::Lane;
use pulsegate_ledger::entry::{EntryError, Refusal};

/// Why a lane did not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The ledger and the group's offsets disagree: an operator has to decide.
    #[error("lane {partition}: {refusal}")]
    Refused {
        /// Partition of the raw topic.
        partition: i32,
        /// The disagreement, and what to do about it.
        refusal: Refusal,
    },
    /// The last ledger record is invalid.
    #[error("lane {partition}: the last ledger record cannot be read: {error}")]
    Ledger {
        /// Partition of the raw topic.
        partition: i32,
        /// Why the record is invalid.
        error: EntryError,
    },
    /// A request to Kafka failed: the lane is opened again later.
    #[error("lane {partition}: a request to Kafka failed: {error}")]
    Kafka {
        /// Partition of the raw topic.
        partition: i32,
        /// The client's error.
        error: KafkaError,
    },
    /// The registry has not resolved the schema of a record in the log: the lane is opened again later.
    #[error("lane {partition}: schema id {id} is not resolved yet: {error}")]
    Schema {
        /// Partition of the raw topic.
        partition: i32,
        /// Id of the schema in the registry.
        id: u32,
        /// Why the registry gave no answer.
        error: RegistryFault,
    },
    /// Opening the lane panicked, which is a defect.
    #[error("lane {partition}: opening the lane panicked; this is a defect, please report it")]
    Panicked {
        /// Partition of the raw topic.
        partition: i32,
    },
    /// The lane was revoked before it was open.
    #[error("lane {partition} was revoked while it was being opened")]
    Cancelled {
        /// Partition of the raw topic.
        partition: i32,
    },
}

impl OpenError {
    /// The service that the lane waits for; `None` if it is not opened again.
    #[must_use]
    pub const fn cause(&self) -> Option<HoldCause> {
        match self {
            Self::Kafka { .. } => Some(HoldCause::Kafka),
            Self::Schema { .. } => Some(HoldCause::SchemaRegistry),
            Self::Refused { .. } | Self::Ledger { .. } | Self::Panicked { .. } | Self::Cancelled { .. } => {
                None
            }
        }
    }

    /// Whether opening the lane again would fail in the same way.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::Ledger { .. } | Self::Panicked { .. }
        )
    }
}

/// The result of an opening.
pub struct Opened {
    /// Partition of the raw topic.
    pub partition: i32,
    /// The opening that it is the result of.
    pub opening: Opening,
    /// The lane, or why it did not open.
    pub result: Result<Lane, OpenError>,
}

/// Logs a failed opening: an error if an operator has to act, a warning if the lane is opened again.
pub fn report(error: &OpenError) {
    match error {
        OpenError::Refused { .. } | OpenError::Ledger { .. } | OpenError::Panicked { .. } => {
            tracing::error!(%error, "failed to open a lane: an operator has to act");
        }
        OpenError::Kafka { .. } | OpenError::Schema { .. } => {
            warn!(%error, "failed to open a lane: retrying")
        }
        OpenError::Cancelled { .. } => {}
    }
}
