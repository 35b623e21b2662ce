//! The state of a partition within a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::telemetry::health::HoldCause;
use pulsegate_core::gate::lane::Lane;

/// State of one partition.
pub enum Slot {
    /// Not assigned to this worker.
    Absent,
    /// Assigned, to be opened from this instant on.
    Closed(Instant),
    /// Being opened; the flag cancels it.
    Opening(Arc<AtomicBool>),
    /// Open.
    Open(Box<Lane>),
    /// Open, but waiting: a dependency is missing, so the record at its position could not be decided or written.
    Held {
        /// The lane as it was before that record.
        lane: Box<Lane>,
        /// The dependency that it waits for.
        need: Need,
        /// When to check again.
        retry_at: Instant,
    },
}

/// What a held lane waits for.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// The vault's answer about a subject.
    SubjectKeys,
    /// The registry's answer about a schema id.
    Schema(u32),
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
            Self::SubjectKeys => HoldCause::SubjectKeys,
            Self::Schema(_) => HoldCause::SchemaRegistry,
            Self::Log | Self::Output => HoldCause::Kafka,
        }
    }
}

impl Slot {
    /// The lane, if it is open, held or not.
    pub fn lane(&mut self) -> Option<&mut Lane> {
        match self {
            Self::Open(lane) | Self::Held { lane, .. } => Some(lane),
            Self::Absent | Self::Closed(_) | Self::Opening(_) => None,
        }
    }

    /// Drops the lane or cancels its opening, and marks it to be opened again at once.
    pub fn close(&mut self) {
        if let Self::Opening(cancelled) = self {
            cancelled.store(true, Ordering::Relaxed);
        }
        *self = Self::Closed(Instant::now());
    }
}
