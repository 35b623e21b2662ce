//! When rollouts and shifts are judged, and over which minutes and days. Times are arguments: a role only ticks.

use std::ops::Range;
use std::time::Duration;

use super::comparison::DAYS_AFTER;
use crate::time::DAY_MS;

/// How often rollouts are judged.
pub const ROLLOUT_INTERVAL: Duration = Duration::from_secs(3_600);
/// How often KPIs and cohorts are checked for shifts. The first check is one interval after the start, so that the
/// process has had time to catch up with records that arrived while no watch was running.
pub const SHIFT_INTERVAL: Duration = Duration::from_secs(600);
/// Pause before a process that lags behind checks its lag again.
pub const CATCH_UP_INTERVAL: Duration = Duration::from_secs(60);

/// Age in days up to which rollouts are judged.
pub const ROLLOUT_DAYS: i64 = 7;
/// Retention of a rollout's measurements, in days: one day more than it is judged, since the clock of the judging
/// process and that of the database, which retention uses, can differ.
pub const ROLLOUT_KEPT_DAYS: i64 = ROLLOUT_DAYS + 1;
/// Number of days after which a rollout is judged: those compared have to be over, and one more for late uploads, since
/// an hour is measured only once.
const ROLLOUT_OVER_DAYS: i64 = DAYS_AFTER + 1;
/// Maximum lag, in seconds, at which a process measures hours that ended a day ago.
pub const ROLLOUT_LAG_SECONDS_MAX: f64 = 3_600.0;

/// Number of past minutes for which the KPIs of readings are recomputed, for late readings.
const KPI_MINUTES: i64 = 60;
/// Maximum lag, in seconds, in either log that KPIs are counted from, at which minutes that ended `KPI_MINUTES` ago
/// are judged: half of that, since the lag is known only from time to time.
pub const SHIFT_LAG_SECONDS_MAX: f64 = KPI_MINUTES as f64 * 60.0 / 2.0;
/// Number of days read for a check: those that are judged, and the day before them.
const SHIFT_DAYS: i64 = 3;
const DAY_MINUTES: i64 = 1_440;

/// The days, in milliseconds since 1970, on which a rollout began if it is judged at `now_ms`.
#[must_use]
pub const fn rollouts_judged(now_ms: i64) -> Range<i64> {
    let today_ms = now_ms.div_euclid(DAY_MS) * DAY_MS;
    today_ms - ROLLOUT_DAYS * DAY_MS..today_ms - ROLLOUT_OVER_DAYS * DAY_MS
}

/// The minutes since 1970 that are read to look for shifts in the minute `now`: whole days, up to the newest minute
/// that is no longer recomputed.
#[must_use]
pub const fn shifts_judged(now: i64) -> Range<i64> {
    let until = now - KPI_MINUTES;
    let from = ((until - 1).div_euclid(DAY_MINUTES) + 1 - SHIFT_DAYS) * DAY_MINUTES;
    from..until
}

/// The minutes since 1970 for which the KPIs of readings are computed in the minute `now`, if `newest` is the newest
/// one that has them: from an hour before it, and no further back than shifts look.
#[must_use]
pub fn kpis_computed(newest: Option<i64>, now: i64) -> Range<i64> {
    let newest = newest.unwrap_or(0).min(now);
    (newest - KPI_MINUTES).max(now - SHIFT_DAYS * DAY_MINUTES)..now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_judged_once_its_days_and_one_for_late_uploads_are_over() {
        let noon = 100 * DAY_MS + DAY_MS / 2;
        let judged = rollouts_judged(noon);
        assert_eq!(judged, 93 * DAY_MS..97 * DAY_MS);
        // Days 97 and 98 of the rollout of day 96 are compared; day 99 is for what is late.
        assert!(judged.contains(&(96 * DAY_MS)));
        assert!(!judged.contains(&(97 * DAY_MS)));
        assert_eq!(rollouts_judged(100 * DAY_MS), judged, "all day");
        assert_eq!(rollouts_judged(101 * DAY_MS - 1), judged, "all day");
    }

    #[test]
    fn a_rollout_is_kept_for_as_long_as_it_is_judged_by_a_clock_that_is_a_day_behind() {
        let now_ms = 100 * DAY_MS;
        let oldest = rollouts_judged(now_ms - DAY_MS).start;
        assert!(now_ms - ROLLOUT_KEPT_DAYS * DAY_MS <= oldest);
    }

    #[test]
    fn shifts_are_judged_over_whole_days_of_minutes_that_are_settled() {
        let now = 10 * DAY_MINUTES + 90;
        assert_eq!(shifts_judged(now), 8 * DAY_MINUTES..10 * DAY_MINUTES + 30);
        // Just after midnight the last settled minute is of the day before.
        let now = 10 * DAY_MINUTES + 60;
        assert_eq!(shifts_judged(now), 7 * DAY_MINUTES..10 * DAY_MINUTES);
    }

    #[test]
    fn kpis_are_recomputed_for_an_hour_and_never_further_back_than_shifts_look() {
        let now = 10 * DAY_MINUTES;
        assert_eq!(kpis_computed(Some(now - 1), now), now - 61..now);
        assert_eq!(kpis_computed(None, now), 7 * DAY_MINUTES..now);
        assert_eq!(
            kpis_computed(Some(now + 500), now),
            now - 60..now,
            "a clock was ahead"
        );
    }

    #[test]
    fn no_minute_is_judged_that_is_still_recomputed() {
        let now = 10 * DAY_MINUTES;
        assert!(shifts_judged(now).end <= kpis_computed(Some(now), now).start);
    }
}
