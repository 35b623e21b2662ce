//! Pulsegate: an exactly-once gate for signed biometric events.
//!
//! The rooms, each of which may use those below it and none above:
//!
//! ```text
//! cli        commands: parse, call, print, exit code
//! actions    what an operator may do, in the audit log first
//! roles      the flows: gate, watch, verify
//! config     composition, layers, cross-checks; what each role is told
//! io         the hands: kafka, postgres | vault, audit, timescale, topology | registry, http, kek
//! telemetry  metrics, health, logs
//! pulsegate_core, pulsegate_detect, pulsegate_ledger, pulsegate_settings: pure
//! ```

pub mod actions;
pub mod cli;
pub mod config;
pub mod io;
pub mod roles;
pub mod telemetry;
