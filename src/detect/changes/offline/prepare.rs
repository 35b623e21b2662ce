//! Makes a series fit to be partitioned: missing values left out, scaled, single outliers and seasons removed.

use super::VALUES_MIN;

/// A series ready to be partitioned.
pub struct Prepared {
    /// The values, scaled to [−1, 1], without outliers and season.
    pub values: Vec<f64>,
    /// The index of each value among those that were given.
    pub indices: Vec<u64>,
    /// What to multiply by for the unit of the series.
    scale: f64,
    /// What to add after that.
    centre: f64,
}

impl Prepared {
    /// A level in the unit of the series.
    pub fn level(&self, value: f64) -> f64 {
        (value * self.scale + self.centre).clamp(f64::MIN, f64::MAX)
    }

    /// A difference in the unit of the series.
    pub fn size(&self, value: f64) -> f64 {
        (value * self.scale).clamp(f64::MIN, f64::MAX)
    }
}

/// `None` when there is too little to look at.
pub fn prepare(values: &[f64]) -> Option<Prepared> {
    let (indices, mut finite): (Vec<u64>, Vec<f64>) = (0_u64..)
        .zip(values)
        .filter(|(_, value)| value.is_finite())
        .map(|(index, value)| (index, *value))
        .unzip();
    if finite.len() < VALUES_MIN {
        return None;
    }
    let (low, high) = extremes(&finite);
    // Halves first: the range of finite numbers may be infinite.
    let (centre, scale) = (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0);
    if scale == 0.0 {
        return None;
    }
    for value in &mut finite {
        *value = ((*value - centre) / scale).clamp(-1.0, 1.0);
    }
    clean(&mut finite);
    if let Some(season) = Season::find(&finite) {
        season.remove(&mut finite);
    }
    Some(Prepared {
        values: finite,
        indices,
        scale,
        centre,
    })
}

fn extremes(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(*v), high.max(*v))
        })
}

/// The median; reorders.
fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let (middle, odd) = (values.len() / 2, values.len() % 2 == 1);
    let (lower, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if odd {
        return upper;
    }
    let below = lower.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    below / 2.0 + upper / 2.0
}

/// How many neighbours on each side a value is compared with.
const NEIGHBOURS: usize = 3;
/// How many scales from the median of its neighbours a value may be.
const OUTLIER: f64 = 5.0;

/// Puts the median of its neighbourhood in the place of each outlier of one or two points (Hampel's filter). The scale is
/// local, so a regime of a larger spread keeps it.
fn clean(values: &mut [f64]) {
    let n = values.len();
    let window = |at: usize, reach: usize| at.saturating_sub(reach)..(at + reach + 1).min(n);
    let centres: Vec<f64> = (0..n)
        .map(|at| median(&mut values[window(at, NEIGHBOURS)].to_vec()))
        .collect();
    let distances: Vec<f64> = values.iter().zip(&centres).map(|(v, c)| (v - c).abs()).collect();
    let overall = 1.4826 * median(&mut distances.clone());
    for at in 0..n {
        let local = 1.4826 * median(&mut distances[window(at, 4 * NEIGHBOURS)].to_vec());
        let scale = overall.max(local);
        if scale > 0.0 && distances[at] > OUTLIER * scale {
            values[at] = centres[at];
        }
    }
}

/// A pattern that repeats: one value a phase, with mean zero.
struct Season(Vec<f64>);

/// The part of the variance around the trend, adjusted for its number of phases, that a season must explain.
const SEASONAL: f64 = 0.5;
/// A shorter season is taken when it explains nearly as much: the others are its multiples.
const NEARLY: f64 = 0.03;
/// The longest season, in points; and how many cycles there must be.
const PERIOD_MAX: usize = 400;
const CYCLES_MIN: usize = 5;
/// From how many points at the start of the series the period is told.
const PERIOD_POINTS_MAX: usize = 20_000;

impl Season {
    fn find(values: &[f64]) -> Option<Self> {
        let period = period(&values[..values.len().min(PERIOD_POINTS_MAX)])?;
        let detrended = detrended(values, period);
        let mut profile: Vec<f64> = (0..period)
            .map(|phase| {
                let at_phase = detrended.iter().skip(phase).step_by(period);
                median(&mut at_phase.filter_map(|value| *value).collect::<Vec<f64>>())
            })
            .collect();
        let mean = profile.iter().sum::<f64>() / period as f64;
        for value in &mut profile {
            *value -= mean;
        }
        Some(Self(profile))
    }

    fn remove(&self, values: &mut [f64]) {
        for (value, season) in values.iter_mut().zip(self.0.iter().cycle()) {
            *value -= season;
        }
    }
}

/// The length of the season that explains most, when one explains enough.
fn period(values: &[f64]) -> Option<usize> {
    let explained: Vec<(usize, f64)> = (3..=(values.len() / CYCLES_MIN).min(PERIOD_MAX))
        .map(|period| (period, explained(&detrended(values, period), period)))
        .collect();
    let most = explained.iter().map(|(_, part)| *part).fold(SEASONAL, f64::max);
    let found = explained
        .iter()
        .find(|(_, part)| *part > SEASONAL && *part >= most - NEARLY);
    found.map(|(period, _)| *period)
}

/// The part of the variance that lies between the phases, adjusted for their number.
fn explained(detrended: &[Option<f64>], period: usize) -> f64 {
    let mut phases = vec![(0.0, 0.0); period];
    let (mut squares, mut points) = (0.0, 0.0);
    for (t, value) in detrended.iter().enumerate() {
        let Some(value) = value else { continue };
        let (sum, count) = &mut phases[t % period];
        *sum += value;
        *count += 1.0;
        squares += value * value;
        points += 1.0;
    }
    let between: f64 = phases
        .iter()
        .map(|(sum, count)| sum * sum / f64::max(*count, 1.0))
        .sum();
    if squares <= 0.0 || points <= period as f64 {
        return 0.0;
    }
    1.0 - (1.0 - between / squares) * (points - 1.0) / (points - period as f64)
}

/// Each value less the centred mean over one period; none at the ends.
fn detrended(values: &[f64], period: usize) -> Vec<Option<f64>> {
    let half = period / 2;
    let mut sums = Vec::with_capacity(values.len() + 1);
    let mut sum = 0.0;
    sums.push(sum);
    for value in values {
        sum += value;
        sums.push(sum);
    }
    (0..values.len())
        .map(|t| {
            let first = t.checked_sub(half)?;
            let last = t + half;
            let mut sum = sums.get(last + 1)? - sums[first];
            if period.is_multiple_of(2) {
                // The two ends are of one phase and count by half.
                sum -= (values[first] + values[last]) / 2.0;
            }
            Some(values[t] - sum / period as f64)
        })
        .collect()
}
