//! Anomalies of one series, as it streams by.

mod score;

pub use score::{AnomalyReason, Direction, Score};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version of the model. Findings carry it, and a snapshot of another version is refused.
pub const MODEL: &str = "anomaly-1";

/// The first bytes of a snapshot: the layout's version.
const LAYOUT: u32 = 1;

/// The streaming detector of one series: flat, without a heap, O(1) a point.
#[derive(Clone, Copy, Debug, PartialEq, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Detector {
    first_ms: i64,
    layout: u32,
    count: u32,
    mean: f64,
    scale: f64,
}

impl Default for Detector {
    fn default() -> Self {
        Self::new()
    }
}

impl Detector {
    /// Bytes of a snapshot.
    pub const BYTES: usize = size_of::<Self>();

    /// A detector that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            first_ms: 0,
            layout: LAYOUT,
            count: 0,
            mean: 0.0,
            scale: 0.0,
        }
    }

    /// Scores the next value of the series against those before it, then learns it. `time_ms` is the event time in
    /// milliseconds since 1970. A value that is not finite is missing: its score is 0 and nothing is learnt.
    pub fn observe(&mut self, time_ms: i64, value: f64) -> Score {
        if !value.is_finite() {
            return Score::quiet(self.mean, self.count, time_ms.saturating_sub(self.first_ms));
        }
        let value = value.clamp(-1e300, 1e300);
        if self.count == 0 {
            (self.first_ms, self.mean) = (time_ms, value);
        }
        let residual = value - self.mean;
        let effect = residual / self.scale.max(f64::MIN_POSITIVE);
        let surprise = if self.count < 30 {
            0.0
        } else {
            (effect.abs() - 3.0).clamp(0.0, 20.0)
        };
        let score = Score {
            score: 1.0 - 1.0 / (1.0 + surprise / 10.0),
            surprise,
            expected: (self.mean - 3.0 * self.scale, self.mean + 3.0 * self.scale),
            direction: if residual > 0.0 {
                Direction::Above
            } else {
                Direction::Below
            },
            effect: effect.clamp(-1e9, 1e9),
            reason: AnomalyReason::Level,
            baseline_n: self.count,
            baseline_age_ms: time_ms.saturating_sub(self.first_ms).max(0),
        };
        let weight = 1.0 / f64::from(self.count.saturating_add(1).min(300));
        let clipped = if self.count < 30 {
            residual
        } else {
            residual.clamp(-4.0 * self.scale, 4.0 * self.scale)
        };
        self.mean += weight * clipped;
        self.scale += weight
            * (1.25
                * residual.abs().min(1e300).min(if self.count < 30 {
                    1e300
                } else {
                    4.0 * self.scale.max(1e-9)
                })
                - self.scale);
        self.count = self.count.saturating_add(1);
        score
    }

    /// The state as bytes, little endian: the same bytes for the same observations.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes.copy_from_slice(self.as_bytes());
        bytes
    }

    /// The detector that [`Detector::to_bytes`] wrote, or none if the bytes are of another length or model.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::read_from_bytes(bytes)
            .ok()
            .filter(|detector| detector.layout == LAYOUT)
    }
}
