//! The gate as its users run it: the real binary on a real Kafka and a real vault, judged by the oracle, which shares
//! no code with it.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod consumer;
mod faults;
mod lanes;
mod leaks;
mod main_path;
mod open;
mod schemas;
mod series;
mod world;
