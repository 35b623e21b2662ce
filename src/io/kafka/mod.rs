//! Kafka: the worker loop, its consumer and its transactions.
//!
//! ```text
//!            consumer ──▶ filling ──▶ settle ──▶ broker
//! worker ─┬─ opening (one thread per lane, before its first record)
//!         └─ gate (state shared by all workers)
//! ```
//!
//! [`watch`] consumes the topics that the gate produces.

pub mod committed;
pub mod config;
pub mod consumer;
pub mod raw;
pub mod settle;

pub use config::{Config, Topics};
