//! Load testing for Pulsegate: a signed fleet, capture and replay of streams, and an oracle.
//!
//! Nothing here depends on the `pulsegate` crate: the formats of signatures, deadletter headers and ledger records are
//! implemented a second time from the contract, so that a defect in the gate cannot hide itself.

pub mod capture;
pub mod fleet;
pub mod kafka;
pub mod murmur2;
pub mod oracle;
pub mod outcome;
pub mod record;
pub mod replay;
