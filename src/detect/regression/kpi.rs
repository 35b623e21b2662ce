//! Changes of a KPI of the pipeline: reject rate by reason, throughput, latency, quality rate.

use super::MODEL;
use crate::detect::anomaly::Direction;
use crate::detect::changes::online::ChangeDetector;
use crate::detect::changes::{Change, ChangeKind};
use crate::detect::finding::{ChangeDetail, Finding, FindingId, Kind, Origin, Severity};

const MINUTE_MS: i64 = 60_000;
const DAY_MINUTES: i64 = 1_440;
/// Surprise beyond this is this: what is left of the probability has no digits.
const SURPRISE_MAX: f64 = 15.0;

/// One minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The minute, since 1970.
    pub minute: i64,
    /// The value; one that is not finite is passed over.
    pub value: f64,
}

/// A KPI and what it was, in order of time. Three days are needed: yesterday, today, and the day before as their baseline.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    /// Which KPI, such as `reject_rate`.
    pub name: &'a str,
    /// Of what, such as a reason; empty where it is of everything.
    pub label: &'a str,
    /// The UCUM unit.
    pub unit: &'a str,
    /// The side that people are told of; [`Direction::Neither`] for both.
    pub worse: Direction,
    /// The minutes.
    pub points: &'a [Point],
}

/// The changes that showed on the last two days (UTC) of the series.
///
/// Each day's are those of a detector that began at the start of the day before, so every run of the job on the same
/// minutes finds the same ones under the same ids, and what a run finds again is stored already.
#[must_use]
pub fn shifts(series: &Series<'_>) -> Vec<Finding> {
    let Some(last) = series.points.last() else {
        return Vec::new();
    };
    let today = last.minute.div_euclid(DAY_MINUTES);
    [today.saturating_sub(1), today]
        .into_iter()
        .flat_map(|day| of_day(series, day))
        .collect()
}

fn of_day(series: &Series<'_>, day: i64) -> Vec<Finding> {
    let mut detector = ChangeDetector::new();
    let (mut seen, mut found) = (Vec::new(), Vec::new());
    for point in series.points.iter().filter(|point| point.value.is_finite()) {
        let of = point.minute.div_euclid(DAY_MINUTES);
        if of < day.saturating_sub(1) || of > day {
            continue;
        }
        seen.push(point.minute);
        if let Some(change) = detector.observe(point.value)
            && of == day
        {
            found.push(finding(series, &change, &seen, *point));
        }
    }
    found
}

fn finding(series: &Series<'_>, change: &Change, minutes: &[i64], now: Point) -> Finding {
    let at = |index: u64| {
        let minute = usize::try_from(index).ok().and_then(|index| minutes.get(index));
        minute.unwrap_or(&now.minute).saturating_mul(MINUTE_MS)
    };
    let name = match series.label {
        "" => format!("kpi/{}", series.name),
        label => format!("kpi/{}/{label}", series.name),
    };
    let origin = Origin::window(now.minute.saturating_mul(MINUTE_MS));
    let direction = match change.effect {
        effect if effect > 0.0 => Direction::Above,
        effect if effect < 0.0 => Direction::Below,
        _ => Direction::Neither,
    };
    let surprise = (-(1.0 - change.confidence).log10()).min(SURPRISE_MAX);
    let lasted = (at(u64::MAX) - at(change.index)) / MINUTE_MS;
    let is_level = change.kind == ChangeKind::Level;
    let reach = 2.0 * ((change.after - change.before) / change.effect).abs();
    Finding {
        id: FindingId::new(Kind::Regression, &name, origin, MODEL),
        kind: Kind::Regression,
        series: name,
        device: None,
        metric: series.name.to_owned(),
        time_ms: at(change.index),
        detected_ms: at(u64::MAX),
        origin,
        value: Some(now.value),
        unit: series.unit.to_owned(),
        expected: (is_level && reach.is_finite()).then_some((change.before - reach, change.before + reach)),
        direction,
        effect: Some(change.effect),
        surprise: Some(surprise),
        severity: Severity::of(surprise, lasted as f64, Severity::Low),
        reason: format!(
            "the {} changed and has stayed so for {lasted} min",
            change.kind.as_str()
        ),
        baseline_n: u32::try_from(change.index).unwrap_or(u32::MAX),
        baseline_age_ms: at(change.index).saturating_sub(at(0)),
        model: MODEL,
        notify: is_level && (series.worse == Direction::Neither || direction == series.worse),
        group: None,
        change: Some(ChangeDetail {
            of: change.kind.as_str(),
            earliest_ms: at(change.earliest),
            latest_ms: at(change.latest),
            before: change.before,
            after: change.after,
            confidence: change.confidence,
        }),
        cohort: None,
    }
}
