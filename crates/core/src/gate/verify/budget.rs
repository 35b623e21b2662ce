//! A lane's budget for signature checks that fail.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gate::clock::{Gcra, LaneClock, NEVER};

/// Limit on the failed signature checks of a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Failed signature checks that a lane computes per second in the long run, by the log's own time. Default 2000,
    /// which costs about 0.2 % of a core in HMACs, 10 % in Ed25519 signatures.
    pub failures_per_second: NonZeroU32,
    /// Failed signature checks that a lane computes at once. Default 20000.
    pub failures_burst: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            failures_per_second: nonzero(2_000),
            failures_burst: nonzero(20_000),
        }
    }
}

const fn nonzero(value: u32) -> NonZeroU32 {
    match NonZeroU32::new(value) {
        Some(value) => value,
        None => NonZeroU32::MIN,
    }
}

/// A lane's budget for signature checks that fail. While it is spent, a record that would need a signature check is
/// rejected as `rate_limited` without one: nothing is lost, and a flood costs no more than table lookups.
///
/// It is a pure function of the raw log since the start of the generation (see `LaneClock`), which resets it.
/// Small and `Copy`: a lane keeps a copy from before an open transaction and returns to it after an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    clock: LaneClock,
    generation: i64,
    limit: Gcra,
    arrival_ns: i64,
}

impl Budget {
    /// An unspent budget.
    #[must_use]
    pub const fn new(config: &Config, freshness_ms: i64) -> Self {
        Self {
            clock: LaneClock::new(freshness_ms),
            generation: i64::MIN,
            limit: Gcra::new(config.failures_per_second, 1_000_000_000, config.failures_burst),
            arrival_ns: NEVER,
        }
    }

    /// Whether a signature may be checked for this record.
    pub(super) const fn allows(&mut self, appended_ms: i64) -> bool {
        self.clock.advance(appended_ms);
        if self.clock.generation() != self.generation {
            self.generation = self.clock.generation();
            self.arrival_ns = NEVER;
        }
        self.limit.take(self.arrival_ns, self.clock.now_ms()).is_some()
    }

    /// Records that the check which `allows` permitted has failed.
    pub(super) const fn spend(&mut self) {
        if let Some(arrival_ns) = self.limit.take(self.arrival_ns, self.clock.now_ms()) {
            self.arrival_ns = arrival_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_budget_refills_with_log_time_and_resets_with_the_generation() {
        let config = Config {
            failures_per_second: nonzero(10),
            failures_burst: nonzero(2),
        };
        let mut budget = Budget::new(&config, 300_000);
        for _ in 0..2 {
            assert!(budget.allows(700_000));
            budget.spend();
        }
        assert!(!budget.allows(700_000));
        assert!(!budget.allows(699_000), "a step back refills nothing");
        assert!(budget.allows(700_100));
        budget.spend();
        assert!(!budget.allows(700_100));
        assert!(budget.allows(1_200_000));
    }
}
