//! Wire formats and key handling: envelope, tokens and the key hierarchy.
//!
//! KEK → tenant branch key → one data key a subject. Everything here is a pure function: random bytes, key files and
//! vault rows are read by the shell and arrive as arguments.

pub mod envelope;
pub mod kek;
pub mod keys;
pub mod token;
