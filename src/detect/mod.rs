//! The pure core of watch: what is noticed in clean readings.
//!
//! Nothing below this module does I/O or reads a clock, the environment or global randomness: times are arguments.

pub mod anomaly;
