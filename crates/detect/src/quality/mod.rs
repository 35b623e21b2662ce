//! Quality: whether a reading is physiology at all, or a fault of the sensor, the clock or the transport.
//!
//! A reading that is not good is stored with its verdict, but never scored and never part of a baseline; the rate of
//! good readings is a series of its own. Metrics, their units and their plausible ranges are data
//! (`schemas/metrics.toml`).

use std::collections::HashMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::clean::Measured;
use super::reading::{Metric, Name};

/// The verdict on a reading, as stored in the column `readings.quality`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quality {
    /// No fault was found.
    Good,
    /// The device marked it as uncertain.
    Uncertain,
    /// The device marked it as bad.
    Bad,
    /// Outside the range of values that a living person can produce.
    Implausible,
    /// A number that stands for "no reading", such as 0 or 255.
    Sentinel,
    /// The same value for longer than a living person produces it.
    Stuck,
    /// The same value at the same time as the previous reading.
    Duplicate,
    /// Its time is too far ahead of the broker's, or further behind it than any device stores readings.
    ClockSkew,
    /// Older than the window of its series that is already being averaged.
    Late,
    /// In a unit that cannot be converted to the metric's.
    UnknownUnit,
    /// Of a metric that is not in the metrics table: stored, but never scored.
    UnknownMetric,
}

impl Quality {
    /// Every verdict, in the order of its code.
    pub const ALL: [Self; 11] = [
        Self::Good,
        Self::Uncertain,
        Self::Bad,
        Self::Implausible,
        Self::Sentinel,
        Self::Stuck,
        Self::Duplicate,
        Self::ClockSkew,
        Self::Late,
        Self::UnknownUnit,
        Self::UnknownMetric,
    ];

    /// The number in the database. A verdict never changes its number.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The name in the database, in metric labels and in findings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Uncertain => "uncertain",
            Self::Bad => "bad",
            Self::Implausible => "implausible",
            Self::Sentinel => "sentinel",
            Self::Stuck => "stuck",
            Self::Duplicate => "duplicate",
            Self::ClockSkew => "clock_skew",
            Self::Late => "late",
            Self::UnknownUnit => "unknown_unit",
            Self::UnknownMetric => "unknown_metric",
        }
    }

    /// The verdict in words, for a finding.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Uncertain => "marked as uncertain by the device",
            Self::Bad => "marked as bad by the device",
            Self::Implausible => "outside the plausible range of the metric",
            Self::Sentinel => "a number that stands for no reading",
            Self::Stuck => "the same value for too long",
            Self::Duplicate => "a repeat of the previous reading",
            Self::ClockSkew => "the device's clock is far from the broker's",
            Self::Late => "older than readings already seen in the series",
            Self::UnknownUnit => "in a unit that cannot be converted to the metric's",
            Self::UnknownMetric => "of a metric that is not in the metrics table",
        }
    }

    /// Whether the device's clock or connection is at fault, independent of the metric.
    #[must_use]
    pub const fn is_of_device(self) -> bool {
        matches!(self, Self::ClockSkew | Self::Late)
    }

    /// Whether it opens an episode, which is a finding. An uncertain reading and an unknown metric do not: neither is a
    /// fault that an operator could fix.
    #[must_use]
    pub const fn is_fault(self) -> bool {
        !matches!(self, Self::Good | Self::Uncertain | Self::UnknownMetric)
    }
}

/// Limits beyond which a reading's time is a fault of clock or transport.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How far a reading's time may be ahead of the broker's, in seconds. Default: 300.
    pub ahead_max_s: u32,
    /// How far a reading's time may be behind the broker's, in days: as long as a device keeps readings that it could
    /// not upload. Default: 90.
    pub behind_max_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ahead_max_s: 300,
            behind_max_days: 90,
        }
    }
}

impl Config {
    /// Reports values that are out of range.
    pub fn check(&self, check: &mut pulsegate_settings::Check) {
        check.range("ahead_max_s", self.ahead_max_s.into(), 0..=86_400);
        check.range("behind_max_days", self.behind_max_days.into(), 1..=36_500);
    }

    /// Whether a reading's time is within the limits around the broker's append time.
    #[must_use]
    pub fn believes(&self, time_ms: i64, append_ms: i64) -> bool {
        let (ahead, behind) = (
            i64::from(self.ahead_max_s) * 1_000,
            i64::from(self.behind_max_days) * 86_400_000,
        );
        let difference = time_ms.saturating_sub(append_ms);
        (-behind..=ahead).contains(&difference)
    }
}

/// Maximum size of `schemas/metrics.toml`, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Maximum number of metrics in the table.
const METRICS_MAX: usize = 1_000;
/// Minimum number of equal values in a run that counts as stuck.
const STUCK_READINGS: u32 = 10;
/// Numbers that sensors send for "no reading" (all bits set in 8, 16 or 32 bits, all nines, zero, minus one). Checked
/// only outside the plausible range.
const SENTINELS: [f64; 14] = [
    0.0,
    -1.0,
    127.0,
    128.0,
    255.0,
    999.0,
    -999.0,
    9_999.0,
    -9_999.0,
    32_767.0,
    -32_768.0,
    65_535.0,
    2_147_483_647.0,
    4_294_967_295.0,
];

/// The description of one metric.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its name and unit, shared by its readings.
    pub metric: Arc<Metric>,
    /// The LOINC code, if one fits.
    pub loinc: Option<String>,
    /// The range outside which a reading is a fault of the sensor.
    pub plausible: (f64, f64),
    /// How long the same value may last, in ms; `None` if it may last forever, such as a saturation of 100 % or 0
    /// steps.
    pub flat_ms: Option<i64>,
    /// The least value that shows that the wearer is moving.
    pub activity_min: Option<f64>,
    /// Whether it is scored, and learnt from, only while the wearer rests, because movement changes and explains it.
    pub rest_only: bool,
}

/// The metrics table.
#[derive(Clone, Debug)]
pub struct Metrics {
    described: Vec<Described>,
    names: HashMap<Box<str>, u16, foldhash::fast::FixedState>,
}

/// Why a metrics table cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    /// It is not TOML, or has missing or unknown fields.
    #[error("{0}")]
    Malformed(String),
    /// An entry is invalid.
    #[error("metric `{0}`: {1}")]
    Senseless(String, &'static str),
    /// It has too many entries.
    #[error("more than {METRICS_MAX} metrics")]
    TooMany,
}

/// One entry of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    loinc: Option<String>,
    unit: String,
    plausible: (f64, f64),
    flat_s: Option<u32>,
    activity_min: Option<f64>,
    #[serde(default)]
    rest_only: bool,
}

impl Metrics {
    /// Parses the table.
    ///
    /// # Errors
    ///
    /// [`MetricsError`], naming the invalid metric.
    pub fn parse(text: &str) -> Result<Self, MetricsError> {
        let entries: std::collections::BTreeMap<String, Entry> =
            toml::from_str(text).map_err(|error| MetricsError::Malformed(error.to_string()))?;
        if entries.len() > METRICS_MAX {
            return Err(MetricsError::TooMany);
        }
        let mut metrics = Self {
            described: Vec::with_capacity(entries.len()),
            names: HashMap::default(),
        };
        for (index, (name, entry)) in (0..).zip(entries) {
            let (low, high) = entry.plausible;
            if !(low.is_finite() && high.is_finite() && low < high) {
                return Err(MetricsError::Senseless(
                    name,
                    "`plausible` must be a finite range [low, high] with low < high",
                ));
            }
            if unit(&entry.unit).is_none() {
                return Err(MetricsError::Senseless(
                    name,
                    "its `unit` is unknown; use a UCUM unit listed in `UNITS`",
                ));
            }
            metrics.names.insert(name.as_str().into(), index);
            metrics.described.push(Described {
                metric: Arc::new(Metric {
                    name: Name::new(&name),
                    unit: Name::new(&entry.unit),
                }),
                loinc: entry.loinc,
                plausible: entry.plausible,
                flat_ms: entry.flat_s.map(|seconds| i64::from(seconds) * 1_000),
                activity_min: entry.activity_min,
                rest_only: entry.rest_only,
            });
        }
        Ok(metrics)
    }

    /// The index of a metric in this table, by its name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u16> {
        self.names.get(name).copied()
    }

    /// The metric at an index returned by [`Metrics::find`].
    #[must_use]
    pub fn get(&self, index: u16) -> Option<&Described> {
        self.described.get(usize::from(index))
    }

    /// All metrics, in the order of their indices.
    pub fn iter(&self) -> impl Iterator<Item = &Described> {
        self.described.iter()
    }
}

impl Described {
    /// The value in the metric's own unit, and the verdict on the reading alone, without its series. A value in an
    /// unknown unit is not converted.
    #[must_use]
    pub fn judge(&self, measured: &Measured<'_>) -> (f64, Quality) {
        let Some(value) = self.convert(measured) else {
            return (measured.value, Quality::UnknownUnit);
        };
        let (low, high) = self.plausible;
        let verdict = if !(low..=high).contains(&value) {
            if SENTINELS.contains(&measured.value) {
                Quality::Sentinel
            } else {
                Quality::Implausible
            }
        } else {
            match measured.quality.as_deref() {
                None | Some("good") => Quality::Good,
                Some("uncertain") => Quality::Uncertain,
                // A name from a newer schema is not known to mean good.
                Some(_) => Quality::Bad,
            }
        };
        (value, verdict)
    }

    /// Whether the reading is good and shows that the wearer is moving.
    #[must_use]
    pub fn is_movement(&self, measured: &Measured<'_>) -> bool {
        self.activity_min.is_some_and(|least| {
            let (value, verdict) = self.judge(measured);
            verdict == Quality::Good && value >= least
        })
    }

    fn convert(&self, measured: &Measured<'_>) -> Option<f64> {
        let own = self.metric.unit.as_str();
        match measured.unit.as_deref() {
            None => Some(measured.value),
            Some(given) if given == own => Some(measured.value),
            Some(given) => {
                let (from, to) = (unit(given)?, unit(own)?);
                (from.dimension == to.dimension)
                    .then(|| (measured.value * from.scale + from.shift - to.shift) / to.scale)
            }
        }
    }
}

/// A run of equal values of one series, to tell a stuck sensor from a steady one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Run {
    /// Event time of its first value, in ms since 1970.
    pub since_ms: i64,
    /// Number of equal values.
    pub count: u32,
}

impl Run {
    /// Takes the next plausible reading of the series, after the reading `before`, and returns whether the series is
    /// stuck. A gap ends the run, because the values within it are unknown.
    pub fn observe(&mut self, before: Option<(i64, f64)>, now: (i64, f64), flat_ms: i64) -> bool {
        let goes_on = before.is_some_and(|(time_ms, value)| {
            value.to_bits() == now.1.to_bits() && now.0.saturating_sub(time_ms) <= flat_ms / 2
        });
        if goes_on {
            self.count = self.count.saturating_add(1);
        } else {
            *self = Self {
                since_ms: now.0,
                count: 1,
            };
        }
        self.count >= STUCK_READINGS && now.0.saturating_sub(self.since_ms) >= flat_ms
    }
}

/// Consecutive faults of one series or device. Each kind of fault is reported once per episode; an episode ends after
/// [`Episode::GOOD_ENDS`] good readings in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Episode {
    /// One bit for each verdict that was reported, at its [`Quality::code`].
    pub told: u16,
    /// Good readings in a row since the last fault.
    pub good: u16,
}

impl Episode {
    /// Number of good readings in a row that end an episode.
    pub const GOOD_ENDS: u16 = 10;

    /// Takes the verdict on the next reading and returns whether it must be reported.
    pub fn observe(&mut self, verdict: Quality) -> bool {
        if !verdict.is_fault() {
            if self.told != 0 && verdict == Quality::Good {
                self.good += 1;
                if self.good >= Self::GOOD_ENDS {
                    *self = Self::default();
                }
            }
            return false;
        }
        self.good = 0;
        let bit = 1 << verdict.code();
        let new = self.told & bit == 0;
        self.told |= bit;
        new
    }
}

/// The quantity that a unit measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dimension {
    Rate,
    Time,
    Number,
    Temperature,
}

/// A unit: `base = value × scale + shift`, in the base unit of its dimension (per minute, ms, 1, degree Celsius).
#[derive(Clone, Copy, Debug)]
struct Unit {
    dimension: Dimension,
    scale: f64,
    shift: f64,
}

/// The known UCUM units, without annotations.
const UNITS: [(&str, Dimension, f64, f64); 19] = [
    ("/min", Dimension::Rate, 1.0, 0.0),
    ("1/min", Dimension::Rate, 1.0, 0.0),
    ("min-1", Dimension::Rate, 1.0, 0.0),
    ("/s", Dimension::Rate, 60.0, 0.0),
    ("1/s", Dimension::Rate, 60.0, 0.0),
    ("Hz", Dimension::Rate, 60.0, 0.0),
    ("/h", Dimension::Rate, 1.0 / 60.0, 0.0),
    ("us", Dimension::Time, 0.001, 0.0),
    ("ms", Dimension::Time, 1.0, 0.0),
    ("s", Dimension::Time, 1_000.0, 0.0),
    ("min", Dimension::Time, 60_000.0, 0.0),
    // An annotation alone, such as {steps}, is the unit 1 (UCUM §12).
    ("", Dimension::Number, 1.0, 0.0),
    ("1", Dimension::Number, 1.0, 0.0),
    ("%", Dimension::Number, 0.01, 0.0),
    ("[ppth]", Dimension::Number, 0.001, 0.0),
    ("Cel", Dimension::Temperature, 1.0, 0.0),
    ("K", Dimension::Temperature, 1.0, -273.15),
    ("[degF]", Dimension::Temperature, 5.0 / 9.0, -160.0 / 9.0),
    ("[degRe]", Dimension::Temperature, 1.25, 0.0),
];

/// The unit of a UCUM code. Annotations in braces have no meaning (UCUM §6): `{beats}/min` is `/min`.
fn unit(code: &str) -> Option<Unit> {
    let bare: String;
    let known = match (code.find('{'), code.rfind('}')) {
        (Some(open), Some(close)) if open < close => {
            bare = [&code[..open], &code[close + 1..]].concat();
            bare.as_str()
        }
        _ => code,
    };
    let found = UNITS.iter().find(|(name, ..)| *name == known)?;
    Some(Unit {
        dimension: found.1,
        scale: found.2,
        shift: found.3,
    })
}

#[cfg(test)]
mod tests;
