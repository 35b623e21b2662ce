//! Metrics, each a documented variant; health; logs.

pub mod health;
pub mod log;
pub mod metrics;

pub use health::Health;
pub use metrics::Metrics;
