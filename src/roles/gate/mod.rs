//! The gate: raw topic to clean topic, exactly once.
//!
//! ```text
//!            consumer ──▶ filling ──▶ settle ──▶ broker
//! worker ─┬─ opening (a thread a lane, before its first record)
//!         └─ shared (what all workers share), on top of services (what a worker asks of the world around it)
//! ```
//!
//! `simulation` runs the same worker, lanes and openings in a scripted world, and checks the invariants of exactly-once
//! after every step.

/// Whether a bug is planted at this place: never outside the simulation.
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(test)]
        {
            crate::roles::gate::simulation::bug::is_planted(crate::roles::gate::simulation::bug::Bug::$bug)
        }
        #[cfg(not(test))]
        {
            false
        }
    }};
}

mod connect;
mod error;
pub mod filling;
mod knowledge;
pub mod lane;
mod live;
pub mod opening;
pub mod progress;
mod services;
mod shared;
#[cfg(test)]
mod simulation;
pub mod worker;
pub mod workers;

pub use self::error::WorkerError;
pub use self::live::Live;
/// The gate of this process, on the real services.
pub type Gate = shared::Gate<Live>;
