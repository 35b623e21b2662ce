//! The stores, the schema registry and the commands, each by itself. One executable: each further one would link
//! librdkafka, OpenSSL and the PostgreSQL client again.

mod audit;
mod command_line;
mod detect;
mod devices;
mod registrar;
mod registry;
mod tink;
mod topology;
mod vault;
