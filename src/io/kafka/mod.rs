//! Kafka: the consumer, the transactional producer, and the few calls of librdkafka that the safe wrapper lacks.

pub mod committed;
pub mod config;
pub mod consumer;
pub mod raw;
pub mod settle;
pub mod source;

pub use config::{Config, Topics};
