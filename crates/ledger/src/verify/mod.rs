//! Verification, as far as it needs no connection: rows and records go in, the first difference comes out.
//!
//! - [`lane`]: entries, head and checkpoints of one lane agree with each other and with checkpoints that others held.
//! - [`comparison`]: the log has the records of the ledger topic, byte for byte.
//! - [`ranges`]: the ledger's counts and Merkle roots are those that the raw, clean and deadletter topics give.

pub mod account;
pub mod compare;
pub mod comparison;
pub mod lane;
pub mod ranges;
pub mod report;
pub mod stored;
pub mod window;

use jiff::Timestamp;
use thiserror::Error;

/// A lane has more ledger records than can be compared at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a lane has more than {limit} ledger records to compare: narrow the window with --from and --to, or leave raw and clean \
     out of --against"
)]
pub struct TooMany {
    /// The limit.
    pub limit: usize,
}

/// Formats a time as RFC 3339.
#[must_use]
pub fn timestamp(second: i64) -> String {
    Timestamp::from_second(second).map_or_else(|_| format!("second {second}"), |time| time.to_string())
}
