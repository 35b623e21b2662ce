//! What the watch stores, against a real TimescaleDB: each thing exactly once, whatever becomes of the connection, the
//! server or the writer; and the same in both editions.

#[path = "../support/mod.rs"]
mod support;

mod cohorts;
mod editions;
mod faults;
mod fixture;
mod groups;
mod jobs;
mod kpis;
mod rollouts;
mod sink;
