//! A simulation of the watch's loop: workers as they are, over a log, a group and a database in memory, in simulated
//! time, on one thread. Everything is drawn from a seed: rebalances, lost lanes, slow, failing and unconfirmed writes,
//! late claims, gaps, errors within a chunk, missing schemas, logs that lose their end, crashes and restarts.
//!
//! Invariants are checked where they can first be seen: while records are taken ([`feed`]), while they are stored
//! ([`database`]), and once the faults have stopped ([`run`]): then everything in the log gets stored.

mod database;
mod feed;
mod group;
mod limits;
mod log;
mod run;
mod source;
mod tests;
mod world;
