//! Shifts: lasting changes in a series of minutes.

use crate::anomaly::Direction;
use crate::changes::online::ChangeDetector;
use crate::changes::{Change, ChangeKind};
use crate::finding::{ChangeDetail, Finding, FindingId, Kind, Origin, Severity};
use crate::time::MINUTE_MS;

/// The version of the method, stored in every finding it makes.
pub const MODEL: &str = "shift-1";

const DAY_MINUTES: i64 = 1_440;
/// Upper limit of the surprise: a smaller probability has no significant digits left.
const SURPRISE_MAX: f64 = 15.0;
/// Maximum number of notices about shifts of one series on one day; they are enough to show that it keeps shifting.
const TOLD_MAX: usize = 3;
/// Factor by which a cohort may grow or shrink and still count as the same.
const GROWTH_MAX: f64 = 1.25;

/// One value of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The minute, counted since 1970.
    pub minute: i64,
    /// The value; one that is not finite is skipped.
    pub value: f64,
    /// Number of records or readings it is computed from.
    pub records: u64,
}

/// The minimum size of a relevant change, however certain it is: the sum of an amount and a share of the value before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Amount in the unit of the series.
    pub amount: f64,
    /// Fraction of the value before the change.
    pub share: f64,
}

/// A series in order of time: the two days (UTC) that are judged, and the day before them.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in findings, such as `kpi/reject_rate/stale`.
    pub name: String,
    /// The name of the KPI or the metric.
    pub metric: String,
    /// The UCUM unit of the values.
    pub unit: String,
    /// The reference subtracted from the values, in words with a leading space; empty for none.
    pub beside: &'static str,
    /// The direction of change that people are notified of; [`Direction::Neither`] for both.
    pub worse: Direction,
    /// Smaller changes are skipped.
    pub least: Size,
    /// Whether the values are means over a group of devices. A shift while such a group grows or shrinks may be an
    /// effect of its membership, so it is not notified.
    pub of_crowd: bool,
    /// The values, in order of time.
    pub points: Vec<Point>,
}

/// The shifts on the last two days (UTC) of each of these series. The series are judged together: the more there are,
/// the more certain each shift has to be.
///
/// Each day's shifts come from a detector that starts at the beginning of the day before, so every run of the job on
/// the same values finds the same shifts under the same ids; see also [`news`]. A series is skipped until it is a day
/// old. People are notified of a level that got worse, unless it was the same at that time on the day before, which is
/// the daily rhythm.
#[must_use]
pub fn shifts(series: &[Series]) -> Vec<Finding> {
    let of_series = |one| of_series(one, series.len());
    series.iter().flat_map(of_series).collect()
}

fn of_series(series: &Series, together: usize) -> Vec<Finding> {
    let Some(last) = series.points.last() else {
        return Vec::new();
    };
    let today = last.minute.div_euclid(DAY_MINUTES);
    [today.saturating_sub(1), today]
        .into_iter()
        .flat_map(|day| of_day(series, day, together))
        .collect()
}

fn of_day(series: &Series, day: i64, together: usize) -> Vec<Finding> {
    let day_of = |point: &Point| point.minute.div_euclid(DAY_MINUTES);
    let is_seen =
        |point: &&Point| point.value.is_finite() && (day.saturating_sub(1)..=day).contains(&day_of(point));
    let seen: Vec<Point> = series.points.iter().filter(is_seen).copied().collect();
    let mut detector = ChangeDetector::among(together);
    let (mut found, mut told) = (Vec::new(), 0);
    for (at, point) in seen.iter().enumerate() {
        let change = detector.observe(point.value).filter(|_| day_of(point) == day);
        let shift = change.and_then(|change| Shift::new(series, change, &seen[..=at]));
        let Some(shift) = shift.filter(Shift::counts) else {
            continue;
        };
        let finding = shift.finding(told < TOLD_MAX);
        told += usize::from(finding.notify);
        found.push(finding);
    }
    found
}

/// A shift that is already stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The name of its series.
    pub series: String,
    /// Time of the shift, in milliseconds since 1970.
    pub time_ms: i64,
    /// Its earliest and latest possible time, in milliseconds since 1970.
    pub between_ms: (i64, i64),
}

impl Known {
    /// The shift that a finding is about.
    #[must_use]
    pub fn of(finding: &Finding) -> Self {
        let at = finding.time_ms;
        let change = finding.change.as_ref();
        Self {
            series: finding.series.clone(),
            time_ms: at,
            between_ms: change.map_or((at, at), |change| (change.earliest_ms, change.latest_ms)),
        }
    }

    /// Whether the two may be the same shift: one lies within the possible times of the other.
    fn is(&self, other: &Self) -> bool {
        let has = |one: &Self, at| (one.between_ms.0..=one.between_ms.1).contains(&at);
        self.series == other.series && (has(self, other.time_ms) || has(other, self.time_ms))
    }
}

/// The findings that are not known yet. Late values can move a shift by a few minutes, and the detectors of two days
/// can both find a shift at midnight: it still counts as one shift and is reported once.
#[must_use]
pub fn news(found: Vec<Finding>, mut known: Vec<Known>) -> Vec<Finding> {
    let mut is_new = |finding: &Finding| {
        let this = Known::of(finding);
        let is_new = !known.iter().any(|known| known.is(&this));
        known.push(this);
        is_new
    };
    found.into_iter().filter(|finding| is_new(finding)).collect()
}

/// A change of a series, at the time at which it was found.
struct Shift<'a> {
    series: &'a Series,
    change: Change,
    /// The points that the detector saw before the change, and since.
    before: &'a [Point],
    after: &'a [Point],
    first: Point,
    now: Point,
}

impl<'a> Shift<'a> {
    /// `None` if there is no point since the change.
    fn new(series: &'a Series, change: Change, seen: &'a [Point]) -> Option<Self> {
        let (before, after) = seen.split_at_checked(usize::try_from(change.index).ok()?)?;
        Some(Self {
            first: *series.points.first()?,
            now: *after.last()?,
            series,
            change,
            before,
            after,
        })
    }

    fn since(&self) -> i64 {
        self.after.first().unwrap_or(&self.now).minute
    }

    fn lasted(&self) -> i64 {
        self.now.minute.saturating_sub(self.since())
    }

    /// Whether the series covers a day before the change, and the change is large enough to matter.
    fn counts(&self) -> bool {
        let Change { before, after, .. } = self.change;
        let moved = match self.change.kind {
            ChangeKind::Slope => after * self.after.len() as f64,
            ChangeKind::Level | ChangeKind::Variance => after - before,
        };
        let Size { amount, share } = self.series.least;
        self.since().saturating_sub(self.first.minute) >= DAY_MINUTES
            && moved.abs() >= amount + share * before.abs()
    }

    /// Whether the mean at the same time on the day before was closer to the level after the change than to the level
    /// before it.
    fn is_rhythm(&self) -> bool {
        let yesterday = |minute: i64| minute.saturating_sub(DAY_MINUTES);
        let then = yesterday(self.since())..=yesterday(self.now.minute);
        let values = self
            .series
            .points
            .iter()
            .filter(|point| then.contains(&point.minute));
        let values: Vec<f64> = values
            .map(|point| point.value)
            .filter(|value| value.is_finite())
            .collect();
        let Change { before, after, .. } = self.change;
        2 * values.len() >= self.after.len() && (mean(&values) - after).abs() < (after - before).abs() / 2.0
    }

    /// Whether the number of readings behind the values has stayed about the same.
    fn is_same_crowd(&self) -> bool {
        let records = |points: &[Point]| {
            mean(
                &points
                    .iter()
                    .map(|point| point.records as f64)
                    .collect::<Vec<_>>(),
            )
        };
        let growth = records(self.after) / records(self.before);
        (1.0 / GROWTH_MAX..=GROWTH_MAX).contains(&growth)
    }

    fn direction(&self) -> Direction {
        match self.change.effect {
            effect if effect > 0.0 => Direction::Above,
            effect if effect < 0.0 => Direction::Below,
            _ => Direction::Neither,
        }
    }

    fn finding(&self, may_tell: bool) -> Finding {
        let (series, change, now) = (self.series, &self.change, self.now);
        let minute = |index: u64| {
            let mut seen = self.before.iter().chain(self.after);
            let point = usize::try_from(index).ok().and_then(|index| seen.nth(index));
            point.unwrap_or(&now).minute
        };
        let at_ms = |index| minute(index).saturating_mul(MINUTE_MS);
        let now_ms = now.minute.saturating_mul(MINUTE_MS);
        let origin = Origin::window(now_ms);
        let direction = self.direction();
        let surprise = (-(1.0 - change.confidence).log10()).min(SURPRISE_MAX);
        let is_level = change.kind == ChangeKind::Level;
        let is_worse = is_level && (series.worse == Direction::Neither || direction == series.worse);
        let is_rhythm = is_level && self.is_rhythm();
        let reach = 2.0 * ((change.after - change.before) / change.effect).abs();
        let rhythm = if is_rhythm { ", as on the day before" } else { "" };
        Finding {
            id: FindingId::new(Kind::Regression, &series.name, origin, MODEL),
            kind: Kind::Regression,
            series: series.name.clone(),
            device: None,
            metric: series.metric.clone(),
            time_ms: at_ms(change.index),
            detected_ms: now_ms,
            origin,
            value: Some(now.value),
            unit: series.unit.clone(),
            expected: (is_level && reach.is_finite())
                .then_some((change.before - reach, change.before + reach)),
            direction,
            effect: Some(change.effect),
            surprise: Some(surprise),
            severity: Severity::of(surprise, self.lasted() as f64, Severity::Low),
            reason: format!(
                "the {}{} changed and has held for {} min{rhythm}",
                change.kind.as_str(),
                series.beside,
                self.lasted()
            ),
            baseline_n: u32::try_from(change.index).unwrap_or(u32::MAX),
            baseline_age_ms: at_ms(change.index).saturating_sub(at_ms(0)),
            model: MODEL,
            notify: may_tell && is_worse && !is_rhythm && (!series.of_crowd || self.is_same_crowd()),
            group: None,
            change: Some(ChangeDetail {
                of: change.kind.as_str(),
                earliest_ms: at_ms(change.earliest),
                latest_ms: at_ms(change.latest),
                before: change.before,
                after: change.after,
                confidence: change.confidence,
            }),
            cohort: None,
        }
    }
}

/// The mean; NaN for no values.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
