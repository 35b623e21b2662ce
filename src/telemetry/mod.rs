//! Every metric as a documented variant; health; logs.

pub mod log;
