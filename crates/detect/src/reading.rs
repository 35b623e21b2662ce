//! A reading as it is stored: one number that one device measured, with its origin and its quality.

use std::sync::Arc;

/// Maximum length of a stored name, in bytes. Names are untrusted input, and a database index limits their size.
pub const NAME_BYTES_MAX: usize = 128;

/// A name from an event, made fit for storage: at most [`NAME_BYTES_MAX`] bytes and without NUL, which PostgreSQL's
/// `text` cannot hold. A longer name is truncated and NULs become U+FFFD; no known name needs either.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    /// The name, truncated and with NULs replaced.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = if text.contains('\0') {
            text.replace('\0', "\u{fffd}")
        } else {
            text.to_owned()
        };
        Self(text[..text.floor_char_boundary(NAME_BYTES_MAX)].into())
    }

    /// The name as a string slice.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

/// The metric of a reading and the unit of its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Metric {
    /// Its name in `schemas/metrics.toml`, or the name that the device gave if the metric is unknown.
    pub name: Name,
    /// The UCUM unit of the values: the metric's own, or the unit that the device gave if the metric or unit is
    /// unknown.
    pub unit: Name,
}

/// The firmware and the model of a device. Both are empty if its events do not carry them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Firmware version.
    pub firmware: Name,
    /// Device model.
    pub model: Name,
}

/// A device's token as the gate issues it: 22 characters of base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token([u8; 22]);

impl Token {
    /// The token, or `None` if the text is not 22 characters of base64url.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let bytes: [u8; 22] = text.try_into().ok()?;
        bytes.iter().all(letter).then_some(Self(bytes))
    }

    /// The token as ASCII bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 22] {
        &self.0
    }

    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Always ASCII: `new` accepts only base64url.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// One reading of a clean record.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When it was measured, by the device's clock, in milliseconds since 1970. May be any value.
    pub time_ms: i64,
    /// When the broker appended its record to the clean topic, in milliseconds since 1970.
    pub append_ms: i64,
    /// The token of the device.
    pub device: Token,
    /// Metric and unit, shared by all readings of the metric.
    pub metric: Arc<Metric>,
    /// Firmware and model of the device, shared by all readings of the version.
    pub version: Arc<Version>,
    /// The value, in the metric's unit. May be any value.
    pub value: f64,
    /// The code of its verdict (`Quality::code`); 0 is good.
    pub quality: i16,
    /// Partition of the clean topic.
    pub partition: i32,
    /// Offset of its record in the partition.
    pub offset: i64,
    /// Index of the reading in its record.
    pub index: u32,
}

/// The time from which a device runs a version, according to its events.
#[derive(Clone, Debug)]
pub struct DeviceVersion {
    /// The token of the device.
    pub device: Token,
    /// The event time of the first event with this version, in milliseconds since 1970.
    pub since_ms: i64,
    /// When the broker appended that event's record, in milliseconds since 1970.
    pub append_ms: i64,
    /// Its firmware and model.
    pub version: Arc<Version>,
    /// Partition of the clean topic.
    pub partition: i32,
    /// Offset of that event's record in the partition.
    pub offset: i64,
}

/// Devices of one model that switched to a firmware on one day, according to their events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// The new firmware.
    pub firmware: String,
    /// The model of the devices.
    pub model: String,
    /// Start of the day (UTC), in milliseconds since 1970.
    pub day_ms: i64,
    /// Number of devices that switched.
    pub devices: u32,
}

/// The level of one metric of one device on a day before or after a [`Rollout`]: the median of its hourly medians.
/// Every hour has the same weight, however often the device reported in it, and a few outlying readings or hours have
/// no effect.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceMedian {
    /// The token of the device.
    pub device: Token,
    /// Whether it switched to the firmware on the day of the rollout. Otherwise it is a control, which ran another
    /// firmware and kept it from the day before the rollout to the last day compared.
    pub treated: bool,
    /// The metric's name.
    pub metric: String,
    /// The metric's UCUM unit.
    pub unit: String,
    /// The day relative to the rollout: −1 is the day before, 1 and 2 are the days after. Day 0 is not compared.
    pub day: i32,
    /// The median over the day of the hourly medians of good readings.
    pub median: f64,
    /// Number of good readings on the day.
    pub readings: u32,
}

/// Counts of the readings measured in one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetMinute {
    /// The minute, counted since 1970.
    pub minute: i64,
    /// Number of readings.
    pub readings: u64,
    /// Number of good readings.
    pub good: u64,
}

/// Sums over a few minutes of one metric of one cohort.
#[derive(Clone, Debug, PartialEq)]
pub struct CohortWindow {
    /// The first minute, counted since 1970.
    pub minute: i64,
    /// The metric's name.
    pub metric: String,
    /// The firmware of the devices.
    pub firmware: String,
    /// The model of the devices.
    pub model: String,
    /// Number of good readings: plausible, and small enough to be summed.
    pub good: u64,
    /// Sum of the good readings.
    pub total: f64,
    /// Sum of the squared deviations of the good readings from the mean of their minute.
    pub squares: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_truncated_and_cleaned_of_nul() {
        assert_eq!(Name::new("heart_rate").as_str(), "heart_rate");
        assert_eq!(Name::new("a\0b").as_str(), "a\u{fffd}b");
        let long = "é".repeat(100);
        assert_eq!(Name::new(&long).as_str(), "é".repeat(64));
    }

    #[test]
    fn a_token_is_22_characters_of_base64url() {
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
