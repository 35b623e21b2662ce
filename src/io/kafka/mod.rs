//! The worker loop, its consumer and its transactions.

pub mod config;

pub use config::{Config, Topics};
