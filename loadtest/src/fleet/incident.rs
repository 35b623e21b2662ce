//! Known incidents on some devices, so that a detector can be measured by which of them it finds and how late.

use serde::Serialize;

use super::event::Reading;

/// Metric that incidents change.
pub const METRIC: &str = "heart_rate";
/// Height of a level shift in beats per minute: more than a body at rest explains, less than a body at work reaches.
const SHIFT: f64 = 45.0;
/// Bias of the faulty firmware in beats per minute: too small to be visible in a single device.
const TOO_HIGH: f64 = 5.0;

/// Kind of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The value rises and stays high.
    LevelShift,
    /// The sensor repeats its last value.
    FlatLine,
    /// The sensor reports 0, like a monitor that has lost its lead.
    Dropout,
    /// The device gets a firmware that reads slightly too high.
    BadFirmware,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::LevelShift, Self::FlatLine, Self::Dropout, Self::BadFirmware];
    /// Kinds that affect a single device.
    const ALONE: [Self; 3] = [Self::LevelShift, Self::FlatLine, Self::Dropout];

    /// Name for reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LevelShift => "level shift",
            Self::FlatLine => "flat line",
            Self::Dropout => "dropout",
            Self::BadFirmware => "firmware regression",
        }
    }
}

/// One incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Incident {
    /// Kind of the incident.
    pub kind: Kind,
    /// Affected device.
    pub device: String,
    /// Event time of the first changed reading, in milliseconds since the Unix epoch.
    pub began_ms: i64,
}

/// An incident's state on its device.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) kind: Kind,
    held: Option<f64>,
    pub(super) began_ms: Option<i64>,
}

impl Planned {
    /// Assigns the incidents to the first devices, one each, in equal numbers per kind.
    pub(super) fn of_device(index: u32, of_each_kind: u32) -> Option<Self> {
        let kind = *Kind::ALONE.get(index.checked_div(of_each_kind)? as usize)?;
        Some(Self::new(kind))
    }

    pub(super) const fn new(kind: Kind) -> Self {
        Self {
            kind,
            held: None,
            began_ms: None,
        }
    }

    /// Changes the readings taken at `at_ms`.
    pub(super) fn happen(&mut self, at_ms: i64, readings: &mut [Reading]) {
        self.began_ms.get_or_insert(at_ms);
        for reading in readings.iter_mut().filter(|reading| reading.metric == METRIC) {
            reading.value = match self.kind {
                Kind::LevelShift => (reading.value + SHIFT).min(210.0),
                Kind::FlatLine => *self.held.get_or_insert(reading.value),
                Kind::Dropout => 0.0,
                Kind::BadFirmware => reading.value + TOO_HIGH,
            };
        }
    }
}
