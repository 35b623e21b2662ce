//! When a lane's next checkpoint is due.

/// Interval between checkpoints of an idle lane, in seconds: they show that the log is alive. At the interval of
/// growing lanes, idle ones would fill 75 MB a day.
pub const IDLE_INTERVAL_S: i64 = 60;

/// Size of a lane when it was last signed, and the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Number of entries.
    pub size: u64,
    /// Time in seconds since 1970.
    pub at_s: i64,
}

impl Signed {
    /// Whether a checkpoint of `size` entries would add information to this one: the lane has changed, the idle
    /// interval is over, or the clock was turned back behind it.
    #[must_use]
    pub fn is_outdated(self, size: u64, now_s: i64) -> bool {
        self.size != size || !(0..IDLE_INTERVAL_S).contains(&(now_s - self.at_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_signed_when_it_grows_and_once_a_minute_when_it_does_not() {
        let signed = Signed { size: 7, at_s: 1_000 };
        assert!(signed.is_outdated(8, 1_000));
        assert!(!signed.is_outdated(7, 1_000));
        assert!(!signed.is_outdated(7, 1_059));
        assert!(signed.is_outdated(7, 1_060));
        assert!(signed.is_outdated(7, 999), "a checkpoint of the future");
    }
}
