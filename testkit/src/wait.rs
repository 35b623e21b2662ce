//! Waiting for conditions.

use std::time::{Duration, Instant};

/// Limit for anything a test waits for. Generous: a loaded machine must not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Interval at which a condition is checked.
pub const LOOK: Duration = Duration::from_millis(50);

/// Checks `condition` repeatedly until it holds; fails after [`PATIENCE`].
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(LOOK);
    }
}
