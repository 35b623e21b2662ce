//! What became of every offset, and the proof of it: the contract between the gate, the watch and an auditor.
//!
//! ```text
//! gate ─▶ entry (one ledger record a lane and transaction: range, outcomes, Merkle root, hash of the one before)
//!            └▶ log (each lane's ledger as an RFC 6962 Merkle log) ─▶ note (signed checkpoints)
//! auditor ─▶ verify (recomputes entries, log and checkpoints, and names the first difference)
//! ```
//!
//! Nothing here does I/O or reads a clock, the environment or randomness: records, rows and times are arguments, so what
//! this crate says of a history can be repeated by anyone who has the same bytes.

pub mod entry;
pub mod log;
pub mod merkle;
pub mod note;
pub mod outcome;
pub mod record;
pub mod verify;
