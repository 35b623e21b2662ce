//! Labels and figures that stores hand to the metrics.

use std::time::Duration;

/// An edition of TimescaleDB, determined by its licence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// Hypertables without background jobs: the watch computes rollups and drops old data.
    Apache,
    /// Adds columnstore, retention policies and continuous aggregates.
    Community,
}

impl Edition {
    /// Name in the table `edition`, in metrics and in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apache => "apache",
            Self::Community => "community",
        }
    }
}

/// How the pool is used, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStatistics {
    /// Connections that somebody works with.
    pub used: u32,
    /// Connections that wait for work.
    pub idle: u32,
    /// Connections that there may be.
    pub max: u32,
    /// How often a connection was asked for.
    pub acquired: u64,
    /// How often none came in time.
    pub timed_out: u64,
    /// For how long connections were waited for, all told.
    pub waited: Duration,
}
