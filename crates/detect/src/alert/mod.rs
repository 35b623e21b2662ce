//! Notification: every finding is stored, but few are sent to people.
//!
//! ```text
//! score ─▶ episode (hysteresis, M of N) ─▶ rest (cool-down, daily budget) ─▶ group (device → cohort → fleet) ─▶ notify
//! ```
//!
//! A single anomalous point is not worth a notice, and a lasting anomaly is worth one. An [`Episode`] opens when three
//! of the last five scores are high, and closes when five in a row are low; it is one finding. People are notified of
//! it when it is above low severity against a baseline of a day or more ([`is_news`]), and when it passes [`Rest`],
//! which doubles the silence after every notice, and the device's daily [`Budget`]. All of this is flat state of a
//! lane, driven by event times, so the same log leads to the same decisions.
//!
//! A notice waits a little before it is sent. When other devices, in any lane, show the same in the meantime,
//! [`gather`] merges their findings into one, and the single findings are not sent.

mod groups;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finding::Severity;
use crate::time::DAY_MS;

pub use groups::{
    Config as GroupsConfig, DEVICES_MIN, Gathered, Sighting, Version, WINDOW_MS, WINDOWS_BACK, gather,
};

/// Scores below this fraction of the threshold are low.
const LEAVE: f64 = 0.6;
/// Number of low scores in a row that close an episode.
const LEAVE_POINTS: u8 = 5;
/// How many of the last [`WINDOW`] scores must be high.
const HIGH_MIN: u32 = 3;
const WINDOW: u32 = 5;
/// A gap between scores longer than this resets an episode, in ms.
const GAP_MS: i64 = 30 * 60_000;
/// The first silence after a notice, in ms.
const REST_MS: i64 = 30 * 60_000;
/// Maximum number of doublings of the silence: to 16 hours.
const DOUBLINGS_MAX: u8 = 5;
/// Time without a notice after which the silence starts again at [`REST_MS`], in ms.
const FORGIVEN_MS: i64 = 24 * 3_600_000;

/// When people are notified of a finding about a device.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Anomaly score at or above which a value counts as anomalous, in (0, 1]. Default: 0.5.
    pub enter_score: f64,
    /// Maximum number of notices about one device per day (UTC). Default: 4.
    pub device_day_max: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enter_score: 0.5,
            device_day_max: 4,
        }
    }
}

/// The episodes of one series: whether it is anomalous now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Episode {
    last_ms: i64,
    /// One bit for each of the last [`WINDOW`] scores, set if it was high; the newest is the lowest bit.
    high: u8,
    low: u8,
    open: bool,
}

impl Episode {
    /// Length of [`Self::to_bytes`].
    pub const BYTES: usize = 11;

    /// Takes the next score and returns whether it opens an episode. A NaN score counts as low.
    pub fn observe(&mut self, config: &Config, time_ms: i64, score: f64) -> bool {
        if time_ms.saturating_sub(self.last_ms) > GAP_MS {
            *self = Self::default();
        }
        self.last_ms = time_ms;
        let is_high = score >= config.enter_score;
        // A NaN score must not keep an episode open.
        let is_low = score.is_nan() || score < LEAVE * config.enter_score;
        self.high = (self.high << 1 | u8::from(is_high)) & ((1 << WINDOW) - 1);
        self.low = if is_low { self.low.saturating_add(1) } else { 0 };
        if self.open {
            self.open = self.low < LEAVE_POINTS;
            return false;
        }
        self.open = is_high && self.high.count_ones() >= HIGH_MIN;
        self.open
    }

    /// Whether an episode is open.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Serializes the state for a snapshot.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.last_ms.to_le_bytes());
        bytes[8..].copy_from_slice(&[self.high, self.low, u8::from(self.open)]);
        bytes
    }

    /// Restores the state from [`Self::to_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, high, low, open] = bytes;
        Self {
            last_ms: i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            high,
            low,
            open: open == 1,
        }
    }
}

/// The silence of one series after a notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// Time of the last notice; meaningless while `notices` is 0.
    last_ms: i64,
    /// Notices that followed each other within less than a day.
    notices: u8,
}

impl Rest {
    /// Length of [`Self::to_bytes`].
    pub const BYTES: usize = 9;

    fn is_over(&self, time_ms: i64) -> bool {
        let doublings = self.notices.saturating_sub(1).min(DOUBLINGS_MAX);
        self.notices == 0 || time_ms.saturating_sub(self.last_ms) >= REST_MS << doublings
    }

    const fn begin(&mut self, time_ms: i64) {
        if time_ms.saturating_sub(self.last_ms) >= FORGIVEN_MS {
            self.notices = 0;
        }
        self.last_ms = time_ms;
        self.notices = self.notices.saturating_add(1);
    }

    /// Serializes the state for a snapshot.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.last_ms.to_le_bytes());
        bytes[8] = self.notices;
        bytes
    }

    /// Restores the state from [`Self::to_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, notices] = bytes;
        Self {
            last_ms: i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            notices,
        }
    }
}

/// The notices about one device on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Days since 1970.
    day: i64,
    spent: u8,
}

impl Budget {
    /// Length of [`Self::to_bytes`].
    pub const BYTES: usize = 9;

    /// Takes one notice from the day's budget and returns false when none is left. A day that is over is not reopened:
    /// a late event counts towards the newest day.
    fn spend(&mut self, config: &Config, time_ms: i64) -> bool {
        let day = time_ms.div_euclid(DAY_MS);
        if day > self.day {
            *self = Self { day, spent: 0 };
        }
        let left = self.spent < config.device_day_max;
        self.spent += u8::from(left);
        left
    }

    /// Serializes the state for a snapshot.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.day.to_le_bytes());
        bytes[8] = self.spent;
        bytes
    }

    /// Restores the state from [`Self::to_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, spent] = bytes;
        Self {
            day: i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            spent,
        }
    }
}

/// Whether a finding is worth a notice: its severity is above low and its baseline is at least a day old. A younger
/// baseline has not covered every hour of the day, so the first evening, night and morning all look unusual: of the
/// anomalies in a synthetic fleet's first 13 hours, three in four came in the first five.
#[must_use]
pub fn is_news(severity: Severity, baseline_age_ms: i64) -> bool {
    severity > Severity::Low && baseline_age_ms >= DAY_MS
}

/// Decides whether people are notified of a new finding about a device. If so, the silence of the series begins and the
/// device's budget drops by one, even if a group finding later stands for it.
pub fn notify(config: &Config, rest: &mut Rest, budget: &mut Budget, time_ms: i64) -> bool {
    let told = rest.is_over(time_ms) && budget.spend(config, time_ms);
    if told {
        rest.begin(time_ms);
    }
    told
}
