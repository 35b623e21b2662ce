//! The lane's clock, and the rate limit that runs on it. Both read the broker's `LogAppendTime` and nothing else.

use std::num::NonZeroU32;

/// The time of a lane: the largest append time of its records so far, except after a large step back.
///
/// Append times step back when a partition's leader moves to a broker whose clock is behind. A small step (up to one
/// generation) is ridden out by standing still. A larger one means that the clock before it was wrong, and standing
/// still would hold the lane's limits shut until the right time catches up: the lane starts over at the new time.
///
/// Time is cut into *generations* of twice the freshness window. Two records that carry the same signature and are both
/// fresh lie at most two freshness windows apart, hence in the same generation or in neighbouring ones: it is enough to
/// keep this generation and the one before. State that drops all older ones is a pure function of the raw log since the
/// start of the generation before, which is what makes a rescan of the log after a rebalance exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneClock {
    newest_ms: i64,
    generation_ms: i64,
}

impl LaneClock {
    pub(super) const fn new(freshness_ms: i64) -> Self {
        Self {
            newest_ms: i64::MIN,
            generation_ms: generation_ms(freshness_ms),
        }
    }

    /// Advances the clock to one record's append time.
    pub(super) const fn advance(&mut self, appended_ms: i64) {
        let behind_ms = self.newest_ms.saturating_sub(appended_ms);
        if behind_ms < 0 || behind_ms > self.generation_ms {
            self.newest_ms = appended_ms;
        }
    }

    pub(super) const fn now_ms(&self) -> i64 {
        self.newest_ms
    }

    /// Number of the current generation.
    pub(super) const fn generation(&self) -> i64 {
        self.newest_ms.div_euclid(self.generation_ms)
    }
}

const fn generation_ms(freshness_ms: i64) -> i64 {
    let doubled = freshness_ms.saturating_mul(2);
    if doubled < 1 { 1 } else { doubled }
}

/// The append time from which the raw log has to be read again so that a lane decides the record appended at `time_ms`,
/// and all that follow, as if it had read the whole log: the start of the generation before.
///
/// Start at the first offset whose timestamp is at or after it, as the broker's offset lookup by time gives it.
#[must_use]
pub const fn rebuild_start_ms(freshness_ms: i64, time_ms: i64) -> i64 {
    let generation_ms = generation_ms(freshness_ms);
    time_ms
        .div_euclid(generation_ms)
        .saturating_sub(1)
        .saturating_mul(generation_ms)
}

/// A generic cell rate limit (ITU-T I.371, appendix A: virtual scheduling), with the time as an argument.
///
/// Its state is one number, the theoretical arrival time of the next event, kept by the caller.
/// governor has the same algorithm behind a clock and a map of its own. Measured (`benches/admit.rs`, 2 busy cores,
/// medians), at 10,000 and 200,000 devices: governor's keyed limit alone 30 and 189 ns a record, 21 and 77 ns with a
/// clock that is set by hand; replay window *and* limit here 31 and 73 ns, in transactions that can be taken back 40
/// and 91 ns. The state is part of the device's entry, which the replay check has just read, so the limit is next to
/// free; and it can be undone and rebuilt, which governor's can't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gcra {
    interval_ns: i64,
    burst_ns: i64,
}

/// Theoretical arrival time before the first event.
pub(super) const NEVER: i64 = i64::MIN;

impl Gcra {
    /// A limit of `events` per `period_ns` nanoseconds in the long run and `burst` at once.
    pub(super) const fn new(events: NonZeroU32, period_ns: i64, burst: NonZeroU32) -> Self {
        let interval_ns = period_ns / events.get() as i64;
        let interval_ns = if interval_ns < 1 { 1 } else { interval_ns };
        Self {
            interval_ns,
            burst_ns: interval_ns.saturating_mul(burst.get() as i64),
        }
    }

    /// The next arrival time if one more event at `now_ms` is within the limit; `None` if it is not.
    pub(super) const fn take(&self, arrival_ns: i64, now_ms: i64) -> Option<i64> {
        let next_ns = self.after(arrival_ns, now_ms);
        if next_ns.saturating_sub(now_ms.saturating_mul(1_000_000)) <= self.burst_ns {
            Some(next_ns)
        } else {
            None
        }
    }

    const fn after(&self, arrival_ns: i64, now_ms: i64) -> i64 {
        let now_ns = now_ms.saturating_mul(1_000_000);
        let from_ns = if arrival_ns > now_ns { arrival_ns } else { now_ns };
        from_ns.saturating_add(self.interval_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(value: u32) -> NonZeroU32 {
        NonZeroU32::new(value).expect("the tests count from one")
    }

    #[test]
    fn the_clock_stands_still_for_a_small_step_back_and_starts_over_after_a_large_one() {
        let mut clock = LaneClock::new(300_000);
        clock.advance(1_000_000_000);
        clock.advance(1_000_000_000 - 600_000);
        assert_eq!(clock.now_ms(), 1_000_000_000);
        clock.advance(1_000_000_000 - 600_001);
        assert_eq!(clock.now_ms(), 1_000_000_000 - 600_001);
    }

    #[test]
    fn a_rescan_starts_at_the_previous_generation() {
        assert_eq!(rebuild_start_ms(300_000, 1_200_000), 600_000);
        assert_eq!(rebuild_start_ms(300_000, 1_799_999), 600_000);
        assert_eq!(rebuild_start_ms(300_000, 1_800_000), 1_200_000);
    }

    #[test]
    fn the_burst_passes_at_once_and_then_one_event_an_interval() {
        let limit = Gcra::new(count(10), 1_000_000_000, count(3));
        let mut arrival = NEVER;
        let mut passes = |now_ms| match limit.take(arrival, now_ms) {
            Some(next) => {
                arrival = next;
                true
            }
            None => false,
        };
        assert!(passes(5_000) && passes(5_000) && passes(5_000));
        assert!(!passes(5_000) && !passes(5_099));
        assert!(passes(5_100));
        assert!(!passes(5_199));
        assert!(passes(5_400) && passes(5_400) && passes(5_400) && !passes(5_400));
    }

    #[test]
    fn extreme_times_and_limits_do_not_overflow() {
        for now_ms in [i64::MIN, -1, 0, i64::MAX] {
            for limit in [
                Gcra::new(count(1), i64::MAX, count(u32::MAX)),
                Gcra::new(count(u32::MAX), 1, count(1)),
            ] {
                let _ = limit.take(i64::MAX, now_ms);
                assert!(limit.take(NEVER, now_ms).is_some());
            }
            let mut clock = LaneClock::new(i64::MAX);
            clock.advance(now_ms);
            clock.advance(0);
            let _ = (clock.generation(), rebuild_start_ms(i64::MAX, now_ms));
        }
    }
}
