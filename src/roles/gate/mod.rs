//! The gate: raw topic to clean topic, exactly once.
//!
//! ```text
//!            consumer ──▶ filling ──▶ settle ──▶ broker
//! worker ─┬─ opening (a thread a lane, before its first record)
//!         └─ gate (what all workers share)
//! ```

pub mod filling;
mod gate;
pub mod opening;
pub mod progress;
pub mod slot;
pub mod worker;
pub mod workers;

pub use self::gate::{Gate, Knowledge};
