//! The pure core: what becomes of one record, and of one batch of a lane.
//!
//! Nothing below this module does I/O or reads a clock, the environment or global randomness: time, keys and random
//! bytes are arguments.

pub mod admit;
pub mod clock;
mod config;
pub mod keyring;
pub mod ledger;
pub mod outcome;
pub mod record;
pub mod seal;
pub mod verify;

pub use config::{Batch, Config};
