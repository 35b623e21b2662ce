//! One lane of the clean topic: from its records to readings, findings and device versions.
//!
//! ```text
//! record ─▶ decode ─▶ judge each reading ─▶ average the good ones ─▶ score ─▶ notify
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

/// The version of the quality stage, stored in its findings.
pub const QUALITY_MODEL: &str = "quality-1";

/// How lanes score. These settings determine the findings: after a change, the detectors are rebuilt from the log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Number of minutes over which readings are averaged before they are scored, 1 to 5. Default: 1.
    pub window_minutes: u8,
    /// Maximum number of series (device and metric) that a lane remembers; those without recent readings are evicted
    /// first. A series takes 580 bytes, with keys, index and a quarter of a device (`benches/detection/memory.rs`).
    /// Default: 200,000.
    pub series_max: u32,
    /// Maximum number of devices that a lane remembers; an evicted device is reported as new when it appears again.
    /// Default: 100,000.
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
    /// Reports values that are out of range.
    pub fn check(&self, check: &mut pulsegate_settings::Check) {
        check.range("window_minutes", self.window_minutes.into(), 1..=5);
        check.range("series_max", self.series_max.into(), 1..=400_000);
        check.range("devices_max", self.devices_max.into(), 1..=400_000);
    }

    fn window_ms(&self) -> i64 {
        i64::from(self.window_minutes) * 60_000
    }
}

/// The settings that all lanes of a process share.
pub struct Rules {
    /// How lanes score.
    pub lane: Config,
    /// Limits beyond which a reading's time is a fault of clock or transport.
    pub quality: quality::Config,
    /// When people are notified.
    pub alert: alert::Config,
    /// The metrics table.
    pub metrics: Metrics,
}

/// A record of the clean topic.
#[derive(Clone, Copy, Debug)]
pub struct CleanRecord<'r> {
    /// Its offset in the partition.
    pub offset: i64,
    /// When the broker appended it, in ms since the Unix epoch.
    pub append_ms: i64,
    /// The encoded event.
    pub value: &'r [u8],
}

/// The output of the records observed since it was last cleared.
#[derive(Debug, Default)]
pub struct Output {
    /// Every reading, in order.
    pub readings: Vec<Reading>,
    /// The findings, in order.
    pub findings: Vec<Finding>,
    /// Devices that are new to the lane or run another version than before. An evicted device is new again.
    pub devices: Vec<DeviceVersion>,
    /// Number of readings by [`Quality::code`].
    pub verdicts: [u64; Quality::ALL.len()],
}

impl Output {
    /// Removes everything and keeps the allocated memory.
    pub fn clear(&mut self) {
        self.readings.clear();
        self.findings.clear();
        self.devices.clear();
        self.verdicts = Default::default();
    }
}

/// Number of entries that a lane evicted to stay below its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Series evicted to stay within [`Config::series_max`].
    pub series: u64,
    /// Devices evicted to stay within [`Config::devices_max`].
    pub devices: u64,
}

impl Evicted {
    /// The evictions after `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            series: self.series - before.series,
            devices: self.devices - before.devices,
        }
    }
}

/// A record cannot be decoded until the registry has answered for this schema id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedsSchema(pub u32);

/// The state of one series of one device.
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

/// The state of one lane; see the [module](self).
pub struct Lane {
    partition: i32,
    rules: Arc<Rules>,
    series: Table<(Token, u16), Series>,
    devices: Table<Token, Device>,
    interned: Interned,
}

/// The origin, the device and the metric of a reading.
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

    /// Number of series it remembers.
    #[must_use]
    pub const fn series(&self) -> u32 {
        self.series.len()
    }

    /// Evictions since the lane was created.
    #[must_use]
    pub const fn evicted(&self) -> Evicted {
        Evicted {
            series: self.series.evicted(),
            devices: self.devices.evicted(),
        }
    }

    /// Heap memory of its series and devices, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.series.heap_bytes() + self.devices.heap_bytes()
    }

    /// Processes the next record.
    ///
    /// # Errors
    ///
    /// [`NeedsSchema`]: the state is unchanged; retry with the same record when the id is known.
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
        // The steps that explain a reading may come after it in the event.
        for measured in &event.readings {
            let time_ms = recorded_ms.saturating_add(measured.offset_ms);
            // One movement dated in the year 2100 would stay the newest forever and hide all later ones.
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

    /// Registers the device, and reports it when it is new or runs another version than before.
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

    /// The value in the metric's unit and the verdict on it. Good readings are averaged and scored.
    fn judge(&mut self, place: &Place<'_>, measured: &Measured<'_>, out: &mut Output) -> (f64, Quality) {
        let (value, verdict) = place.described.judge(measured);
        let window_ms = self.rules.lane.window_ms();
        let device = self.devices.enter(place.device);
        let series = self.series.enter((place.device, place.metric));
        let believed = self.rules.quality.believes(place.time_ms, place.append_ms);
        let verdict = series.judge(place, value, verdict, believed, window_ms);
        // Clock and connection faults belong to the device; all other faults belong to the sensor.
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
            // Activity is not scored: it explains other readings, and how much the wearer walks is no anomaly.
            && place.described.activity_min.is_none()
            && let Some(closed) = series.window.observe(place.time_ms, value, window_ms)
            // A value explained by movement is not scored and not learnt.
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

    /// Adds a finding about a device, and decides whether people are notified of it.
    fn tell(&mut self, place: &Place<'_>, mut finding: Finding, out: &mut Output) {
        let device = self.devices.enter(place.device);
        let series = self.series.enter((place.device, place.metric));
        let (alert, time_ms) = (&self.rules.alert, finding.time_ms);
        finding.notify = alert::is_news(finding.severity, finding.baseline_age_ms)
            && alert::notify(alert, &mut series.rest, &mut device.budget, time_ms);
        out.findings.push(finding);
    }

    /// The finding for offsets that retention deleted before they were read; `append_ms` is when the first record after
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
            // Above low, because its readings are missing from the database.
            severity: Severity::Medium,
            ..blank(series, origin, record.append_ms)
        }
    }
}

impl Series {
    /// The verdict on the next reading, given its own `verdict` and the readings before it.
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

/// The unit that the device gave; empty if it gave none.
fn unit_of<'m>(measured: &'m Measured<'_>) -> &'m str {
    measured.unit.as_deref().unwrap_or_default()
}

/// The surprise, in decades, at which the oddity is one half.
const HALF_ODD: f64 = 4.5;

/// How odd a value is, from 0 to 1. Computed from the surprise, which lasts as long as the anomaly. The detector's own
/// score reports an anomaly once and then rests, so it cannot be high for three of five windows.
fn oddity(surprise: f64) -> f64 {
    surprise.max(0.0) / (surprise.max(0.0) + HALF_ODD)
}

/// Duration of an anomaly when it becomes a finding, in minutes: three of five windows.
const ODD_MINUTES: f64 = 3.0;

/// The finding that opens an anomaly episode of a series.
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

/// The finding that opens a quality episode.
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
        // The device's time is wrong here, so the finding takes the broker's.
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

/// A quality finding with only its id, series and times set; the basis of all findings.
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
