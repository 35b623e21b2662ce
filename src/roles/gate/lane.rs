//! A worker's open lane, and what it may wait for.

use std::time::Instant;

use crate::roles::assignments::Assignments;
use crate::telemetry::health::HoldCause;
use pulsegate_core::gate::lane::Lane;
use pulsegate_core::gate::pipeline::Missing;

/// The partitions of one worker.
pub type Lanes<S> = Assignments<S, OpenLane>;

/// A lane that is open, held or not.
pub struct OpenLane {
    /// The lane; while it is held, as it was before the record at its position.
    pub lane: Lane,
    /// Set while the record at its position cannot be decided or written.
    pub hold: Option<Hold>,
}

/// Why an open lane is not read.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// The dependency that it waits for.
    pub need: Need,
    /// When to check again.
    pub retry_at: Instant,
}

/// What a held lane waits for.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A piece of the pipeline: the vault's answer about a subject, or the registry's about a schema id.
    Piece(Missing),
    /// The log: the client cannot continue reading here, for example because retention deleted the next offset.
    Log,
    /// A broker that accepts what the lane produces.
    Output,
}

impl Need {
    /// The cause that health reports, metrics and logs name.
    #[must_use]
    pub fn cause(self) -> HoldCause {
        match self {
            Self::Piece(Missing::SubjectKeys) => HoldCause::SubjectKeys,
            Self::Piece(Missing::Schema(_)) => HoldCause::SchemaRegistry,
            Self::Log | Self::Output => HoldCause::Kafka,
        }
    }
}
