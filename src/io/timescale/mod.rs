//! TimescaleDB: storage of the watch's results, each exactly once.
//!
//! A batch of one partition and the step of that partition's offset are one transaction ([`crate::io::postgres::offsets`]), so that no
//! duplicates have to be detected. [`analytics`] is the sink for readings and findings; [`operations`] stores KPIs and
//! the state of jobs. The two editions of TimescaleDB give the same results in different ways ([`edition`]).

pub mod analytics;
mod cohorts;
mod config;
pub mod edition;
mod findings;
mod groups;
mod jobs;
pub mod operations;
mod outbox;
mod rollouts;
mod rows;
pub mod schema;
mod settled;

pub use self::analytics::{Analytics, Batch, Claim, Snapshot};
pub use self::config::{Config, Settings};
pub use self::jobs::{JobLock, Ran};
pub use self::operations::{JobRun, Operations};
pub use self::outbox::{OutboxBatch, OutboxRow};
pub use self::rollouts::Chosen;
pub use self::settled::SettledBatch;
pub use pulsegate_detect::kpi::Kpi;
pub use pulsegate_detect::reading::{DeviceVersion, Metric, Name, Reading, Token, Version};
