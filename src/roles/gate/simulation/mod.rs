//! The gate in a scripted world: real workers, lanes, openings and pipeline over a log, a group and services in memory.
//!
//! ```text
//! run (script) ─▶ worker ─┬─ consumer ─▶ group, log          world: clock and faults
//!      │                  └─ services ─▶ log (transactions) ─▶ model (what must hold)
//!      └─ crashes, rebalances, retention, outages
//! ```
//!
//! A seed decides everything. `PULSEGATE_SEED=17 cargo test --lib simulation` plays one seed, `PULSEGATE_SEEDS=200000`
//! so many.

pub mod bug;
mod consumer;
mod fixture;
mod group;
mod log;
mod model;
mod run;
mod services;
#[cfg(test)]
mod tests;
mod world;
