//! One lane of the clean topic: from its records to readings, findings and what devices run.
//!
//! ```text
//! record ─▶ decode ─▶ judge each reading ─▶ average the good ones ─▶ score ─▶ tell
//! ```
//!
//! Its state is a pure function of the lane's log: the same records give the same readings and findings, under the same
//! ids, on any worker and after any restart.

mod device;
mod snapshot;
#[cfg(test)]
mod tests;
mod versions;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::device::Device;
use self::versions::Interned;
use super::alert;
use super::anomaly::{self, Detector, Direction, Score};
use super::clean::{Decoder, Event, Measured, Undecodable};
use super::finding::{Finding, FindingId, Kind, Origin, Severity};
use super::quality::{self, Described, Episode, Metrics, Quality, Run};
use super::reading::{DeviceVersion, Reading, Token, Version};
use super::series::{Closed, Table, Window};

pub use snapshot::BadSnapshot;

/// The version of the quality stage, in its findings.
pub const QUALITY_MODEL: &str = "quality-1";

/// How lanes score. What stands here decides findings: after a change of it the detectors are rebuilt from the log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Readings are averaged over so many minutes before they are scored, 1 to 5. Default: 1.
    pub window_minutes: u8,
    /// Series (device and metric) that a lane remembers at most; those that were not heard of for longest are forgotten
    /// first. A series takes 580 bytes, with keys, index and a quarter of a device (`benches/detection/memory.rs`).
    /// Default: 200,000.
    pub series_max: u32,
    /// Devices that a lane remembers at most; one that was forgotten is told as if it were new. Default: 100,000.
    pub devices_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window_minutes: 1,
            series_max: 200_000,
            devices_max: 100_000,
        }
    }
}

impl Config {
    /// Notes what makes no sense.
    pub fn check(&self, check: &mut pulsegate_settings::Check) {
        check.range("window_minutes", self.window_minutes.into(), 1..=5);
        check.range("series_max", self.series_max.into(), 1..=400_000);
        check.range("devices_max", self.devices_max.into(), 1..=400_000);
    }

    fn window_ms(&self) -> i64 {
        i64::from(self.window_minutes) * 60_000
    }
}

/// What all lanes of a process go by.
pub struct Rules {
    /// How lanes score.
    pub lane: Config,
    /// What counts as a fault of clock or transport.
    pub quality: quality::Config,
    /// When people are told.
    pub alert: alert::Config,
    /// The metrics' table.
    pub metrics: Metrics,
}

/// A record of the clean topic.
#[derive(Clone, Copy, Debug)]
pub struct CleanRecord<'r> {
    /// Its offset.
    pub offset: i64,
    /// When the broker appended it, in ms since the Unix epoch.
    pub append_ms: i64,
    /// Its value.
    pub value: &'r [u8],
}

/// What records came to. It only grows until it is cleared.
#[derive(Debug, Default)]
pub struct Output {
    /// Every reading, in order.
    pub readings: Vec<Reading>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Devices that are new to the lane, or run something else than before. One that had to make room is new again.
    pub devices: Vec<DeviceVersion>,
    /// Readings by [`Quality::code`].
    pub verdicts: [u64; Quality::ALL.len()],
}

impl Output {
    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.readings.clear();
        self.findings.clear();
        self.devices.clear();
        self.verdicts = Default::default();
    }
}

/// How many of what a lane remembers had to make room for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Series.
    pub series: u64,
    /// Devices.
    pub devices: u64,
}

impl Evicted {
    /// How many of these came after `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            series: self.series - before.series,
            devices: self.devices - before.devices,
        }
    }
}

/// A record waits for the registry's answer about a schema id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedsSchema(pub u32);

/// One series of one device.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Series {
    /// Time and value of the last plausible reading.
    last: Option<(i64, f64)>,
    run: Run,
    episode: Episode,
    window: Window,
    detector: Detector,
    odd: alert::Episode,
    rest: alert::Rest,
}

/// A lane.
pub struct Lane {
    partition: i32,
    rules: Arc<Rules>,
    series: Table<(Token, u16), Series>,
    devices: Table<Token, Device>,
    interned: Interned,
}

/// Where a reading stands and whom it is about.
struct Place<'e> {
    device: Token,
    metric: u16,
    described: &'e Described,
    origin: Origin,
    time_ms: i64,
    append_ms: i64,
}

impl Lane {
    /// A lane that has seen nothing.
    #[must_use]
    pub fn new(partition: i32, rules: Arc<Rules>) -> Self {
        Self {
            partition,
            series: Table::new(rules.lane.series_max),
            devices: Table::new(rules.lane.devices_max),
            interned: Interned::default(),
            rules,
        }
    }

    /// How many series it remembers.
    #[must_use]
    pub const fn series(&self) -> u32 {
        self.series.len()
    }

    /// What had to make room since the lane was made.
    #[must_use]
    pub const fn evicted(&self) -> Evicted {
        Evicted {
            series: self.series.evicted(),
            devices: self.devices.evicted(),
        }
    }

    /// Bytes that its series and devices take.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.series.heap_bytes() + self.devices.heap_bytes()
    }

    /// Takes the next record.
    ///
    /// # Errors
    ///
    /// [`NeedsSchema`]: nothing was taken; come again with the same record when the id is known.
    pub fn observe(
        &mut self,
        record: &CleanRecord<'_>,
        decoder: &Decoder,
        out: &mut Output,
    ) -> Result<(), NeedsSchema> {
        match decoder.decode(record.value) {
            Ok(event) => self.event(record, &event, out),
            Err(Undecodable::NeedsSchema(id)) => return Err(NeedsSchema(id)),
            Err(trouble) => out.findings.push(self.undecodable(record, trouble)),
        }
        Ok(())
    }

    fn event(&mut self, record: &CleanRecord<'_>, event: &Event<'_>, out: &mut Output) {
        let rules = Arc::clone(&self.rules);
        let version = self.interned.version(&event.firmware, &event.model);
        let recorded_ms = event.recorded_at_ms.unwrap_or(record.append_ms);
        self.meet(record, event.device, &version, recorded_ms, out);
        let device = self.devices.enter(event.device);
        let described = |measured: &Measured<'_>| {
            let number = rules.metrics.find(&measured.metric)?;
            Some((number, rules.metrics.get(number)?))
        };
        // What explains the readings of an event may stand behind them.
        for measured in &event.readings {
            let time_ms = recorded_ms.saturating_add(measured.offset_ms);
            // One movement in the year 2100 would be the newest for good, and hide all that follow.
            if described(measured).is_some_and(|(_, described)| described.is_movement(measured))
                && rules.quality.believes(time_ms, record.append_ms)
            {
                device.moved(time_ms);
            }
        }
        out.readings.reserve(event.readings.len());
        for (index, measured) in (0..).zip(&event.readings) {
            let origin = Origin {
                partition: self.partition,
                offset: record.offset,
                index,
            };
            let time_ms = recorded_ms.saturating_add(measured.offset_ms);
            let (metric, value, quality) = match described(measured) {
                Some((number, described)) => {
                    let place = Place {
                        device: event.device,
                        metric: number,
                        described,
                        origin,
                        time_ms,
                        append_ms: record.append_ms,
                    };
                    let (value, quality) = self.judge(&place, measured, out);
                    let metric = if quality == Quality::UnknownUnit {
                        self.interned.metric(&measured.metric, unit_of(measured))
                    } else {
                        Arc::clone(&described.metric)
                    };
                    (metric, value, quality)
                }
                None => {
                    let metric = self.interned.metric(&measured.metric, unit_of(measured));
                    (metric, measured.value, Quality::UnknownMetric)
                }
            };
            out.verdicts[quality as usize] += 1;
            out.readings.push(Reading {
                time_ms,
                append_ms: record.append_ms,
                device: event.device,
                metric,
                version: Arc::clone(&version),
                value,
                quality: quality.code(),
                partition: self.partition,
                offset: record.offset,
                index,
            });
        }
    }

    /// Makes the device known, and tells of it when it is new or runs something else than before.
    fn meet(
        &mut self,
        record: &CleanRecord<'_>,
        token: Token,
        version: &Arc<Version>,
        recorded_ms: i64,
        out: &mut Output,
    ) {
        let device = self.devices.enter(token);
        if !self.rules.quality.believes(recorded_ms, record.append_ms) || !device.runs(version, recorded_ms) {
            return;
        }
        out.devices.push(DeviceVersion {
            device: token,
            since_ms: recorded_ms,
            append_ms: record.append_ms,
            version: Arc::clone(version),
            partition: self.partition,
            offset: record.offset,
        });
    }

    /// The value in the metric's unit and the verdict on it. What is good goes on to be scored.
    fn judge(&mut self, place: &Place<'_>, measured: &Measured<'_>, out: &mut Output) -> (f64, Quality) {
        let (value, verdict) = place.described.judge(measured);
        let window_ms = self.rules.lane.window_ms();
        let device = self.devices.enter(place.device);
        let series = self.series.enter((place.device, place.metric));
        let believed = self.rules.quality.believes(place.time_ms, place.append_ms);
        let verdict = series.judge(place, value, verdict, believed, window_ms);
        // A clock or a connection is the device's; everything else is the sensor's.
        let tell = if verdict.is_of_device() {
            device.episode.observe(verdict)
        } else {
            let clock = if verdict == Quality::Good {
                verdict
            } else {
                Quality::Uncertain
            };
            device.episode.observe(clock);
            series.episode.observe(verdict)
        };
        if tell {
            let since_ms = if verdict == Quality::Stuck {
                series.run.since_ms
            } else {
                place.time_ms
            };
            let mut finding = faulty(place, value, verdict, since_ms);
            if verdict == Quality::UnknownUnit {
                unit_of(measured).clone_into(&mut finding.unit);
            }
            out.findings.push(finding);
        }
        if verdict == Quality::Good
            // Movement explains, and is not explained: how much somebody walks is nothing to score.
            && place.described.activity_min.is_none()
            && let Some(closed) = series.window.observe(place.time_ms, value, window_ms)
            // What movement explains is neither odd nor usual.
            && !(place.described.rest_only && device.is_moving(closed.start_ms, window_ms))
        {
            let score = series.detector.observe(closed.start_ms, closed.mean);
            if series
                .odd
                .observe(&self.rules.alert, closed.start_ms, oddity(score.surprise))
            {
                self.tell(place, odd(place, closed, &score), out);
            }
        }
        (value, verdict)
    }

    /// Adds a finding about a device, and decides whether people are to be told of it.
    fn tell(&mut self, place: &Place<'_>, mut finding: Finding, out: &mut Output) {
        let device = self.devices.enter(place.device);
        let series = self.series.enter((place.device, place.metric));
        let (alert, time_ms) = (&self.rules.alert, finding.time_ms);
        finding.notify = alert::is_news(finding.severity, finding.baseline_age_ms)
            && alert::notify(alert, &mut series.rest, &mut device.budget, time_ms);
        out.findings.push(finding);
    }

    /// The finding that says that offsets were deleted before they were read; `append_ms` is when the first record after
    /// them was appended.
    #[must_use]
    pub fn lost(&self, offsets: std::ops::Range<i64>, append_ms: i64) -> Finding {
        let origin = Origin {
            partition: self.partition,
            offset: offsets.start,
            index: 0,
        };
        Finding {
            reason: format!(
                "offsets {} to {} were deleted before they were read",
                offsets.start, offsets.end
            ),
            severity: Severity::High,
            notify: true,
            ..blank(format!("clean/{}", self.partition), origin, append_ms)
        }
    }

    fn undecodable(&self, record: &CleanRecord<'_>, trouble: Undecodable) -> Finding {
        let series = format!("clean/{}", self.partition);
        let origin = Origin {
            partition: self.partition,
            offset: record.offset,
            index: 0,
        };
        Finding {
            reason: format!("the record cannot be read: {trouble}"),
            // There are no readings of it, whoever looks for them.
            severity: Severity::Medium,
            ..blank(series, origin, record.append_ms)
        }
    }
}

impl Series {
    /// The verdict on the next reading, which by itself has `verdict`, beside what came before it.
    fn judge(
        &mut self,
        place: &Place<'_>,
        value: f64,
        verdict: Quality,
        believed: bool,
        window_ms: i64,
    ) -> Quality {
        if !believed {
            return Quality::ClockSkew;
        }
        if matches!(
            verdict,
            Quality::Implausible | Quality::Sentinel | Quality::UnknownUnit
        ) {
            return verdict;
        }
        let (last, now) = (self.last, (place.time_ms, value));
        if last.is_some_and(|last| last.0 == now.0 && last.1.to_bits() == value.to_bits()) {
            return Quality::Duplicate;
        }
        if self.window.is_past(place.time_ms, window_ms) {
            return Quality::Late;
        }
        self.last = Some(now);
        let flat_ms = place.described.flat_ms;
        if flat_ms.is_some_and(|flat_ms| self.run.observe(last, now, flat_ms)) {
            return Quality::Stuck;
        }
        verdict
    }
}

/// The unit that the device says, if it says one.
fn unit_of<'m>(measured: &'m Measured<'_>) -> &'m str {
    measured.unit.as_deref().unwrap_or_default()
}

/// The decades of surprise that make an oddity of one half.
const HALF_ODD: f64 = 4.5;

/// How odd a value is, from 0 to 1. Made of the surprise, which lasts as long as what is odd does; the detector's score
/// tells of it once and then rests, which is no way to say three of five.
fn oddity(surprise: f64) -> f64 {
    surprise.max(0.0) / (surprise.max(0.0) + HALF_ODD)
}

/// For how long a series is odd when that becomes a finding: three of five windows.
const ODD_MINUTES: f64 = 3.0;

/// The finding of an odd stretch of a series.
fn odd(place: &Place<'_>, closed: Closed, score: &Score) -> Finding {
    let metric = &place.described.metric;
    let series = format!("{}/{}", place.device.as_str(), metric.name.as_str());
    Finding {
        id: FindingId::new(Kind::Anomaly, &series, place.origin, anomaly::MODEL),
        kind: Kind::Anomaly,
        device: Some(*place.device.bytes()),
        metric: metric.name.as_str().to_owned(),
        time_ms: closed.start_ms,
        value: Some(closed.mean),
        unit: metric.unit.as_str().to_owned(),
        expected: Some(score.expected),
        direction: score.direction,
        effect: Some(score.effect),
        surprise: Some(score.surprise),
        severity: Severity::of(score.surprise, ODD_MINUTES, Severity::Low),
        reason: score.reason.words().to_owned(),
        baseline_n: score.baseline_n,
        baseline_age_ms: score.baseline_age_ms,
        model: anomaly::MODEL,
        ..blank(series, place.origin, place.append_ms)
    }
}

/// The finding that opens an episode.
fn faulty(place: &Place<'_>, value: f64, verdict: Quality, since_ms: i64) -> Finding {
    let of_device = verdict.is_of_device();
    let metric = if of_device {
        ""
    } else {
        place.described.metric.name.as_str()
    };
    let series = format!(
        "{}/{}",
        place.device.as_str(),
        if of_device { "clock" } else { metric }
    );
    let (low, high) = place.described.plausible;
    let outside = matches!(verdict, Quality::Implausible | Quality::Sentinel);
    Finding {
        device: Some(*place.device.bytes()),
        metric: metric.to_owned(),
        // A time that can't be believed is not when anything happened.
        time_ms: if verdict == Quality::ClockSkew {
            place.append_ms
        } else {
            since_ms
        },
        value: Some(value),
        unit: place.described.metric.unit.as_str().to_owned(),
        expected: outside.then_some((low, high)),
        direction: match value {
            value if outside && value < low => Direction::Below,
            value if outside && value > high => Direction::Above,
            _ => Direction::Neither,
        },
        reason: match verdict {
            Quality::Stuck => format!(
                "the same value for {} min",
                place.time_ms.saturating_sub(since_ms) / 60_000
            ),
            _ => verdict.words().to_owned(),
        },
        ..blank(series, place.origin, place.append_ms)
    }
}

/// A quality finding about nothing in particular.
fn blank(series: String, origin: Origin, append_ms: i64) -> Finding {
    Finding {
        id: FindingId::new(Kind::Quality, &series, origin, QUALITY_MODEL),
        kind: Kind::Quality,
        series,
        device: None,
        metric: String::new(),
        time_ms: append_ms,
        detected_ms: append_ms,
        origin,
        value: None,
        unit: String::new(),
        expected: None,
        direction: Direction::Neither,
        effect: None,
        surprise: None,
        severity: Severity::Low,
        reason: String::new(),
        baseline_n: 0,
        baseline_age_ms: 0,
        model: QUALITY_MODEL,
        notify: false,
        group: None,
        change: None,
        cohort: None,
    }
}
