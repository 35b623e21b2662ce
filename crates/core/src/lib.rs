//! The pure core of the gate: what an event is, how its PHI is sealed, and what becomes of one record.
//!
//! Nothing here does I/O or reads a clock, the environment or randomness: time, keys and random bytes are arguments.

pub mod crypto;
pub mod event;
pub mod gate;
