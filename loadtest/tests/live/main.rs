//! Tests against a real Kafka, whose address `make up` writes.

mod gate;
mod oracle;
mod roundtrip;
mod topics;
