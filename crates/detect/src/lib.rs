//! Detection: what is odd in a series, when its regime changed, which cohort of devices got worse, and whom to tell.
//!
//! Nothing below this module does I/O or reads a clock, the environment or global randomness: times are arguments, those
//! of events and of the broker's append, so a rebuild from the clean log finds the same things under the same ids.

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
