#![doc = include_str!("../README.md")]

mod absorbed;
pub mod alert;
pub mod anomaly;
pub mod changes;
pub mod clean;
pub mod file;
pub mod finding;
pub mod kpi;
pub mod lane;
pub mod quality;
pub mod reading;
pub mod regression;
pub mod series;
pub mod time;

pub use absorbed::absorbed;
