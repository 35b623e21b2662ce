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
pub mod config;
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

use std::time::{SystemTime, UNIX_EPOCH};

pub use config::Config;
pub use run::{Problem, Watch, metrics_table};

/// How old the oldest of `records` is that are waiting, as far as the time of the last one that was taken tells.
fn age_seconds(records: u64, appended_ms: i64) -> f64 {
    if records == 0 || appended_ms == 0 {
        return 0.0;
    }
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_millis() as i64);
    (now_ms - appended_ms).max(0) as f64 / 1_000.0
}
