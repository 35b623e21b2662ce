//! Known things that happen to some devices, so that whoever watches the fleet can be asked what of it was found, and how
//! late.

use serde::Serialize;

use super::event::Reading;

/// The metric that incidents change.
pub const METRIC: &str = "heart_rate";
/// How far a shifted level lies above what it would have been, in beats a minute: more than a body at rest explains, less
/// than a body at work reaches.
const SHIFT: f64 = 45.0;
/// How much too high the firmware that is rolled out reads, in beats a minute: too little to be seen in any one device.
const TOO_HIGH: f64 = 5.0;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The value rises and stays up.
    LevelShift,
    /// The sensor goes on saying what it said last.
    FlatLine,
    /// The sensor says 0, as a monitor does that has lost its lead.
    Dropout,
    /// The device gets a firmware that reads a little too high.
    BadFirmware,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::LevelShift, Self::FlatLine, Self::Dropout, Self::BadFirmware];
    /// Those that happen to one device alone.
    const ALONE: [Self; 3] = [Self::LevelShift, Self::FlatLine, Self::Dropout];

    /// For people.
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

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Incident {
    /// What.
    pub kind: Kind,
    /// To which device.
    pub device: String,
    /// The event time of the first reading that it changed, in milliseconds since the Unix epoch.
    pub began_ms: i64,
}

/// What a device has of it.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) kind: Kind,
    held: Option<f64>,
    pub(super) began_ms: Option<i64>,
}

impl Planned {
    /// The first devices have one each, as many of each kind.
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

    /// Changes what was measured at `at_ms`.
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
