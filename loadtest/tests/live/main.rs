//! Tests against a real Kafka, whose address `make up` writes and `make test` passes on as `PULSEGATE_KAFKA__BROKERS`.
//! Without the variable they print that they were skipped.

mod gate;
mod oracle;
mod roundtrip;
mod topics;
