//! The hands: everything that talks to Kafka, PostgreSQL, the schema registry, a socket or the file system.
//!
//! ```text
//! kafka    postgres                                   adapters: clients, pools, their errors
//! vault    audit    timescale    topology             stores: what is kept where, and who may change it
//! registry http     kek    schemas    private_file    the rest
//! ```

pub mod audit;
pub mod host;
pub mod http;
pub mod kafka;
pub mod kek;
pub mod postgres;
mod private_file;
pub mod registry;
pub mod schemas;
pub mod timescale;
pub mod topology;
pub mod vault;
