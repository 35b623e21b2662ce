//! Quality before everything else: is a reading physiology at all, or a fault of sensor, clock or transport?
//!
//! What is not good is stored with its verdict, never scored and never in a baseline; how much of it there is, is a
//! series of its own. Metrics, their units and their plausible ranges are data (`schemas/metrics.toml`).

use std::collections::HashMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::clean::Measured;
use super::reading::{Metric, Name};

/// The verdict on a reading, as `readings.quality` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quality {
    /// Nothing is wrong with it.
    Good,
    /// The device is not sure of it.
    Uncertain,
    /// The device says that it is bad.
    Bad,
    /// Outside the range in which it could be a measurement of a living person.
    Implausible,
    /// A number that stands for "no reading", such as 0 or 255.
    Sentinel,
    /// The same value for longer than a living person gives it.
    Stuck,
    /// The same value at the same time as the reading before.
    Duplicate,
    /// Its time is after that of the broker, or longer before it than any device keeps readings.
    ClockSkew,
    /// Older than what was already seen of its series.
    Late,
    /// In a unit that is none of the metric.
    UnknownUnit,
    /// Of a metric that nobody described: stored, and never scored.
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

    /// The number in the database: a verdict keeps its number for ever.
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
            Self::Uncertain => "the device is not sure of it",
            Self::Bad => "the device says that it is bad",
            Self::Implausible => "outside the plausible range of the metric",
            Self::Sentinel => "a number that stands for no reading",
            Self::Stuck => "the same value for too long",
            Self::Duplicate => "the same reading twice",
            Self::ClockSkew => "the device's clock is far from the broker's",
            Self::Late => "older than what was already seen of the series",
            Self::UnknownUnit => "in a unit that is none of the metric",
            Self::UnknownMetric => "of a metric that is not described",
        }
    }

    /// Whether it is the fault of the device's clock or connection, whatever it measures.
    #[must_use]
    pub const fn is_of_device(self) -> bool {
        matches!(self, Self::ClockSkew | Self::Late)
    }

    /// Whether it opens an episode, which is a finding. What a device merely doubts, and what nobody described, does not:
    /// nothing is wrong that somebody could see to.
    #[must_use]
    pub const fn is_fault(self) -> bool {
        !matches!(self, Self::Good | Self::Uncertain | Self::UnknownMetric)
    }
}

/// What counts as a fault of clock or transport.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How far a reading's time may be after the broker's, in seconds. Default: 300.
    pub ahead_max_s: u32,
    /// How far it may be before it, in days: as long as a device keeps what it could not upload. Default: 90.
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
    /// Notes what makes no sense.
    pub fn check(&self, check: &mut pulsegate_settings::Check) {
        check.range("ahead_max_s", self.ahead_max_s.into(), 0..=86_400);
        check.range("behind_max_days", self.behind_max_days.into(), 1..=36_500);
    }

    /// Whether a reading's time can be believed, beside the broker's.
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

/// The longest `schemas/metrics.toml` that is read, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// The most metrics that can be described.
const METRICS_MAX: usize = 1_000;
/// A run of equal values is only called stuck when it has at least so many.
const STUCK_READINGS: u32 = 10;
/// What sensors send for "no reading" (all bits set in 8, 16 or 32 bits, all nines, zero, minus one). Only looked at
/// outside the plausible range.
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

/// What is known of one metric.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its name and its unit, as readings carry them.
    pub metric: Arc<Metric>,
    /// The LOINC code, where one fits.
    pub loinc: Option<String>,
    /// The range outside which a reading is a fault of the sensor.
    pub plausible: (f64, f64),
    /// How long the same value may last, in ms; none where it may for ever, as 100 % or no step at all.
    pub flat_ms: Option<i64>,
    /// A reading of at least so much says that the wearer moves.
    pub activity_min: Option<f64>,
    /// Only scored, and only learnt from, while the wearer rests: movement moves it, and explains it.
    pub rest_only: bool,
}

/// The metrics' table.
#[derive(Clone, Debug)]
pub struct Metrics {
    described: Vec<Described>,
    names: HashMap<Box<str>, u16, foldhash::fast::FixedState>,
}

/// A table that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    /// Not TOML, or not of this form.
    #[error("{0}")]
    Malformed(String),
    /// An entry makes no sense.
    #[error("metric `{0}`: {1}")]
    Senseless(String, &'static str),
    /// Too long.
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
    /// Reads the table.
    ///
    /// # Errors
    ///
    /// [`MetricsError`], with the metric that is wrong.
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
                    "`plausible` is a range [low, high]",
                ));
            }
            if unit(&entry.unit).is_none() {
                return Err(MetricsError::Senseless(
                    name,
                    "its `unit` is none that is known here; see `UNITS`",
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

    /// The number of a metric in this table.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u16> {
        self.names.get(name).copied()
    }

    /// The metric with a number that [`Metrics::find`] gave.
    #[must_use]
    pub fn get(&self, index: u16) -> Option<&Described> {
        self.described.get(usize::from(index))
    }

    /// All metrics, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Described> {
        self.described.iter()
    }
}

impl Described {
    /// The value in the metric's own unit, and what is wrong with the reading by itself. A value whose unit is unknown
    /// stays as it is.
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
                // What a newer schema may call it, it is not good.
                Some(_) => Quality::Bad,
            }
        };
        (value, verdict)
    }

    /// The reading says, and is believed to say, that the device moves.
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
    /// Since when, in event time.
    pub since_ms: i64,
    /// How many.
    pub count: u32,
}

impl Run {
    /// Goes on with the next plausible reading of the series; `before` is the one before it. True when the series is
    /// stuck. A gap ends the run: nobody knows what was in it.
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

/// The faults of one series or device that belong together. Each kind of fault is told once an episode; an episode ends
/// after [`Episode::GOOD_ENDS`] good readings in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Episode {
    /// A bit for each verdict that was told.
    pub told: u16,
    /// Good readings in a row since the last fault.
    pub good: u16,
}

impl Episode {
    /// Good readings in a row that end an episode.
    pub const GOOD_ENDS: u16 = 10;

    /// Goes on with the verdict on the next reading. True when it has to be told.
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

/// What a unit measures.
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

/// The units of UCUM that devices measure these things in, without annotations.
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

/// The unit of a UCUM code, whose annotations in braces mean nothing (UCUM §6): `{beats}/min` is `/min`.
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
