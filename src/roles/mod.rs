//! The flows: what each long-running role, and verification, does with the stores and the pure core.

pub mod assignments;
pub mod clients;
mod failure;
pub mod gate;
mod topics;
pub mod verify;
pub mod watch;

pub use failure::Failure;
