//! Prepares a series for partitioning: drops missing values, removes single outliers and seasons, and scales.

/// Minimum number of values; fewer show no regimes.
const VALUES_MIN: usize = 8;

/// A series ready to be partitioned.
pub struct Prepared {
    /// The values, scaled to [−1, 1], without outliers and season.
    pub values: Vec<f64>,
    /// The index of each value in the original series.
    pub indices: Vec<u64>,
    /// Factor that converts a value back to the unit of the series, or of its logarithms.
    scale: f64,
    /// Offset to add after multiplying by `scale`.
    centre: f64,
    /// Length of the season, in points; 0 without a season.
    period: usize,
    /// The sum of the logarithms, if the values are logarithms.
    logarithms: Option<f64>,
}

impl Prepared {
    /// Prepares the series itself.
    ///
    /// `None` when there are too few values or all are equal.
    pub fn of(values: &[f64]) -> Option<Self> {
        prepare(values)
    }

    /// Prepares the logarithms of the series, in which proportional growth and variation become linear and constant.
    ///
    /// `None` when there are too few values, all are equal, or one is not positive.
    pub fn of_logarithms(values: &[f64]) -> Option<Self> {
        let finite = || values.iter().filter(|value| value.is_finite());
        if finite().any(|value| *value <= 0.0) {
            return None;
        }
        let logarithms: Vec<f64> = values.iter().map(|value| value.ln()).collect();
        Some(Self {
            logarithms: Some(finite().map(|value| value.ln()).sum()),
            ..prepare(&logarithms)?
        })
    }

    /// The length of the description of a partition and the season, for values in the unit of the series, so that the
    /// two preparations can be compared. Dividing a density of logarithms by the value gives a density of values.
    /// Logarithms must save as much as two changes cost: they often describe additive noise on a growing series
    /// slightly shorter, but then as a change of variance.
    pub fn length(&self, partition: f64) -> f64 {
        let points = self.values.len() as f64;
        let order = points.ln();
        let values = match self.logarithms {
            Some(sum) => 2.0 * sum + LOGARITHMS * order,
            None => 0.0,
        };
        partition + self.period as f64 * order + 2.0 * points * self.scale.ln() + values
    }

    /// Converts a level to the unit of the series.
    pub fn level(&self, value: f64) -> f64 {
        let level = value * self.scale + self.centre;
        let level = if self.logarithms.is_some() {
            level.exp()
        } else {
            level
        };
        level.clamp(f64::MIN, f64::MAX)
    }

    /// Converts a small difference at a level to the unit of the series.
    pub fn size(&self, value: f64, level: f64) -> f64 {
        let unit = if self.logarithms.is_some() {
            self.level(level)
        } else {
            1.0
        };
        (value * self.scale * unit).clamp(f64::MIN, f64::MAX)
    }
}

fn prepare(values: &[f64]) -> Option<Prepared> {
    let (indices, mut finite): (Vec<u64>, Vec<f64>) = (0_u64..)
        .zip(values)
        .filter(|(_, value)| value.is_finite())
        .map(|(index, value)| (index, *value))
        .unzip();
    if finite.len() < VALUES_MIN {
        return None;
    }
    // Before scaling: next to one extreme outlier, all other values would become equal.
    clean(&mut finite);
    let (low, high) = extremes(&finite);
    // Halve before subtracting: the range of two finite numbers may overflow.
    let (centre, scale) = (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0);
    if scale == 0.0 {
        return None;
    }
    for value in &mut finite {
        *value = ((*value - centre) / scale).clamp(-1.0, 1.0);
    }
    let season = whole(&finite, &indices).and_then(|whole| Season::find(&whole));
    if let Some(season) = &season {
        season.remove(&mut finite, &indices);
    }
    Some(Prepared {
        values: finite,
        indices,
        scale,
        centre,
        period: season.map_or(0, |season| season.0.len()),
        logarithms: None,
    })
}

/// The series with missing values interpolated linearly between their neighbours, so that a season stays in phase.
/// `None` when more values are missing than present.
fn whole(values: &[f64], indices: &[u64]) -> Option<Vec<f64>> {
    let (first, last) = (*indices.first()?, *indices.last()?);
    if last - first >= 2 * indices.len() as u64 {
        return None;
    }
    let mut whole = vec![*values.first()?];
    for (of, at) in values.windows(2).zip(indices.windows(2)) {
        let steps = at[1] - at[0];
        whole.extend((1..=steps).map(|step| of[0] + (of[1] - of[0]) * step as f64 / steps as f64));
    }
    Some(whole)
}

fn extremes(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(*v), high.max(*v))
        })
}

/// The median, 0 for no values; reorders the values.
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

/// Description length that logarithms must save, in units of ln n.
const LOGARITHMS: f64 = 8.0;
/// Number of neighbours on each side with which a value is compared.
const NEIGHBOURS: usize = 3;
/// Distance from the median of its neighbours, in scales, beyond which a value is an outlier.
const OUTLIER: f64 = 5.0;
/// If at least this fraction of the values equals the median of their neighbours, as in counts of rare events, the
/// spread is 0: the lower limit of the scale is then `STEPS` times the smallest step between values.
const SAME: f64 = 0.85;
const STEPS: f64 = 0.1;
/// Differences below this fraction of the largest value are rounding errors.
const ROUNDING: f64 = 1e-12;

/// Replaces each outlier of one or two points by the median of its neighbourhood (Hampel's filter). The scale is local,
/// so a regime with a larger spread keeps it.
fn clean(values: &mut [f64]) {
    let n = values.len();
    let window = |at: usize, reach: usize| at.saturating_sub(reach)..(at + reach + 1).min(n);
    let centres: Vec<f64> = (0..n)
        .map(|at| median(&mut values[window(at, NEIGHBOURS)].to_vec()))
        .collect();
    let distances: Vec<f64> = values.iter().zip(&centres).map(|(v, c)| (v - c).abs()).collect();
    let same = distances.iter().filter(|distance| **distance == 0.0).count();
    let least = if same as f64 >= SAME * n as f64 {
        STEPS * step(values)
    } else {
        0.0
    };
    let overall = f64::max(1.4826 * median(&mut distances.clone()), least);
    for at in 0..n {
        let local = 1.4826 * median(&mut distances[window(at, 4 * NEIGHBOURS)].to_vec());
        let scale = overall.max(local);
        if scale > 0.0 && distances[at] > OUTLIER * scale {
            values[at] = centres[at];
        }
    }
}

/// The smallest step between distinct values, ignoring rounding errors; 0 if there is none.
fn step(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let largest = values
        .iter()
        .fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let steps = sorted.windows(2).map(|pair| pair[1] - pair[0]);
    steps
        .filter(|step| *step > ROUNDING * largest)
        .reduce(f64::min)
        .unwrap_or(0.0)
}

/// A repeating pattern: one value per phase, with mean zero.
struct Season(Vec<f64>);

/// The fraction of the variance around the trend, adjusted for its number of phases, that a season must explain.
const SEASONAL: f64 = 0.5;
/// A shorter season is preferred if it explains within this fraction as much, since longer ones may be its multiples.
const NEARLY: f64 = 0.03;
/// The longest season, in points, and the minimum number of cycles.
const PERIOD_MAX: usize = 400;
const CYCLES_MIN: usize = 5;
/// Number of points at the start of the series from which the period is determined.
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

    fn remove(&self, values: &mut [f64], indices: &[u64]) {
        let first = indices.first().copied().unwrap_or_default();
        for (value, index) in values.iter_mut().zip(indices) {
            *value -= self.0[((index - first) % self.0.len() as u64) as usize];
        }
    }
}

/// The length of the season that explains the most variance, if one explains enough.
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

/// The fraction of the variance that lies between the phases, adjusted for their number.
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

/// Each value minus the centred mean over one period; `None` at the ends.
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
                // The two ends are of the same phase and count half each.
                sum -= (values[first] + values[last]) / 2.0;
            }
            Some(values[t] - sum / period as f64)
        })
        .collect()
}
