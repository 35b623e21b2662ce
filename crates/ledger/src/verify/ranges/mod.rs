//! Checks ledger records against what they account for: recomputes each range's counts and Merkle root from the records
//! of the raw, clean and deadletter topics.
//!
//! A record in the deadletter topic was rejected for the reason given there. Of the others, a record whose event is in
//! the clean topic was accepted, and one whose event's clean records are all taken is a repeat ([`Pass`]). Ranges that
//! retention has partly deleted, or that a rewind covered twice, cannot be recomputed and are counted separately.

mod clean;
mod dead;
mod pass;
#[cfg(test)]
mod tests;

pub use clean::Clean;
pub use dead::Dead;
pub use pass::{Pass, Record};
