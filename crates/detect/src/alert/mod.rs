//! Whom to tell: everything is stored, little is notified.
//!
//! ```text
//! score ─▶ episode (hysteresis, M of N) ─▶ rest (cool-down, daily budget) ─▶ group (device → cohort → fleet) ─▶ notify
//! ```
//!
//! One odd point is no news and a lasting oddity is news once. An [`Episode`] opens when three of the last five scores
//! are high, and closes when five in a row are low; it is one finding. It is to be told when it is of some severity beside
//! a day or more ([`is_news`]), and passes [`Rest`], which doubles the silence after every notice, and the device's
//! [`Budget`] of the day. All of this is flat state of a lane, driven by the times of events, so that the same log decides
//! the same.
//!
//! What is to be told waits a little. When others, of any lane, show the same meanwhile, [`gather`] makes one finding of
//! them, and they stay silent.

mod groups;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finding::Severity;

pub use groups::{
    Config as GroupsConfig, DEVICES_MIN, Gathered, Sighting, Version, WINDOW_MS, WINDOWS_BACK, gather,
};

/// Scores up to this part of the threshold are low.
const LEAVE: f64 = 0.6;
/// So many low scores in a row close an episode.
const LEAVE_POINTS: u8 = 5;
/// How many of the last [`WINDOW`] scores must be high.
const HIGH_MIN: u32 = 3;
const WINDOW: u32 = 5;
/// After so long without a score nothing that was before counts, in ms.
const GAP_MS: i64 = 30 * 60_000;
/// The first silence after a notice, in ms.
const REST_MS: i64 = 30 * 60_000;
/// How often the silence doubles at most: to 16 hours.
const DOUBLINGS_MAX: u8 = 5;
/// After so long without a notice the silences begin anew, in ms.
const FORGIVEN_MS: i64 = 24 * 3_600_000;
const DAY_MS: i64 = 24 * 3_600_000;

/// When people are told.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The anomaly score from which a value counts as odd, in (0, 1]. Default: 0.5.
    pub enter_score: f64,
    /// Notices about one device in a day (UTC) at most. Default: 4.
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

/// The episodes of one series: whether it is odd now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Episode {
    last_ms: i64,
    /// A bit for each of the last scores, the newest lowest: whether it was high.
    high: u8,
    low: u8,
    open: bool,
}

impl Episode {
    /// Bytes of [`Self::to_bytes`].
    pub const BYTES: usize = 11;

    /// Takes the next score; true when an episode opens with it. A score that is no number counts as low.
    pub fn observe(&mut self, config: &Config, time_ms: i64, score: f64) -> bool {
        if time_ms.saturating_sub(self.last_ms) > GAP_MS {
            *self = Self::default();
        }
        self.last_ms = time_ms;
        let is_high = score >= config.enter_score;
        // A score that is no number must not hold an episode open.
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

    /// Whether an episode is going on.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// The state, for a snapshot.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.last_ms.to_le_bytes());
        bytes[8..].copy_from_slice(&[self.high, self.low, u8::from(self.open)]);
        bytes
    }

    /// The state that [`Self::to_bytes`] gave.
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
    /// The last notice, while `notices` is not 0.
    last_ms: i64,
    /// Notices without a day of peace between them.
    notices: u8,
}

impl Rest {
    /// Bytes of [`Self::to_bytes`].
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

    /// The state, for a snapshot.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.last_ms.to_le_bytes());
        bytes[8] = self.notices;
        bytes
    }

    /// The state that [`Self::to_bytes`] gave.
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
    /// Bytes of [`Self::to_bytes`].
    pub const BYTES: usize = 9;

    /// Takes one notice from the budget of the day; false when none is left. A day that is over stays over: what comes
    /// late counts for the newest day.
    fn spend(&mut self, config: &Config, time_ms: i64) -> bool {
        let day = time_ms.div_euclid(DAY_MS);
        if day > self.day {
            *self = Self { day, spent: 0 };
        }
        let left = self.spent < config.device_day_max;
        self.spent += u8::from(left);
        left
    }

    /// The state, for a snapshot.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.day.to_le_bytes());
        bytes[8] = self.spent;
        bytes
    }

    /// The state that [`Self::to_bytes`] gave.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, spent] = bytes;
        Self {
            day: i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            spent,
        }
    }
}

/// Whether a finding says something to people: it is not of low severity, and what it is compared with is at least a day
/// old. Before that a series has not seen each hour of the day, and the first evening, night and morning are all unusual:
/// of the anomalies of a synthetic fleet's first 13 hours, three in four came in its first five.
#[must_use]
pub fn is_news(severity: Severity, baseline_age_ms: i64) -> bool {
    severity > Severity::Low && baseline_age_ms >= DAY_MS
}

/// Whether people are to be told of a new finding about a device. When they are, the silence of the series begins and the
/// device's budget is less by one, also where a group comes to speak for it.
pub fn notify(config: &Config, rest: &mut Rest, budget: &mut Budget, time_ms: i64) -> bool {
    let told = rest.is_over(time_ms) && budget.spend(config, time_ms);
    if told {
        rest.begin(time_ms);
    }
    told
}
