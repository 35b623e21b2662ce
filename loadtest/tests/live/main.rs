//! Against a real Kafka, whose address `make up` writes and `make test` passes on as `PULSEGATE_KAFKA__BROKERS`. Without
//! it these tests say that they did nothing.

mod gate;
mod oracle;
mod roundtrip;
mod topics;
