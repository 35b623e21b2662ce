//! What a worker has of each partition.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::telemetry::health::HoldCause;
use pulsegate_core::gate::lane::Lane;

/// One assigned partition.
pub enum Slot {
    /// Not ours.
    Absent,
    /// Ours, to be opened from this instant on.
    Closed(Instant),
    /// Being opened; the flag cancels it.
    Opening(Arc<AtomicBool>),
    /// Open.
    Open(Box<Lane>),
    /// Open, but waiting for something of ours since a record at its position could not be decided.
    Held {
        /// The lane as it was before that record.
        lane: Box<Lane>,
        /// What it waits for.
        need: Need,
        /// When to look again.
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
    /// The log: the client cannot go on reading it from here, as when retention has deleted the next offset.
    Log,
    /// A broker that takes what the lane produces.
    Output,
}

impl Need {
    /// The name by which operators know it.
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
    /// The lane, if it is open; held or not.
    pub fn lane(&mut self) -> Option<&mut Lane> {
        match self {
            Self::Open(lane) | Self::Held { lane, .. } => Some(lane),
            Self::Absent | Self::Closed(_) | Self::Opening(_) => None,
        }
    }

    /// Gives the lane up, and has it opened again.
    pub fn close(&mut self) {
        if let Self::Opening(cancelled) = self {
            cancelled.store(true, Ordering::Relaxed);
        }
        *self = Self::Closed(Instant::now());
    }
}
