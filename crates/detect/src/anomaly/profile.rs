//! The usual deviation from the slow level at each hour of the day.

use crate::time::DAY_MS;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const HOURS: usize = 24;
/// Maximum number of days over which an hour's level is averaged.
const DAYS: f32 = 3.0;
/// Weight of the profile per fraction of the deviations that it explains.
const GAIN: f32 = 2.0;
/// Number of values before the profile is used.
const VALUES_MIN: u32 = 50;

/// An hour-of-day profile, in UTC, with a measure of whether the series has a daily rhythm at all.
#[derive(Clone, Copy, Debug, PartialEq, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Profile {
    hours: [f32; HOURS],
    /// Mean absolute deviation from the slow level without and with the profile, each measured before the value is
    /// learnt.
    plain_error: f32,
    profile_error: f32,
}

/// A place between the middles of two hours.
#[derive(Clone, Copy)]
pub(super) struct Place {
    before: usize,
    after: usize,
    part: f32,
}

impl Place {
    pub(super) fn of(time_ms: i64) -> Self {
        // Close enough: an f32 holds a day's milliseconds to within 4 ms.
        let hour = time_ms.rem_euclid(DAY_MS) as f32 / 3_600_000.0 + 23.5;
        let before = hour as usize;
        Self {
            before: before % HOURS,
            after: (before + 1) % HOURS,
            part: hour - before as f32,
        }
    }
}

impl Profile {
    pub(super) const EMPTY: Self = Self {
        hours: [0.0; HOURS],
        plain_error: 0.0,
        profile_error: 0.0,
    };

    /// The profile's deviation from the slow level.
    pub(super) fn at(&self, place: Place) -> f32 {
        let hour = |index: usize| self.hours.get(index).copied().unwrap_or_default();
        hour(place.before) * (1.0 - place.part) + hour(place.after) * place.part
    }

    /// Weight of the profile: from 0, no daily rhythm, to 1.
    pub(super) fn worth(&self, count: u32) -> f32 {
        if count < VALUES_MIN {
            return 0.0;
        }
        let explained = (self.plain_error - self.profile_error) / self.plain_error.max(f32::MIN_POSITIVE);
        (GAIN * explained).clamp(0.0, 1.0)
    }

    /// The mean absolute deviation from the slow level.
    pub(super) fn plain_error(&self) -> f32 {
        self.plain_error
    }

    /// Learns a deviation. `rate` is the weight of one value in the errors, `days` the age of the series and `clip` the
    /// limit of the learnt difference.
    pub(super) fn learn(
        &mut self,
        place: Place,
        deviation: f32,
        rate: f32,
        days: f32,
        per_day: f32,
        clip: f32,
    ) {
        let missed = deviation - self.at(place);
        self.plain_error += rate * (deviation.abs() - self.plain_error);
        self.profile_error += rate * (missed.abs() - self.profile_error);
        let per_hour = (per_day / 24.0).max(0.05);
        let weight = (1.0 / (per_hour * (days + 0.5).min(DAYS))).min(1.0);
        let step = weight * missed.min(clip).max(-clip);
        for (index, part) in [(place.before, 1.0 - place.part), (place.after, place.part)] {
            if let Some(hour) = self.hours.get_mut(index) {
                *hour += part * step;
            }
        }
    }

    /// Whether observations can lead to these numbers; a snapshot is untrusted input.
    pub(super) fn is_sound(&self) -> bool {
        let mut all = self.hours.iter().chain([&self.plain_error, &self.profile_error]);
        all.all(|number| number.is_finite() && number.abs() < 1e36)
            && self.plain_error >= 0.0
            && self.profile_error >= 0.0
    }
}
