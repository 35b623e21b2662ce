//! The watch: the clean topic into the analytics database, the ledger into the audit database, and what the ledger counts
//! into the operations database.
//!
//! ```text
//! clean  ─▶ worker (lanes: decode, judge, score) ─▶ write ─▶ pulsegate_analytics ─▶ relay ─▶ findings
//! ledger ─▶ worker ─────────────────────────────── write ─▶ pulsegate_audit
//!        └▶ worker (counts by minute and outcome) ─ write ─▶ pulsegate_operations
//! ```
//!
//! Each database has consumers, workers and offsets of its own, so that one of them can be away without the other noticing.
//! Exactly once comes from the databases: a batch and the offset after it are one transaction, and a lane is read on from
//! the offset that its database has.

pub mod clean;
pub mod feed;
pub mod jobs;
pub mod kpis;
mod lane;
pub mod ledger;
pub mod log;
pub mod relay;
pub mod worker;
mod write;

mod run;

use jiff::Timestamp;

pub use run::{Problem, Watch, metrics_table};

/// How long ago that was.
fn age_seconds(appended_ms: i64) -> f64 {
    (Timestamp::now().as_millisecond() - appended_ms).max(0) as f64 / 1_000.0
}
