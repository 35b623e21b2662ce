//! Interned names: many readings share one allocation.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::reading::{Metric, Name, Version};

/// Maximum number of interned names of a kind. Devices choose the names, so a full set is cleared; it only saves
/// memory.
const NAMES_MAX: usize = 4_096;

/// The versions and metrics that readings share.
#[derive(Default)]
pub(super) struct Interned {
    versions: HashSet<Arc<Version>, FixedState>,
    metrics: HashSet<Arc<Metric>, FixedState>,
}

impl Interned {
    /// The firmware and model of a device, as one shared value.
    pub fn version(&mut self, firmware: &str, model: &str) -> Arc<Version> {
        let version = Version {
            firmware: Name::new(firmware),
            model: Name::new(model),
        };
        shared(&mut self.versions, version)
    }

    /// A metric that is not in the metrics table.
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
