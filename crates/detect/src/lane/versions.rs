//! Names that many readings share: made once, and pointed at.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::reading::{Metric, Name, Version};

/// The most names of a kind that are kept. Devices choose them, so the set is forgotten when it is full: it only saves
/// memory.
const NAMES_MAX: usize = 4_096;

/// What readings share.
#[derive(Default)]
pub(super) struct Interned {
    versions: HashSet<Arc<Version>, FixedState>,
    metrics: HashSet<Arc<Metric>, FixedState>,
}

impl Interned {
    /// What a device runs.
    pub fn version(&mut self, firmware: &str, model: &str) -> Arc<Version> {
        let version = Version {
            firmware: Name::new(firmware),
            model: Name::new(model),
        };
        shared(&mut self.versions, version)
    }

    /// A metric that nobody described.
    pub fn metric(&mut self, name: &str, unit: &str) -> Arc<Metric> {
        let metric = Metric {
            name: Name::new(name),
            unit: Name::new(unit),
        };
        shared(&mut self.metrics, metric)
    }
}

fn shared<T: Eq + std::hash::Hash>(known: &mut HashSet<Arc<T>, FixedState>, one: T) -> Arc<T> {
    if let Some(shared) = known.get(&one) {
        return Arc::clone(shared);
    }
    if known.len() >= NAMES_MAX {
        known.clear();
    }
    let shared = Arc::new(one);
    known.insert(Arc::clone(&shared));
    shared
}
