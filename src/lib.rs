//! Pulsegate: an exactly-once gate for signed biometric events.

pub mod cli;
pub mod config;
pub mod crypto;
pub mod detect;
pub mod event;
pub mod gate;
pub mod io;
pub mod telemetry;
