//! The deadletter records of a lane, by the raw offset that they are of. Pure.

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
    /// Where it stands in the deadletter topic.
    at: i64,
    /// How many there are that no raw record has taken.
    left: u32,
}

impl Dead {
    /// Takes the next record of the topic, which stands there `at`.
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

    /// Nobody can say how often this one may be there.
    pub(super) fn forget(&mut self, origin: i64) {
        self.by_origin.remove(&origin);
    }

    /// The first one of `read` that no raw record has taken, and where it stands.
    pub(super) fn left_in(&self, read: &Range<i64>) -> Option<(i64, i64)> {
        let left = self
            .by_origin
            .iter()
            .filter(|(origin, rejected)| read.contains(origin) && rejected.left > 0);
        left.map(|(origin, rejected)| (*origin, rejected.at)).min()
    }
}
