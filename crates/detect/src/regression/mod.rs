//! Regressions: the effect of a rollout on a metric, and shifts of a pipeline KPI or of a cohort's mean.
//!
//! A rollout is judged by difference in differences. For each device, the difference is its median after the rollout
//! minus its median before it (a day's median is the median of its hourly medians). The effect is the mean difference
//! of the devices that changed their firmware minus that of the contemporaneous controls that did not, so influences on
//! both cancel out. By Welch's test, the effect must hold on both days after the rollout, exceed four standard errors
//! over both together, and stay under a false discovery rate of 1 % among all cohorts and metrics tested together
//! (Benjamini & Hochberg 1995).
//!
//! KPIs and cohorts are watched for changes at any time ([`shifts`]), by the online detector run over stored minutes.
//! It does not run in the lanes, because a lane sees only the devices of its partition, while a cohort's mean covers
//! all of them. Over stored minutes it needs no state of its own, and every run gives the same result. The series
//! watched for a cohort is its difference from the rest of its model ([`cohorts`]).

mod cohort;
pub mod comparison;
mod pipeline;
pub mod schedule;
mod shift;
mod statistics;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::comparison::{Times, is_comparable};
use self::statistics::{Welch, discoveries, median, welch};
use super::anomaly::Direction;
use super::finding::{ChangeDetail, Cohort, Finding, FindingId, Kind, Origin, Severity};
use super::reading::{DeviceMedian, Rollout, Token};
use crate::time::DAY_MS;

pub use cohort::cohorts;
pub use pipeline::{Stored, pipeline};
pub use shift::{Known, MODEL as SHIFT_MODEL, Point, Series, Size, news, shifts};

/// The version of the method, stored in every finding it makes.
pub const MODEL: &str = "regression-2";

/// Minimum difference in standard errors, over both days and over each day alone.
const ERRORS_MIN: f64 = 4.0;
const ERRORS_DAY_MIN: f64 = 2.0;
/// Minimum difference in standard deviations of the controls' day-to-day differences; a smaller one is irrelevant,
/// however certain it is.
const EFFECT_MIN: f64 = 0.05;
/// Devices are clipped at this many scales from the median, so that a broken one does not dominate its cohort.
const CLIP: f64 = 6.0;
/// The false discovery rate.
const RATE: f64 = 0.01;

/// The judgement on one metric of one rollout.
struct Judged<'r> {
    rollout: &'r Rollout,
    metric: &'r str,
    unit: &'r str,
    pooled: Welch,
    holds: bool,
    /// The median before and after the rollout, over the treated devices.
    before: f64,
    after: f64,
}

/// A device's medians in one metric: the day before, and the two days after.
#[derive(Clone, Copy, Default)]
struct Days {
    before: Option<f64>,
    first: Option<f64>,
    second: Option<f64>,
}

impl Days {
    fn take(&mut self, row: &DeviceMedian) {
        let day = match row.day {
            -1 => &mut self.before,
            1 => &mut self.first,
            2 => &mut self.second,
            _ => return,
        };
        *day = Some(row.median);
    }

    fn after(&self) -> Option<f64> {
        match (self.first, self.second) {
            (Some(first), Some(second)) => Some(first / 2.0 + second / 2.0),
            (first, second) => first.or(second),
        }
    }
}

/// The medians of each device in one metric, for treated devices (`true`) and controls.
type Devices = BTreeMap<(bool, Token), Days>;

/// The regressions and improvements among the rollouts, each given with the medians of its devices and controls. Rows
/// that are not finite are skipped. Findings are ordered by their contribution, the number of devices times the effect.
#[must_use]
pub fn assess(rollouts: &[(Rollout, Vec<DeviceMedian>)]) -> Vec<Finding> {
    let mut judged: Vec<Judged<'_>> = rollouts
        .iter()
        .flat_map(|(rollout, rows)| judge(rollout, rows))
        .collect();
    let surprises: Vec<f64> = judged.iter().map(|judged| judged.pooled.surprise).collect();
    let mut discovered = discoveries(&surprises, RATE).into_iter();
    judged.retain(|judged| {
        let discovered = discovered.next().unwrap_or(false);
        discovered && judged.holds
    });
    judged.sort_by(|one, other| other.contribution().total_cmp(&one.contribution()));
    (1..)
        .zip(&judged)
        .map(|(rank, judged)| judged.finding(rank))
        .collect()
}

fn judge<'r>(rollout: &'r Rollout, rows: &'r [DeviceMedian]) -> Vec<Judged<'r>> {
    let mut metrics: BTreeMap<(&str, &str), Devices> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.median.is_finite()) {
        let devices = metrics.entry((&row.metric, &row.unit)).or_default();
        devices.entry((row.treated, row.device)).or_default().take(row);
    }
    let judge = |((metric, unit), devices): (&(&'r str, &'r str), &Devices)| {
        let compare = |after: fn(&Days) -> Option<f64>| compare(devices, after);
        let pooled = compare(Days::after)?;
        let holds = |day: Option<Welch>| {
            day.is_some_and(|day| {
                day.errors.abs() >= ERRORS_DAY_MIN && day.errors.signum() == pooled.errors.signum()
            })
        };
        let treated = devices
            .iter()
            .filter(|((treated, _), _)| *treated)
            .map(|(_, days)| days);
        let mut both: (Vec<f64>, Vec<f64>) = treated
            .filter_map(|days| Some((days.before?, days.after()?)))
            .unzip();
        Some(Judged {
            rollout,
            metric,
            unit,
            pooled,
            holds: holds(compare(|days| days.first))
                && holds(compare(|days| days.second))
                && pooled.errors.abs() > ERRORS_MIN
                && pooled.effect().abs() >= EFFECT_MIN,
            before: median(&mut both.0),
            after: median(&mut both.1),
        })
    };
    metrics.iter().filter_map(judge).collect()
}

/// Compares treated devices with controls by the difference of `after` from the day before.
fn compare(devices: &Devices, after: fn(&Days) -> Option<f64>) -> Option<Welch> {
    let differences = |side: bool| -> Vec<f64> {
        let days = devices
            .iter()
            .filter(|((treated, _), _)| *treated == side)
            .map(|(_, days)| days);
        days.filter_map(|days| Some(after(days)? - days.before?))
            .filter(|difference| difference.is_finite())
            .collect()
    };
    let (mut treated, mut controls) = (differences(true), differences(false));
    let count = |devices: &Vec<f64>| u32::try_from(devices.len()).unwrap_or(u32::MAX);
    if !is_comparable(count(&treated), count(&controls)) {
        return None;
    }
    clip(&mut treated);
    clip(&mut controls);
    welch(&treated, &controls)
}

fn clip(differences: &mut [f64]) {
    let centre = median(&mut differences.to_vec());
    let mut distances: Vec<f64> = differences.iter().map(|value| (value - centre).abs()).collect();
    let reach = CLIP * 1.4826 * median(&mut distances);
    if reach > 0.0 && reach.is_finite() {
        for value in differences {
            *value = value.clamp(centre - reach, centre + reach);
        }
    }
}

impl Judged<'_> {
    fn contribution(&self) -> f64 {
        self.pooled.effect().abs() * self.pooled.treated as f64
    }

    fn finding(&self, rank: u32) -> Finding {
        let Self {
            rollout,
            metric,
            unit,
            pooled,
            ..
        } = self;
        let series = format!(
            "cohort firmware={} model={}/{metric}",
            rollout.firmware, rollout.model
        );
        let origin = Origin::window(rollout.day_ms);
        // The estimated value of the devices without the rollout, ± two standard errors.
        let without = self.after - pooled.difference;
        let reach = 1.96 * pooled.error;
        let count = |devices: usize| u32::try_from(devices).unwrap_or(u32::MAX);
        Finding {
            id: FindingId::new(Kind::Regression, &series, origin, MODEL),
            kind: Kind::Regression,
            series,
            device: None,
            metric: (*metric).to_owned(),
            time_ms: rollout.day_ms,
            detected_ms: Times::of(rollout.day_ms).end_ms,
            origin,
            value: Some(self.after),
            unit: (*unit).to_owned(),
            expected: Some((without - reach, without + reach)),
            direction: if pooled.difference > 0.0 {
                Direction::Above
            } else {
                Direction::Below
            },
            effect: Some(pooled.effect()),
            surprise: Some(pooled.surprise),
            // The duration is the two days compared.
            severity: Severity::of(pooled.surprise, 2.0 * 1_440.0, Severity::Medium),
            reason: format!(
                "{:+.3} {unit} compared with {} controls since firmware {}, on both days after it",
                pooled.difference, pooled.controls, rollout.firmware
            ),
            baseline_n: count(pooled.treated),
            baseline_age_ms: 4 * DAY_MS,
            model: MODEL,
            notify: true,
            group: None,
            change: Some(ChangeDetail {
                of: "level",
                earliest_ms: rollout.day_ms,
                latest_ms: rollout.day_ms.saturating_add(DAY_MS),
                before: self.before,
                after: self.after,
                confidence: 1.0 - 10.0_f64.powf(-pooled.surprise),
            }),
            cohort: Some(Cohort {
                firmware: rollout.firmware.clone(),
                model: rollout.model.clone(),
                devices: count(pooled.treated),
                of: count(pooled.controls),
                rank,
                rollout_ms: Some(rollout.day_ms),
            }),
        }
    }
}
