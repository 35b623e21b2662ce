//! The pure core of the gate: what an event is, how its PHI is sealed, and what becomes of one record.
//!
//! Nothing here does I/O or reads a clock, the environment or randomness: time, keys and random bytes are arguments.

#![cfg_attr(
    test,
    expect(
        clippy::disallowed_methods,
        reason = "tests read example files and their own CPU time"
    )
)]

pub mod crypto;
pub mod event;
pub mod gate;
