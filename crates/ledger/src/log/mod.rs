//! The audit log of one lane: what its entries are, and which entries a ledger record adds.

pub mod chain;
pub mod checkpoint;
pub mod entry;

/// The name under which the checkpoints of a lane are signed.
#[must_use]
pub fn origin(environment: &str, lane: &str) -> String {
    format!("pulsegate.audit/{environment}/{lane}")
}

/// The lane of a partition of the raw topic.
#[must_use]
pub fn lane_of(raw_topic: &str, partition: i32) -> String {
    format!("{raw_topic}/{partition}")
}
