//! Schema ids, answered by a Confluent-compatible registry.
