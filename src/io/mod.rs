//! The shell: everything that talks to Kafka, the databases, the schema registry or a socket.

pub mod audit;
mod copy;
pub mod http;
pub mod kafka;
pub mod kek;
mod private_file;
pub mod registry;
pub mod schemas;
pub mod timescale;
pub mod topology;
pub mod vault;
