//! Detection: anomalies in a series, changes of its regime, regressions of device cohorts, and the decision whom to
//! notify.
//!
//! Nothing below this module does I/O or reads a clock, the environment or global randomness. Event times and broker
//! append times are arguments, so a rebuild from the clean log produces the same findings under the same ids.

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

pub use absorbed::absorbed;
