//! Wire formats and key handling: envelope, tokens, Merkle roots and key encryption keys.

pub mod envelope;
pub mod kek;
pub mod merkle;
pub mod token;
