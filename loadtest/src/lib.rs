//! Load testing.
