//! The state that a lane keeps of a device.

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use crate::alert::Budget;
use crate::quality::Episode;
use crate::reading::Version;
use crate::time::MINUTE_MS;

/// How long after a movement it still explains readings, in ms.
const RECOVERY_MS: i64 = 5 * 60_000;

/// The state of one device.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(super) struct Device {
    /// Hash of its firmware and model; 0 before its first event.
    pub version: u64,
    /// Time of the newest event with this version, in ms since 1970.
    pub version_ms: i64,
    /// The newest minute in which it moved, counted since 1970.
    pub moved_minute: i64,
    /// One bit for each of the 64 minutes up to `moved_minute`, set if it moved; bit 0 is `moved_minute` itself.
    pub moved: u64,
    /// Faults of its clock and its connection.
    pub episode: Episode,
    /// Notices about it today.
    pub budget: Budget,
}

impl Device {
    /// Records the version that the device runs and returns whether it changed. A delayed event carries the version of
    /// its own time, which is not a change.
    pub fn runs(&mut self, version: &Version, time_ms: i64) -> bool {
        if self.version != 0 && time_ms < self.version_ms {
            return false;
        }
        // Never 0. Two versions of one device do not collide by accident, and an attacker gains nothing by a collision.
        let mut hasher = SipHasher13::new();
        (version.firmware.as_str(), version.model.as_str()).hash(&mut hasher);
        let name = hasher.finish() | 1;
        self.version_ms = time_ms;
        std::mem::replace(&mut self.version, name) != name
    }

    /// Records that the device moved in the minute of `time_ms`.
    pub fn moved(&mut self, time_ms: i64) {
        let minute = time_ms.div_euclid(MINUTE_MS);
        if self.moved == 0 || minute > self.moved_minute {
            let by = u32::try_from(minute.saturating_sub(self.moved_minute)).unwrap_or(u32::MAX);
            self.moved = if self.moved == 0 {
                0
            } else {
                self.moved.checked_shl(by).unwrap_or(0)
            };
            self.moved_minute = minute;
        }
        let back = u32::try_from(self.moved_minute - minute).unwrap_or(u32::MAX);
        self.moved |= 1_u64.checked_shl(back).unwrap_or(0);
    }

    /// Whether it moved between [`RECOVERY_MS`] before `start_ms` and `length_ms` after it; only the last 64 minutes up
    /// to its newest movement are known.
    pub fn is_moving(&self, start_ms: i64, length_ms: i64) -> bool {
        let first = start_ms.saturating_sub(RECOVERY_MS).div_euclid(MINUTE_MS);
        let last = start_ms.saturating_add(length_ms - 1).div_euclid(MINUTE_MS);
        (first..=last).any(|minute| {
            u32::try_from(self.moved_minute.saturating_sub(minute))
                .ok()
                .and_then(|back| self.moved.checked_shr(back))
                .is_some_and(|moved| moved & 1 == 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Name;

    const NOON: i64 = 1_795_341_600_000;

    fn version(firmware: &str) -> Version {
        Version {
            firmware: Name::new(firmware),
            model: Name::new("band"),
        }
    }

    #[test]
    fn a_device_is_reported_when_it_is_new_and_when_its_version_changes() {
        let mut device = Device::default();
        assert!(device.runs(&version("1"), NOON));
        assert!(!device.runs(&version("1"), NOON + 1));
        assert!(device.runs(&version("2"), NOON + 2));
        assert!(!device.runs(&version("1"), NOON), "a delayed upload");
        assert!(!device.runs(&version("2"), NOON + 3));
    }

    #[test]
    fn movement_explains_its_minute_and_the_five_after_it() {
        let mut device = Device::default();
        assert!(!device.is_moving(NOON, 60_000));
        device.moved(NOON);
        let moving = |device: &Device, minute: i64| device.is_moving(NOON + minute * 60_000, 60_000);
        assert!((0..=5).all(|minute| moving(&device, minute)));
        assert!(!moving(&device, -1) && !moving(&device, 6));
        device.moved(NOON + 10 * 60_000);
        device.moved(NOON - 20 * 60_000);
        assert!(moving(&device, 0) && moving(&device, 10) && moving(&device, -15));
        assert!(!moving(&device, 6) && !moving(&device, -14));
        device.moved(NOON + 10_000 * 60_000);
        assert!(!moving(&device, 10) && moving(&device, 10_003));
    }
}
