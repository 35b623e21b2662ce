//! Why a worker stopped by itself.

use rdkafka::error::KafkaError;
use thiserror::Error;

use super::opening::OpenError;
use crate::io::kafka::settle::SettleError;
use crate::roles::assignments::AssignmentError;
use pulsegate_core::crypto::envelope::TooLong;
use pulsegate_core::gate::seal::SealError;

/// Why a worker stopped before `stop` was set.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The Kafka client cannot continue.
    #[error("the Kafka client failed: {0}")]
    Kafka(#[from] KafkaError),
    /// Another worker took over this worker's transactional id.
    #[error("{0}")]
    Fenced(SettleError),
    /// A lane cannot be opened, and retrying does not help: an operator has to decide.
    #[error("{0}")]
    Refused(OpenError),
    /// A record's timestamp is its producer's: no freshness, replay or rate decision can rest on it.
    #[error(
        "lane {partition}, offset {offset}: the record's timestamp is its producer's, since the raw topic was not set \
         to message.timestamp.type=LogAppendTime. Set it (pulsegate topology apply). Records appended before keep \
         their timestamps: move the group's offset in this lane behind the last of them, and start with --rewind so \
         that the ledger records the move"
    )]
    Timestamps {
        /// Partition of the raw topic.
        partition: i32,
        /// Offset of the record.
        offset: i64,
    },
    /// The raw topic has gained partitions; home partitions are computed from their number.
    #[error("the raw topic has more than the {known} partitions it had at the start: restart the gate")]
    Partitions {
        /// Number of partitions when the gate started.
        known: usize,
    },
    /// A record cannot be sealed.
    #[error("failed to seal a record: {0}")]
    Seal(SealError),
    /// A name is too long to be bound into ciphertexts.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The worker panicked, which is a defect.
    #[error("the worker panicked; this is a defect, please report it")]
    Panicked,
    /// Without random bytes there are no IVs.
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
}

impl From<AssignmentError> for WorkerError {
    fn from(error: AssignmentError) -> Self {
        match error {
            AssignmentError::Kafka(error) => Self::Kafka(error),
            AssignmentError::Partitions { known } => Self::Partitions { known },
        }
    }
}
