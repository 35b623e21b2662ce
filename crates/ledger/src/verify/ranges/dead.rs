//! Deadletter records of a lane, by the offset of their raw record. Pure.

use std::collections::HashMap;
use std::ops::Range;

use crate::outcome::Outcome;

/// The deadletter records of a lane.
#[derive(Default)]
pub struct Dead {
    by_origin: HashMap<i64, Rejected>,
}

struct Rejected {
    outcome: Outcome,
    /// Offset in the deadletter topic.
    at: i64,
    /// Number of these records not taken by a raw record.
    left: u32,
}

impl Dead {
    /// Adds the next record of the topic, at offset `at`.
    pub fn add(&mut self, origin: i64, outcome: Outcome, at: i64) {
        let rejected = Rejected { outcome, at, left: 0 };
        self.by_origin.entry(origin).or_insert(rejected).left += 1;
    }

    /// How many raw offsets they are of.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_origin.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_origin.is_empty()
    }

    pub(super) fn has(&self, origin: i64) -> bool {
        self.by_origin.contains_key(&origin)
    }

    pub(super) fn take(&mut self, origin: i64) -> Option<Outcome> {
        let rejected = self.by_origin.get_mut(&origin)?;
        rejected.left = rejected.left.saturating_sub(1);
        Some(rejected.outcome)
    }

    /// Drops a record of which it is unknown how often it may occur.
    pub(super) fn forget(&mut self, origin: i64) {
        self.by_origin.remove(&origin);
    }

    /// Returns the first record of the `read` raw offsets that no raw record has taken, and its offset.
    pub(super) fn left_in(&self, read: &Range<i64>) -> Option<(i64, i64)> {
        let left = self
            .by_origin
            .iter()
            .filter(|(origin, rejected)| read.contains(origin) && rejected.left > 0);
        left.map(|(origin, rejected)| (*origin, rejected.at)).min()
    }
}
