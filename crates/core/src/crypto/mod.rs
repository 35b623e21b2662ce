//! Wire formats and key handling: envelope, tokens and the key hierarchy.
//!
//! KEK → tenant branch key → one data key per subject. Everything here is a pure function: the shell reads random
//! bytes, key files and vault rows and passes them as arguments.

pub mod context;
pub mod envelope;
pub mod kek;
pub mod key;
pub mod keys;
pub mod token;
