//! Labelled series: a base signal with injected anomalies, and the windows in which detections count.

use std::ops::Range;

use crate::families::{Family, Parts};
use crate::random::Random;

/// The initial fraction of a series in which nothing is labelled or counted, and its maximum number of values: a
/// detector must see normal values first.
const PROBATION: f64 = 0.15;
const PROBATION_MAX: usize = 750;
/// The fraction of a series that its windows cover together.
const WINDOWS: f64 = 0.1;

/// The kind of an anomaly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Spike,
    Dip,
    LevelShift,
    Drift,
    MoreVariance,
    FlatLine,
    Rhythm,
    MissingCycle,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Spike,
        Self::Dip,
        Self::LevelShift,
        Self::Drift,
        Self::MoreVariance,
        Self::FlatLine,
        Self::Rhythm,
        Self::MissingCycle,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Spike => "spike",
            Self::Dip => "dip",
            Self::LevelShift => "level shift",
            Self::Drift => "drift",
            Self::MoreVariance => "more variance",
            Self::FlatLine => "flat line",
            Self::Rhythm => "changed rhythm",
            Self::MissingCycle => "missing cycle",
        }
    }
}

/// An anomaly, and the window in which a detection counts.
#[derive(Clone, Debug)]
pub struct Label {
    pub kind: Kind,
    /// Index of the first anomalous value.
    pub onset: usize,
    pub window: Range<usize>,
}

/// A series with its labels.
pub struct Series {
    pub family: &'static str,
    pub times_ms: Vec<i64>,
    pub values: Vec<f64>,
    /// Detections before this index are ignored.
    pub probation: usize,
    pub labels: Vec<Label>,
}

impl Series {
    /// Duration of the counted part, in days.
    pub fn days(&self) -> f64 {
        match (self.times_ms.get(self.probation), self.times_ms.last()) {
            (Some(first), Some(last)) => (last - first) as f64 / 86_400_000.0,
            _ => 0.0,
        }
    }
}

/// The series of the given families and seeds.
pub fn series(families: &[Family], seeds: Range<u64>) -> Vec<Series> {
    let of = |family: &Family, seed: u64| {
        let name = family.name.bytes().fold(seed, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        make(family, &mut Random::new(name))
    };
    families
        .iter()
        .flat_map(|family| seeds.clone().map(move |seed| of(family, seed)))
        .collect()
}

fn make(family: &Family, random: &mut Random) -> Series {
    let length = match random.below(6) {
        0 => 1_000 + random.below(1_000),
        1..=3 => 3_500 + random.below(1_000),
        4 => 5_000 + random.below(10_000),
        _ => 15_000 + random.below(5_000),
    };
    let mut parts = (family.make)(random, length);
    let probation = ((PROBATION * length as f64) as usize).min(PROBATION_MAX);
    // One series in eight has no anomaly.
    let count = if random.chance(0.125) {
        0
    } else {
        1 + random.below(4)
    };
    let window = (WINDOWS * length as f64) as usize / count.max(1);
    let from = (length as f64 * 0.17) as usize + window / 2;
    let slot = length.saturating_sub(from + window / 2) / count.max(1);
    let scale = Scale::of(&parts);
    let normal = sum(&parts);
    let mut stuck = Vec::new();
    let mut labels = Vec::new();
    for place in 0..count {
        let onset = from + place * slot + random.below(slot.saturating_sub(window).max(1));
        let kind = kind(&parts, random);
        inject(&mut parts, kind, onset, window, &scale, random, &mut stuck);
        let start = onset.saturating_sub(window / 2);
        labels.push(Label {
            kind,
            onset,
            window: start..(start + window).min(length),
        });
    }
    let mut values = sum(&parts);
    for range in stuck {
        let held = values.get(range.start).copied().unwrap_or_default();
        values[range].fill(held);
    }
    // Rounding and limits can hide an anomaly; one that does not show in the values cannot be found.
    labels.retain(|label| (label.onset..label.window.end).any(|index| values[index] != normal[index]));
    Series {
        family: family.name,
        times_ms: parts.times_ms,
        values,
        probation,
        labels,
    }
}

fn sum(parts: &Parts) -> Vec<f64> {
    let cycle = parts.cycle.iter().copied().chain(std::iter::repeat(0.0));
    let latent = parts
        .level
        .iter()
        .zip(&parts.noise)
        .zip(cycle)
        .map(|((level, noise), cycle)| level + noise + cycle);
    latent.map(parts.finish).collect()
}

/// The usual variation of a series, before it is rounded and limited.
struct Scale {
    /// The 99.5th percentile of the change from value to value.
    step: f64,
    /// Half of the range from the 5th to the 95th percentile.
    spread: f64,
    /// The same for the noise alone.
    noise: f64,
}

impl Scale {
    fn of(parts: &Parts) -> Self {
        let cycle = |index: usize| parts.cycle.get(index).copied().unwrap_or_default();
        let latent: Vec<f64> = parts
            .level
            .iter()
            .zip(&parts.noise)
            .enumerate()
            .map(|(index, (a, b))| a + b + cycle(index))
            .collect();
        let steps: Vec<f64> = latent.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
        let half = |values: &[f64]| (quantile(values, 0.95) - quantile(values, 0.05)) / 2.0;
        let tiny = 1e-6 + 0.02 * quantile(&latent, 0.5).abs();
        Self {
            step: quantile(&steps, 0.995).max(tiny),
            spread: half(&latent).max(tiny),
            noise: half(&parts.noise).max(0.3 * quantile(&steps, 0.995)).max(tiny),
        }
    }
}

fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get((at * sorted.len().saturating_sub(1) as f64) as usize)
        .copied()
        .unwrap_or_default()
}

/// A random kind of anomaly that is possible in such a series.
fn kind(parts: &Parts, random: &mut Random) -> Kind {
    loop {
        let kind = Kind::ALL[random.below(Kind::ALL.len())];
        let still = quantile(&parts.noise, 0.9) == quantile(&parts.noise, 0.1);
        match kind {
            Kind::Rhythm | Kind::MissingCycle if parts.period == 0 => {}
            // Invisible where the values mostly stand still.
            Kind::FlatLine | Kind::Dip if still && parts.cycle.is_empty() => {}
            _ => return kind,
        }
    }
}

fn inject(
    parts: &mut Parts,
    kind: Kind,
    onset: usize,
    window: usize,
    scale: &Scale,
    random: &mut Random,
    stuck: &mut Vec<Range<usize>>,
) {
    let length = parts.level.len();
    let until = |duration: f64| (onset + (duration as usize).max(2)).min(length);
    let wide = window as f64;
    match kind {
        Kind::Spike | Kind::Dip => {
            let sign = if kind == Kind::Spike { 1.0 } else { -1.0 };
            let size = random.between(1.2, 4.0) * scale.step.max(0.3 * scale.spread);
            let end = (onset + 1 + random.below(6)).min(length);
            parts.noise[onset..end]
                .iter_mut()
                .for_each(|noise| *noise += sign * size);
        }
        Kind::LevelShift => {
            let size = random.sign() * random.between(1.5, 4.0) * scale.spread.max(scale.noise);
            let end = if random.chance(0.5) {
                length
            } else {
                until(random.between(0.3, 1.0) * wide)
            };
            parts.level[onset..end]
                .iter_mut()
                .for_each(|level| *level += size);
        }
        Kind::Drift => {
            let size = random.sign() * random.between(2.0, 5.0) * scale.spread.max(scale.noise);
            let end = until(random.between(0.3, 0.8) * wide);
            let slope = size / (end - onset) as f64;
            for (index, level) in parts.level[onset..end].iter_mut().enumerate() {
                *level += slope * index as f64;
            }
        }
        Kind::MoreVariance => {
            let (factor, end) = (random.between(2.5, 6.0), until(random.between(0.2, 0.6) * wide));
            let middle = quantile(&parts.noise, 0.5);
            for noise in &mut parts.noise[onset..end] {
                *noise = middle + factor * (*noise - middle) + 0.3 * factor * scale.noise * random.normal();
            }
        }
        Kind::FlatLine => stuck.push(onset..until((random.between(0.4, 0.9) * wide).max(20.0))),
        Kind::Rhythm => {
            let end = until((0.8 * wide).max(parts.period as f64));
            let old = parts.cycle.clone();
            let faster = random.chance(0.5);
            for index in onset..end {
                let from = if faster {
                    onset + 2 * (index - onset)
                } else {
                    index + parts.period / 2
                };
                parts.cycle[index] = old[from % old.len()];
            }
        }
        Kind::MissingCycle => {
            let end = until(parts.period as f64 * random.between(1.0, 2.0));
            let low = quantile(&parts.cycle, if random.chance(0.7) { 0.1 } else { 0.9 });
            parts.cycle[onset..end].fill(low);
        }
    }
}
