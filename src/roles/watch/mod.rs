//! The watch: stores the clean topic in the analytics database, the ledger in the audit database, and the ledger's
//! counts in the operations database.
//!
//! ```text
//! clean  ─▶ worker (lanes: decode, judge, score) ─▶ write ─▶ pulsegate_analytics ─▶ relay ─▶ findings
//! ledger ─▶ worker ─────────────────────────────── write ─▶ pulsegate_audit
//!        └▶ worker (counts by minute and outcome) ─ write ─▶ pulsegate_operations
//! ```
//!
//! Each database has consumers, workers and offsets of its own, so that an outage of one does not affect the others.
//! Exactly-once comes from the databases: a batch and the offset after it are one transaction, and a lane resumes from
//! the offset that its database has.

#[macro_use]
mod planted;

pub mod clean;
pub mod feed;
pub mod jobs;
pub mod kpis;
mod lane;
pub mod ledger;
pub mod log;
mod news;
pub mod relay;
#[cfg(test)]
mod simulation;
pub mod tasks;
pub mod worker;
mod write;

mod run;

use jiff::Timestamp;

pub use run::{Problem, Watch, metrics_table};

/// Age in seconds of a record that was appended at `appended_ms`; at least 0.
fn age_seconds(appended_ms: i64) -> f64 {
    (Timestamp::now().as_millisecond() - appended_ms).max(0) as f64 / 1_000.0
}
