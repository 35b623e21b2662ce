//! The gate as its users run it: the real binary on a real Kafka and a real vault, judged by the oracle, which shares
//! no code with it.
#![expect(missing_docs, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod main_path;
mod world;
