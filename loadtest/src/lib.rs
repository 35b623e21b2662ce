//! Load testing for Pulsegate: a signed fleet, capture and replay of streams, and an oracle.
//!
//! Nothing here depends on the `pulsegate` crate: the formats of signatures, deadletter headers and ledger records are
//! written a second time, from the contract, so that a mistake of the gate does not excuse itself.

pub mod capture;
pub mod fleet;
pub mod kafka;
pub mod murmur2;
pub mod oracle;
pub mod outcome;
pub mod record;
pub mod replay;
