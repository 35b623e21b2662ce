#![doc = include_str!("method.md")]

mod profile;
mod score;
mod tail;
#[cfg(test)]
mod tests;

pub use score::{AnomalyReason, Direction, Score};

use profile::{Place, Profile};
use tail::Tail;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version of the model. Findings carry it, and a snapshot of another version is refused.
pub const MODEL: &str = "anomaly-3";

/// The score at or above which a value is worth an alert: the best threshold on the synthetic benchmark when false
/// alarms cost double.
pub const ALERT: f64 = 0.5;

/// Version of the snapshot layout.
const LAYOUT: u32 = 3;
/// Limit to which values are clamped, so that no difference overflows in single precision.
const VALUE_MAX: f64 = 1e30;
/// Lower limit of every scale.
const SCALE_MIN: f32 = 1e-30;
/// Number of values in a block of the tails.
const BLOCK: u16 = 8;
/// Memory of the tails in days, so that an event every few days stays usual, and its limits in blocks.
const MEMORY_DAYS: f32 = 12.5;
const MEMORY_BLOCKS_MIN: f32 = 450.0;
const MEMORY_BLOCKS_MAX: f32 = 2_250.0;
/// Weight of the newest value in the short-term mean.
const SHORT: f32 = 0.4;
/// Number of values over which the recent level, the recent spread and every scale are averaged.
const LEVEL_VALUES: f32 = 25.0;
const UNREST_VALUES: f32 = 16.0;
const SCALE_VALUES: f32 = 3_600.0;
/// Limits, in values, of the slow level's average, which otherwise spans two days.
const SLOW_VALUES_MIN: f32 = 300.0;
const SLOW_VALUES_MAX: f32 = 3_000.0;
/// Number of moving values before clipping begins, so that the first few can set the scales.
const CLIP_AFTER: u16 = 30;
/// Values are clipped at this many scales before they are learnt.
const CLIP: f32 = 6.0;
/// Number of values before any is scored.
const SCORE_AFTER: u32 = 10;
/// Number of values before the tails learn. Until then the scales have not settled, and records would be set too high.
const TAILS_AFTER: u32 = 20;
/// A change below this fraction of the usual one counts as no change.
const STILL: f32 = 0.02;
/// After a gap of this many usual intervals, the values before it are not used to detect a jump.
const GAP_INTERVALS: f32 = 12.0;
/// Upper limit of the reported surprise at the start, in decades. It grows with the number of values seen, because a
/// series cannot show that an event is rarer than its own length.
const MOST_FIRST: f32 = 3.0;
/// Number of values after which a series' surprise counts by half.
const HALF_BELIEVED: f32 = 20.0;
/// Weight of the calibrated total in the reported surprise; the rest is the total itself.
const CALIBRATED: f32 = 0.3;
/// Fraction by which a rest decays per value, and the margin by which an anomaly must exceed it.
const REST_DECAY: f32 = 0.001_5;
const REST_MARGIN: f32 = 0.03;
/// The surprise, in decades, that gives a score of [`ALERT`].
const ALERT_DECADES: f32 = 4.5;

/// Index of each feature's tail. A feature with a tail for each side takes two.
const JUMP: usize = 0;
const HOUR: usize = 2;
const NOVELTY: usize = 3;
const LEVEL: usize = 4;
const QUIET: usize = 6;
const STUCK: usize = 7;
const TAILS: usize = 8;

/// A feature of one value: its size, its tail, its weight in the total and the reason it gives if it is rare.
struct Feature {
    value: f32,
    tail: usize,
    weight: f32,
    reason: AnomalyReason,
}

/// The streaming detector of one series: flat state without a heap, O(1) per value.
#[derive(Clone, Copy, Debug, PartialEq, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Detector {
    first_ms: i64,
    last_ms: i64,
    last: f64,
    /// Mean over the last few values, and mean over about two days (`slow`).
    short: f64,
    slow: f64,
    layout: u32,
    count: u32,
    interval_ms: f32,
    /// Mean absolute change from value to value.
    step: f32,
    /// Standard deviation from the value expected at the hour.
    scale: f32,
    /// Mean deviation of the recent values, and its usual size.
    level: f32,
    level_scale: f32,
    /// Mean absolute distance of the recent values from the short-term mean, and its usual size.
    unrest: f32,
    usual_unrest: f32,
    /// Number of values since the last change.
    still: f32,
    /// The current rest, in decades: it starts at the peak of an anomaly and decays.
    rest: f32,
    /// Number of values in the current block.
    block: u16,
    /// Number of values since the first that differs from its predecessor, saturating. A series that has not moved has
    /// no scale: one learnt from constant values would clip all later values to nothing.
    moving: u16,
    profile: Profile,
    tails: [Tail; TAILS],
    total: Tail,
}

/// A value measured against the state before it.
struct Seen {
    place: Place,
    /// Milliseconds since the previous value, and days since the first one.
    gap_ms: f32,
    days: f32,
    per_day: f32,
    expected: f64,
    /// Differences from the slow level, the expected value, the short-term mean and the previous value.
    deviation: f32,
    residual: f32,
    jump: f32,
    change: f32,
    level: f32,
    unrest: f32,
    still: f32,
    worth: f32,
}

impl Default for Detector {
    fn default() -> Self {
        Self::new()
    }
}

impl Detector {
    /// Length of a snapshot, in bytes.
    pub const BYTES: usize = size_of::<Self>();

    /// A detector that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            first_ms: 0,
            last_ms: 0,
            last: 0.0,
            short: 0.0,
            slow: 0.0,
            layout: LAYOUT,
            count: 0,
            interval_ms: 0.0,
            step: 0.0,
            scale: 0.0,
            level: 0.0,
            level_scale: 0.0,
            unrest: 0.0,
            usual_unrest: 0.0,
            still: 0.0,
            rest: 0.0,
            block: 0,
            moving: 0,
            profile: Profile::EMPTY,
            tails: [Tail::EMPTY; TAILS],
            total: Tail::EMPTY,
        }
    }

    /// Scores the next value of the series against those before it, then learns it. `time_ms` is the event time in
    /// milliseconds since 1970; it gives the hour of the day and gaps, and need not be regular. A value that is not
    /// finite counts as missing: its score is 0 and nothing is learnt.
    pub fn observe(&mut self, time_ms: i64, value: f64) -> Score {
        if !value.is_finite() {
            return Score::quiet(self.slow, self.count, time_ms.saturating_sub(self.first_ms));
        }
        let value = value.clamp(-VALUE_MAX, VALUE_MAX);
        if self.count == 0 {
            (self.first_ms, self.last_ms) = (time_ms, time_ms);
            (self.last, self.short, self.slow) = (value, value, value);
        }
        let seen = self.look(time_ms, value);
        let features = self.features(&seen);
        let (total, reason) = self.total(&features);
        let surprise = self.total.surprise(total, self.memory());
        let told = self.told(total);
        let score = Score {
            score: f64::from(told / (told + ALERT_DECADES)),
            surprise: f64::from(surprise),
            reason,
            baseline_n: self.count,
            baseline_age_ms: time_ms.saturating_sub(self.first_ms).max(0),
            ..self.beside_expected(&seen)
        };
        if self.count >= TAILS_AFTER {
            self.learn_tails(&features, total, &seen);
        }
        self.learn(time_ms, value, &seen);
        score
    }

    /// The state as bytes, little endian: the same bytes for the same observations.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes.copy_from_slice(self.as_bytes());
        bytes
    }

    /// Restores the detector from [`Detector::to_bytes`]; `None` if the bytes have another length or layout, or contain
    /// numbers that no series can lead to.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::read_from_bytes(bytes).ok().filter(Self::is_sound)
    }

    fn is_sound(&self) -> bool {
        let wide = [self.last, self.short, self.slow];
        let scales = [
            self.interval_ms,
            self.step,
            self.scale,
            self.level_scale,
            self.unrest,
            self.usual_unrest,
        ];
        let counts = [self.still, self.rest];
        self.layout == LAYOUT
            && wide
                .iter()
                .all(|number| number.is_finite() && number.abs() < 1e32)
            && scales
                .iter()
                .chain(&counts)
                .all(|number| (0.0..1e36).contains(number))
            && self.level.abs() < 1e36
            && self.profile.is_sound()
            && self.tails.iter().chain([&self.total]).all(Tail::is_sound)
    }

    /// Weight of one value in a mean over this many values, or over all values so far if there are fewer.
    fn rate(&self, values: f32) -> f32 {
        (1.0 / values).max(1.0 / (self.count as f32 + 1.0))
    }

    /// Memory of the tails, in blocks.
    fn memory(&self) -> f32 {
        let blocks = MEMORY_DAYS * 86_400_000.0 / (f32::from(BLOCK) * self.interval_ms.max(1_000.0));
        blocks.clamp(MEMORY_BLOCKS_MIN, MEMORY_BLOCKS_MAX)
    }

    fn look(&mut self, time_ms: i64, value: f64) -> Seen {
        let gap_ms = time_ms.saturating_sub(self.last_ms).clamp(0, 30 * 86_400_000) as f32;
        if self.count > SCORE_AFTER && gap_ms > GAP_INTERVALS * self.interval_ms {
            (self.last, self.short, self.level) = (value, value, 0.0);
        }
        if self.count > 0 {
            let usual = if self.count > SCORE_AFTER {
                gap_ms.min(4.0 * self.interval_ms)
            } else {
                gap_ms
            };
            self.interval_ms += self.rate(100.0) * (usual - self.interval_ms);
        }
        let place = Place::of(time_ms);
        let worth = self.profile.worth(self.count);
        let expected = self.slow + f64::from(worth * self.profile.at(place));
        let residual = (value - expected) as f32;
        let jump = (value - self.short) as f32;
        let change = (value - self.last) as f32;
        Seen {
            place,
            gap_ms,
            days: time_ms.saturating_sub(self.first_ms).max(0) as f32 / 86_400_000.0,
            per_day: 86_400_000.0 / self.interval_ms.max(1_000.0),
            expected,
            deviation: (value - self.slow) as f32,
            residual,
            jump,
            change,
            level: self.level + self.rate(LEVEL_VALUES) * (residual - self.level),
            unrest: self.unrest + self.rate(UNREST_VALUES) * (jump.abs() - self.unrest),
            still: if change.abs() <= STILL * self.step.max(SCALE_MIN) {
                self.still + 1.0
            } else {
                0.0
            },
            worth,
        }
    }

    /// The features, as logarithms of ratios to their usual size.
    fn features(&self, seen: &Seen) -> [Feature; 6] {
        let beside = |value: f32, scale: f32| (1.0 + (value.abs() / scale.max(SCALE_MIN)).min(1e6)).ln();
        let side = |value: f32| usize::from(value < 0.0);
        let unrest = (seen.unrest.max(SCALE_MIN) / self.usual_unrest.max(SCALE_MIN)).ln();
        let feature = |value, tail, weight, reason| Feature {
            value,
            tail,
            weight,
            reason,
        };
        [
            feature(
                beside(seen.jump, self.step),
                JUMP + side(seen.jump),
                2.5,
                AnomalyReason::Jump,
            ),
            feature(
                beside(seen.residual, self.scale),
                HOUR,
                0.5 * seen.worth,
                AnomalyReason::Hour,
            ),
            feature(
                beside(seen.deviation, self.profile.plain_error()),
                NOVELTY,
                2.3,
                AnomalyReason::Novelty,
            ),
            feature(
                beside(seen.level, self.level_scale),
                LEVEL + side(seen.level),
                3.0,
                AnomalyReason::Level,
            ),
            feature((-unrest).clamp(-10.0, 10.0), QUIET, 2.0, AnomalyReason::Quiet),
            feature((1.0 + seen.still).ln(), STUCK, 0.7, AnomalyReason::Stuck),
        ]
    }

    /// The combined surprise of all features, between their sum and the largest, and the reason of the largest.
    fn total(&self, features: &[Feature]) -> (f32, AnomalyReason) {
        let (mut sum, mut largest, mut reason) = (0.0, 0.0, AnomalyReason::Jump);
        if self.count <= SCORE_AFTER {
            return (sum, reason);
        }
        let memory = self.memory();
        for feature in features {
            let tail = self.tails.get(feature.tail).unwrap_or(&self.total);
            let decades = feature.weight * tail.decades(feature.value, memory);
            sum += decades * decades.sqrt();
            if decades > largest {
                (largest, reason) = (decades, feature.reason);
            }
        }
        ((sum * sum).cbrt(), reason)
    }

    /// The surprise to report for a total: limited by the length of the series, and 0 during a rest after a larger
    /// anomaly.
    fn told(&mut self, total: f32) -> f32 {
        let count = self.count as f32;
        let most = MOST_FIRST + (count + 1.0).log10();
        let decades =
            CALIBRATED * self.total.decades(total, self.memory()).min(30.0) + (1.0 - CALIBRATED) * total;
        let decades = decades.min(most) * count / (count + HALF_BELIEVED);
        let told = if decades > self.rest * (1.0 + REST_MARGIN) {
            decades
        } else {
            0.0
        };
        self.rest = if decades > self.rest {
            decades
        } else {
            self.rest * (1.0 - REST_DECAY)
        };
        told
    }

    /// The expected range, and the side and effect of the value.
    fn beside_expected(&self, seen: &Seen) -> Score {
        let reach =
            f64::from(self.scale.max(SCALE_MIN)) * f64::from(self.tails[HOUR].quantile().exp_m1().max(0.0));
        let effect = seen.residual / self.scale.max(SCALE_MIN);
        let direction = match f64::from(seen.residual) {
            above if above > reach => Direction::Above,
            below if below < -reach => Direction::Below,
            _ => Direction::Neither,
        };
        Score {
            expected: (seen.expected - reach, seen.expected + reach),
            direction,
            effect: f64::from(effect.clamp(-1e9, 1e9)),
            ..Score::quiet(seen.expected, self.count, 0)
        }
    }

    fn learn_tails(&mut self, features: &[Feature], total: f32, seen: &Seen) {
        let memory = self.memory();
        // The length of a standstill is learnt when the values move again; until then it is one event.
        for feature in features.iter().filter(|feature| feature.tail != STUCK) {
            if let Some(tail) = self.tails.get_mut(feature.tail) {
                tail.note(feature.value);
            }
        }
        self.total.note(total);
        if seen.still == 0.0 {
            self.tails[STUCK].learn((1.0 + self.still).ln(), memory);
        }
        self.block += 1;
        if self.block >= BLOCK {
            self.block = 0;
            self.tails
                .iter_mut()
                .chain([&mut self.total])
                .for_each(|tail| tail.close(memory));
        }
    }

    fn learn(&mut self, time_ms: i64, value: f64, seen: &Seen) {
        let is_clipped = self.moving >= CLIP_AFTER;
        let limit = |scale: f32| {
            if is_clipped {
                CLIP * scale.max(SCALE_MIN)
            } else {
                4e30
            }
        };
        let clipped = |value: f32, scale: f32| value.max(-limit(scale)).min(limit(scale));
        let rate = (1.0 / SCALE_VALUES).max(1.0 / (f32::from(self.moving) + 1.0));
        let (slow_values, error_values) = (
            (2.0 * seen.per_day).clamp(SLOW_VALUES_MIN, SLOW_VALUES_MAX),
            SCALE_VALUES.min(2.0 * seen.per_day).max(200.0),
        );
        self.slow += f64::from(
            self.rate(slow_values)
                * clipped(
                    seen.deviation - seen.worth * self.profile.at(seen.place),
                    self.scale,
                ),
        );
        let clip = limit(self.scale.max(self.profile.plain_error()));
        let days = seen.days + seen.gap_ms / 86_400_000.0;
        let error_rate = self.rate(error_values);
        self.profile
            .learn(seen.place, seen.deviation, error_rate, days, seen.per_day, clip);
        self.step += rate * (clipped(seen.change, self.step).abs() - self.step);
        // In a normal distribution, the standard deviation is 1.25 mean absolute deviations.
        self.scale += rate * (1.25 * clipped(seen.residual, self.scale).abs() - self.scale);
        self.level_scale += rate * (clipped(seen.level, self.level_scale).abs() - self.level_scale);
        self.usual_unrest += rate * (clipped(seen.unrest, self.usual_unrest) - self.usual_unrest);
        (self.level, self.unrest, self.still) = (seen.level, seen.unrest, seen.still);
        self.short += f64::from(SHORT) * f64::from(seen.jump);
        if self.moving > 0 || value != self.last {
            self.moving = self.moving.saturating_add(1);
        }
        (self.last, self.last_ms) = (value, time_ms);
        self.count = self.count.saturating_add(1);
    }
}
