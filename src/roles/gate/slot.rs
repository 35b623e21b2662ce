//! The state of a partition within a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::telemetry::health::HoldCause;
use pulsegate_core::gate::lane::Lane;
use pulsegate_core::gate::pipeline::Missing;

/// State of one partition.
pub enum Slot {
    /// Not assigned to this worker.
    Absent,
    /// Assigned, to be opened from this instant on.
    Closed(Instant),
    /// Being opened.
    Opening(Ticket),
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

/// Identifies one opening of a lane, and cancels it.
#[derive(Clone, Debug)]
pub struct Ticket {
    id: u64,
    cancelled: Arc<AtomicBool>,
}

impl Ticket {
    /// The ticket of an opening; `id` is unique within its worker.
    #[must_use]
    pub fn new(id: u64) -> Self {
        Self {
            id,
            cancelled: Arc::default(),
        }
    }

    /// Whether the lane was revoked or closed since.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
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

impl Slot {
    /// The lane, if it is open, held or not.
    pub fn lane(&mut self) -> Option<&mut Lane> {
        match self {
            Self::Open(lane) | Self::Held { lane, .. } => Some(lane),
            Self::Absent | Self::Closed(_) | Self::Opening(_) => None,
        }
    }

    /// Whether the slot waits for the opening with this ticket.
    #[must_use]
    pub fn awaits(&self, ticket: &Ticket) -> bool {
        matches!(self, Self::Opening(current) if current.id == ticket.id || planted!(StaleOpeningTaken))
    }

    /// Drops the lane or cancels its opening, and marks it to be opened again from `at` on.
    pub fn close(&mut self, at: Instant) {
        if let Self::Opening(ticket) = self {
            ticket.cancel();
        }
        *self = Self::Closed(at);
    }
}
