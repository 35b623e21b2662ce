//! A reading as it is stored: one number that one device measured, where it came from, and what is thought of it.

use std::sync::Arc;

/// The longest name that a reading carries, in bytes. What devices write is outside input, and an index has a limit.
pub const NAME_BYTES_MAX: usize = 128;

/// A name that an event brought, fit to be stored: at most [`NAME_BYTES_MAX`] bytes and no NUL, which PostgreSQL's texts
/// can't hold. A longer one is cut, NULs become U+FFFD; both happen only to names that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    /// The name as it can be stored.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = if text.contains('\0') {
            text.replace('\0', "\u{fffd}")
        } else {
            text.to_owned()
        };
        Self(text[..text.floor_char_boundary(NAME_BYTES_MAX)].into())
    }

    /// The text.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Metric {
    /// Its name in `schemas/metrics.toml`, or whatever the device calls it.
    pub name: Name,
    /// The UCUM unit of the values: the metric's own, or what the device said where the metric is unknown.
    pub unit: Name,
}

/// What a device runs. Both are empty where events do not say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The firmware.
    pub firmware: Name,
    /// The model of the device.
    pub model: Name,
}

/// A device's token as the gate makes it: 22 letters of base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token([u8; 22]);

impl Token {
    /// The token, if it is one.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let bytes: [u8; 22] = text.try_into().ok()?;
        bytes.iter().all(letter).then_some(Self(bytes))
    }

    /// Its letters.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 22] {
        &self.0
    }

    /// Its letters as a text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only letters of base64url can be in it.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// One reading of a clean record.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When it was measured, as the device says, in milliseconds since 1970. Any value.
    pub time_ms: i64,
    /// When the broker appended its record to the clean topic, in milliseconds since 1970.
    pub append_ms: i64,
    /// The device.
    pub device: Token,
    /// What was measured. Shared by all readings of a metric.
    pub metric: Arc<Metric>,
    /// What the device ran. Shared by all readings of a version.
    pub version: Arc<Version>,
    /// The value, in the metric's unit. Any value.
    pub value: f64,
    /// 0 is good; the other codes are the quality stage's.
    pub quality: i16,
    /// The partition of the clean topic.
    pub partition: i32,
    /// The offset of its record.
    pub offset: i64,
    /// Which of the record's readings.
    pub index: u32,
}

/// From when on a device runs what, as seen in its events.
#[derive(Clone, Debug)]
pub struct DeviceVersion {
    /// The device.
    pub device: Token,
    /// The event time of the first event that says so, in milliseconds since 1970.
    pub since_ms: i64,
    /// When the broker appended that event's record, in milliseconds since 1970.
    pub append_ms: i64,
    /// What it runs.
    pub version: Arc<Version>,
    /// The partition of the clean topic.
    pub partition: i32,
    /// The offset of that event's record.
    pub offset: i64,
}

/// Devices of one model that came to a firmware on one day, as their events say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// The firmware that they came to.
    pub firmware: String,
    /// Their model.
    pub model: String,
    /// When the day began (UTC), in milliseconds since 1970.
    pub day_ms: i64,
    /// How many devices.
    pub devices: u32,
}

/// What one device measured in a day before or after a [`Rollout`], by the median of the medians of its hours: every hour
/// counts the same, however often the device reported in it, and a few odd readings or hours do not count at all.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceMedian {
    /// The device.
    pub device: Token,
    /// Whether it came to the firmware on the day of the rollout; else it is a control, which ran another firmware and
    /// changed nothing from the day before the rollout to the last day that is compared.
    pub treated: bool,
    /// The metric's name.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Which day: −1 is the day before the rollout's, 1 and 2 are the days after it. The day itself is not compared.
    pub day: i32,
    /// The median of the medians of the day's hours, each of which is that of its good readings.
    pub median: f64,
    /// How many good readings there are in all of them.
    pub readings: u32,
}

/// The readings that were measured in one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetMinute {
    /// The minute, since 1970.
    pub minute: i64,
    /// All of them.
    pub readings: u64,
    /// The good ones.
    pub good: u64,
}

/// A few minutes of one metric of one cohort.
#[derive(Clone, Debug, PartialEq)]
pub struct CohortWindow {
    /// The first minute, since 1970.
    pub minute: i64,
    /// The metric's name.
    pub metric: String,
    /// What the devices ran.
    pub firmware: String,
    /// Their model.
    pub model: String,
    /// The good readings: plausible, and small enough to be added up.
    pub good: u64,
    /// Their sum.
    pub total: f64,
    /// The sum of the squares of what they differ by from the mean of their minute.
    pub squares: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_that_nobody_knows_is_cut_and_cleaned() {
        assert_eq!(Name::new("heart_rate").as_str(), "heart_rate");
        assert_eq!(Name::new("a\0b").as_str(), "a\u{fffd}b");
        let long = "é".repeat(100);
        assert_eq!(Name::new(&long).as_str(), "é".repeat(64));
    }

    #[test]
    fn a_token_is_22_letters_of_base64url() {
        assert!(Token::new(b"AAAAAAAAAAAAAAAAAAAA-_").is_some());
        for bad in [
            "",
            "AAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAA+/",
            "AAAAAAAAAAAAAAAAAAAA\0A",
        ] {
            assert!(Token::new(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_name_can_be_stored(text in any::<String>()) {
            let name = Name::new(&text);
            prop_assert!(name.as_str().len() <= NAME_BYTES_MAX && !name.as_str().contains('\0'));
        }
    }
}
