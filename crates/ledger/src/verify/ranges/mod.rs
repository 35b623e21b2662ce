//! Ledger records beside what they account for: each range's counts and Merkle root, recomputed from the records of the
//! raw, clean and deadletter topics.
//!
//! A record that is in the deadletter was rejected for the reason that stands there. Of the others, one whose event is in
//! the clean topic was accepted, and one whose event is there no more often than it was taken is a repeat ([`pass`]).
//! Ranges that retention has eaten into, or that were covered twice because of a rewind, cannot be recomputed and are
//! counted apart.

mod clean;
mod dead;
mod pass;
#[cfg(test)]
mod tests;

pub use clean::Clean;
pub use dead::Dead;
pub use pass::{Pass, Record};
