//! Which devices and which days are compared for a rollout. A store chooses and measures by these definitions, at its
//! own scale (`choose_devices` in the watch does so in SQL); [`side`] states them for one device.

use std::ops::Range;

use crate::reading::Rollout;
use crate::time::DAY_MS;

/// Number of days compared before the day of the rollout, and after it. The day itself is not compared: devices change
/// in the course of it.
const DAYS_BEFORE: i64 = 1;
pub(super) const DAYS_AFTER: i64 = 2;

/// Minimum number of treated devices, and of controls.
pub const DEVICES_MIN: u32 = 20;
/// Maximum number of devices compared on either side if both have as many; if fewer have changed, there are more
/// controls. Each device is 288 rows with four metrics, and readings to sort. Four standard errors between 2,000
/// devices and 2,000 are 4 √(2 / 2,000) = 0.13 standard deviations of a device's change from before to after (between
/// 1,000 and 3,000: 0.15). A difference of that size is found in every other rollout, one of 0.15 in four of five. For
/// a heart rate whose medians vary by 3 beats a minute from day to day these are 0.46 and 0.56 beats a minute. Finding
/// 0.1 standard deviations in every other rollout would take 3,200 devices a side, in four of five 4,700.
pub const DEVICES_MAX: u32 = 2_000;
/// Minimum number of good readings behind a day's median.
pub const DAY_READINGS_MIN: i64 = 20;

/// The times of a rollout's comparison, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When the first compared day begins.
    pub first_ms: i64,
    /// When the day of the rollout begins.
    pub day_ms: i64,
    /// When the day of the rollout ends.
    pub changed_ms: i64,
    /// When the last compared day ends.
    pub end_ms: i64,
}

impl Times {
    /// Those of a rollout on the day that begins at `day_ms`.
    #[must_use]
    pub const fn of(day_ms: i64) -> Self {
        Self {
            first_ms: day_ms.saturating_sub(DAYS_BEFORE * DAY_MS),
            day_ms,
            changed_ms: day_ms.saturating_add(DAY_MS),
            end_ms: day_ms.saturating_add((1 + DAYS_AFTER) * DAY_MS),
        }
    }

    const fn kept(self) -> Range<i64> {
        self.first_ms..self.end_ms
    }
}

/// Hours to compare, counted from the beginning of the rollout's day.
pub fn hours() -> impl Iterator<Item = i16> {
    let hours = |days: Range<i64>| (days.start * 24) as i16..(days.end * 24) as i16;
    hours(-DAYS_BEFORE..0).chain(hours(1..1 + DAYS_AFTER))
}

/// Whether there are enough devices to compare. With a firmware that all devices have there are no controls.
#[must_use]
pub const fn is_comparable(treated: u32, controls: u32) -> bool {
    treated >= DEVICES_MIN && controls >= DEVICES_MIN
}

/// The firmware and model that a device reported from some time on.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// The firmware.
    pub firmware: &'a str,
    /// The model.
    pub model: &'a str,
}

/// The side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It received the firmware on the day of the rollout.
    Treated,
    /// It is compared with those that did.
    Control,
}

/// The side on which a device is compared, given its versions in order of time; `None` if it is not.
///
/// Treated devices and controls are compared over the same days, so that external influences on both cancel out. A
/// treated device ran other firmware when the day began. A control is of the same model, existed before, did not change
/// meanwhile and ran other firmware.
#[must_use]
pub fn side(versions: &[Version<'_>], rollout: &Rollout) -> Option<Side> {
    let times = Times::of(rollout.day_ms);
    let is_of_model = |version: &&Version<'_>| version.model == rollout.model;
    let newest_before = |time_ms: i64| versions.iter().rev().find(|version| version.since_ms < time_ms);
    let has_other = |version: &Version<'_>| version.firmware != rollout.firmware;

    let had_other = newest_before(times.day_ms)
        .filter(is_of_model)
        .is_some_and(has_other);
    let receives = versions.iter().filter(is_of_model).any(|version| {
        let on_the_day = (times.day_ms..times.changed_ms).contains(&version.since_ms);
        on_the_day && version.firmware == rollout.firmware
    });
    if had_other && receives {
        return Some(Side::Treated);
    }
    let changes = versions
        .iter()
        .any(|version| times.kept().contains(&version.since_ms));
    let mut before = versions.iter().rev().filter(is_of_model);
    let kept_other = before
        .find(|version| version.since_ms < times.first_ms)
        .is_some_and(has_other);
    (kept_other && !changes).then_some(Side::Control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::HOUR_MS;

    const DAY: i64 = 100 * DAY_MS;

    fn side_of(versions: &[(i64, &str, &str)]) -> Option<Side> {
        let rollout = Rollout {
            firmware: "2".to_owned(),
            model: "m".to_owned(),
            day_ms: DAY,
            devices: 20,
        };
        let versions: Vec<_> = versions
            .iter()
            .map(|&(since_ms, firmware, model)| Version {
                since_ms,
                firmware,
                model,
            })
            .collect();
        side(&versions, &rollout)
    }

    #[test]
    fn three_days_are_compared_excluding_the_rollouts_own() {
        let days: Vec<i16> = hours().map(|hour| hour.div_euclid(24)).collect();
        assert_eq!(days.len(), 72);
        for day in [-1, 1, 2] {
            assert_eq!(days.iter().filter(|of| **of == day).count(), 24, "{day}");
        }
        let times = Times::of(DAY);
        assert_eq!(
            times.first_ms,
            DAY + i64::from(hours().min().unwrap_or(0)) * HOUR_MS
        );
        assert_eq!(
            times.end_ms,
            DAY + (i64::from(hours().max().unwrap_or(0)) + 1) * HOUR_MS
        );
    }

    #[test]
    fn a_device_that_changes_on_the_day_is_treated() {
        assert_eq!(side_of(&[(0, "1", "m"), (DAY, "2", "m")]), Some(Side::Treated));
        assert_eq!(
            side_of(&[(DAY - 1, "1", "m"), (DAY + DAY_MS - 1, "2", "m")]),
            Some(Side::Treated)
        );
        assert_eq!(
            side_of(&[(0, "1", "m"), (DAY + DAY_MS, "2", "m")]),
            None,
            "a day later"
        );
        assert_eq!(side_of(&[(DAY, "2", "m")]), None, "never seen before");
        assert_eq!(
            side_of(&[(0, "2", "m"), (DAY, "2", "m")]),
            None,
            "it had the firmware"
        );
        assert_eq!(
            side_of(&[(0, "1", "n"), (DAY, "2", "m")]),
            None,
            "another model before"
        );
    }

    #[test]
    fn a_device_that_keeps_other_firmware_over_all_days_is_a_control() {
        assert_eq!(side_of(&[(0, "1", "m")]), Some(Side::Control));
        assert_eq!(side_of(&[(0, "2", "m"), (9, "1", "m")]), Some(Side::Control));
        assert_eq!(side_of(&[(0, "2", "m")]), None, "it has the firmware");
        assert_eq!(side_of(&[(0, "1", "n")]), None, "another model");
        assert_eq!(side_of(&[(DAY - 1, "1", "m")]), None, "new");
        let changed = |at_ms| side_of(&[(0, "1", "m"), (at_ms, "3", "m")]);
        assert_eq!(changed(DAY - DAY_MS - 1), Some(Side::Control));
        assert_eq!(changed(DAY - DAY_MS), None);
        assert_eq!(changed(DAY + 3 * DAY_MS - 1), None);
        assert_eq!(changed(DAY + 3 * DAY_MS), Some(Side::Control));
    }

    #[test]
    fn both_sides_need_enough_devices() {
        assert!(is_comparable(20, 20));
        assert!(!is_comparable(19, 20_000));
        assert!(!is_comparable(20_000, 0));
    }
}
