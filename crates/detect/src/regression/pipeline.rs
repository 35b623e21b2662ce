//! The KPIs of the pipeline that are judged, and the smallest changes that matter.

use super::shift::{Point, Series, Size};
use crate::anomaly::Direction;
use crate::kpi::{DUPLICATE_RATE, LATENCY_SECONDS, QUALITY_RATE, REJECT_RATE, THROUGHPUT};

/// Minimum number of records per minute for a rate to be judged.
const RECORDS_MIN: u64 = 30;

/// The stored values of one KPI.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Name of the KPI, such as `reject_rate`.
    pub kpi: String,
    /// The subset it covers, such as a reason; empty if it covers everything.
    pub label: String,
    /// One value per minute, in order of time.
    pub points: Vec<Point>,
}

/// How a KPI is judged.
struct Judged {
    kpi: &'static str,
    unit: &'static str,
    worse: Direction,
    least: Size,
    /// Minimum number of records in a minute.
    records_min: u64,
}

const fn size(amount: f64, share: f64) -> Size {
    Size { amount, share }
}

/// The judged KPIs. `readings` is left out because it shows the same as the throughput, but later.
const JUDGED: [Judged; 5] = [
    Judged {
        kpi: REJECT_RATE,
        unit: "1",
        worse: Direction::Above,
        least: size(0.001, 0.1),
        records_min: RECORDS_MIN,
    },
    Judged {
        kpi: DUPLICATE_RATE,
        unit: "1",
        worse: Direction::Above,
        least: size(0.01, 0.1),
        records_min: RECORDS_MIN,
    },
    Judged {
        kpi: QUALITY_RATE,
        unit: "1",
        worse: Direction::Below,
        least: size(0.005, 0.0),
        records_min: RECORDS_MIN,
    },
    Judged {
        kpi: LATENCY_SECONDS,
        unit: "s",
        worse: Direction::Above,
        least: size(0.05, 0.2),
        records_min: 1,
    },
    Judged {
        kpi: THROUGHPUT,
        unit: "/min",
        worse: Direction::Below,
        least: size(1.0, 0.1),
        records_min: 0,
    },
];

/// The stored KPIs up to the minute `until`, as series to be judged.
#[must_use]
pub fn pipeline(stored: Vec<Stored>, until: i64) -> Vec<Series> {
    let series = |stored: Stored| {
        let judged = JUDGED.iter().find(|judged| judged.kpi == stored.kpi)?;
        Some(judged.series(stored, until))
    };
    stored.into_iter().filter_map(series).collect()
}

impl Judged {
    fn series(&self, stored: Stored, until: i64) -> Series {
        let mut points = stored.points;
        if self.kpi == THROUGHPUT {
            points = without_gaps(&points, until);
        }
        points.retain(|point| point.records >= self.records_min);
        Series {
            name: match stored.label.as_str() {
                "" => format!("kpi/{}", self.kpi),
                label => format!("kpi/{}/{label}", self.kpi),
            },
            metric: self.kpi.to_owned(),
            unit: self.unit.to_owned(),
            beside: "",
            worse: self.worse,
            least: self.least,
            of_crowd: false,
            points,
        }
    }
}

/// Fills in the minutes in which the gate settled nothing: they have no row, and their throughput was 0.
fn without_gaps(points: &[Point], until: i64) -> Vec<Point> {
    let next = |at: usize| points.get(at + 1).map_or(until, |next| next.minute);
    let with_gap = |(at, point): (usize, &Point)| {
        let gap = point.minute.saturating_add(1)..next(at);
        let nothing = |minute| Point {
            minute,
            value: 0.0,
            records: 0,
        };
        std::iter::once(*point).chain(gap.map(nothing))
    };
    points.iter().enumerate().flat_map(with_gap).collect()
}
