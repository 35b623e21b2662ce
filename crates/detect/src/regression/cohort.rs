//! The difference of each cohort of devices from the rest of its model, as series to be judged.

use std::collections::BTreeMap;

use super::shift::{Point, Series, Size};
use crate::anomaly::Direction;
use crate::reading::CohortWindow;

/// Minimum number of good readings in a window, both of the cohort and of the rest.
const READINGS_MIN: u64 = 30;
/// Minimum size of a shift, in standard deviations of the cohort's readings.
const LEAST: f64 = 0.1;

/// Sums over good readings.
#[derive(Clone, Copy, Default)]
struct Sums {
    good: u64,
    total: f64,
}

impl Sums {
    fn add(&mut self, window: &CohortWindow) {
        self.good += window.good;
        self.total += window.total;
    }

    fn less(self, other: Self) -> Self {
        Self {
            good: self.good.saturating_sub(other.good),
            total: self.total - other.total,
        }
    }

    fn mean(self) -> Option<f64> {
        (self.good >= READINGS_MIN).then(|| self.total / self.good as f64)
    }
}

/// The firmware, model and metric of a series.
type Of<'w> = (&'w str, &'w str, &'w str);

/// A series for each firmware, model and metric: in each window, the mean of the cohort minus the mean of all other
/// firmware of the same model. Influences on both, such as the hour and the day, cancel out. A cohort without others is
/// skipped, because its changes cannot be told from such influences. A cohort with most of its model's readings is
/// skipped too: it is the reference for the others. `unit` returns the unit of a known metric; unknown metrics are not
/// judged.
///
/// `windows` are in order of time.
#[must_use]
pub fn cohorts<'u>(windows: &[CohortWindow], unit: impl Fn(&str) -> Option<&'u str>) -> Vec<Series> {
    let mut models: BTreeMap<(&str, &str, i64), Sums> = BTreeMap::new();
    let mut cohorts: BTreeMap<Of<'_>, Vec<&CohortWindow>> = BTreeMap::new();
    let mut readings: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for window in windows {
        let (model, metric) = (window.model.as_str(), window.metric.as_str());
        models
            .entry((model, metric, window.minute))
            .or_default()
            .add(window);
        cohorts
            .entry((&window.firmware, model, metric))
            .or_default()
            .push(window);
        *readings.entry((model, metric)).or_default() += window.good;
    }
    let series_of = |(of, windows): (Of<'_>, Vec<&CohortWindow>)| {
        let (_, model, metric) = of;
        let good: u64 = windows.iter().map(|window| window.good).sum();
        let is_most = readings.get(&(model, metric)).is_none_or(|all| good > all - good);
        let point = |window: &&CohortWindow| {
            let all = models.get(&(model, metric, window.minute))?;
            let own = Sums {
                good: window.good,
                total: window.total,
            };
            Some(Point {
                minute: window.minute,
                value: own.mean()? - all.less(own).mean()?,
                records: window.good,
            })
        };
        let points = windows.iter().filter_map(point).collect();
        let squares: f64 = windows.iter().map(|window| window.squares).sum();
        (!is_most).then_some(series(of, unit(metric)?, (squares / good as f64).sqrt(), points))
    };
    cohorts.into_iter().filter_map(series_of).collect()
}

fn series((firmware, model, metric): Of<'_>, unit: &str, deviation: f64, points: Vec<Point>) -> Series {
    Series {
        name: format!("cohort firmware={firmware} model={model}/{metric}"),
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        beside: " relative to other firmware of the model",
        worse: Direction::Neither,
        least: Size {
            amount: LEAST * deviation,
            share: 0.0,
        },
        of_crowd: true,
        points,
    }
}
