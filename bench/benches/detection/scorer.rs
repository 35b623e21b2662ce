//! Points for detections, after Lavin and Ahmad, "Evaluating real-time anomaly detection algorithms: the Numenta
//! anomaly benchmark" (2015): the first detection in a window earns more the earlier it comes, a missed window and
//! every detection outside of windows cost points, and one threshold holds for all series.

use crate::series::{Kind, Series};

/// The weights of false positives and of missed windows.
pub struct Profile {
    pub name: &'static str,
    false_positive: f64,
    missed: f64,
}

pub const PROFILES: [Profile; 3] = [
    Profile {
        name: "standard",
        false_positive: 0.11,
        missed: 1.0,
    },
    Profile {
        name: "few false",
        false_positive: 0.22,
        missed: 1.0,
    },
    Profile {
        name: "few missed",
        false_positive: 0.11,
        missed: 2.0,
    },
];

/// The results at one threshold.
#[derive(Clone, Default)]
pub struct Tally {
    pub threshold: f64,
    /// 100 for every window found at its first value, 0 for no detection at all.
    pub points: f64,
    pub found: usize,
    pub windows: usize,
    pub false_alarms: usize,
    /// Number of values from the onset to the detection, for windows found at or after their onset; sorted.
    pub delays: Vec<usize>,
    pub days: f64,
    /// Number of windows found and of all windows, by kind.
    pub kinds: Vec<(Kind, usize, usize)>,
}

impl Tally {
    pub fn precision(&self) -> f64 {
        self.found as f64 / (self.found + self.false_alarms).max(1) as f64
    }

    pub fn recall(&self) -> f64 {
        self.found as f64 / self.windows.max(1) as f64
    }

    pub fn false_a_day(&self) -> f64 {
        self.false_alarms as f64 / self.days.max(f64::MIN_POSITIVE)
    }

    pub fn median_delay(&self) -> usize {
        self.delays
            .get(self.delays.len() / 2)
            .copied()
            .unwrap_or_default()
    }
}

/// 1 well before the end of a window, 0 at its end, and −1 well after it.
fn sigmoid(position: f64) -> f64 {
    if position > 3.0 {
        -1.0
    } else {
        2.0 / (1.0 + (5.0 * position).exp()) - 1.0
    }
}

/// The cost of a detection at `index` outside of windows, as a negative fraction of a full false positive.
fn outside(series: &Series, index: usize) -> f64 {
    let before = series.labels.iter().rev().find(|label| label.window.end <= index);
    before.map_or(-1.0, |label| {
        let past = (index - (label.window.end - 1)) as f64 / (label.window.len().max(2) - 1) as f64;
        sigmoid(past)
    })
}

/// The tally at the best threshold for a profile, which is found by a sweep from the highest score down.
pub fn best(all: &[Series], scores: &[Vec<f64>], profile: &Profile) -> Tally {
    let mut events: Vec<(f64, usize, usize)> = Vec::new();
    for (at, (series, scores)) in all.iter().zip(scores).enumerate() {
        let counted = scores.iter().enumerate().skip(series.probation);
        events.extend(
            counted
                .filter(|(_, score)| **score > 0.0)
                .map(|(index, score)| (*score, at, index)),
        );
    }
    events.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let windows: usize = all.iter().map(|series| series.labels.len()).sum();
    let mut first: Vec<Vec<Option<usize>>> =
        all.iter().map(|series| vec![None; series.labels.len()]).collect();
    let mut raw = -profile.missed * windows as f64;
    let (mut best_raw, mut threshold) = (raw, f64::INFINITY);
    for (position, (score, at, index)) in events.iter().enumerate() {
        let (Some(series), Some(first)) = (all.get(*at), first.get_mut(*at)) else {
            continue;
        };
        match series
            .labels
            .iter()
            .position(|label| label.window.contains(index))
        {
            Some(label) => {
                let window = &series.labels[label].window;
                let worth = |index: usize| {
                    let left = (window.end - index) as f64 / window.len() as f64;
                    sigmoid(-left) / sigmoid(-1.0)
                };
                match first[label] {
                    Some(earlier) if earlier <= *index => {}
                    Some(earlier) => raw += worth(*index) - worth(earlier),
                    None => raw += worth(*index) + profile.missed,
                }
                first[label] = Some(first[label].map_or(*index, |earlier| earlier.min(*index)));
            }
            None => raw += profile.false_positive * outside(series, *index),
        }
        let last_of_equals = events.get(position + 1).is_none_or(|next| next.0 < *score);
        if last_of_equals && raw > best_raw {
            (best_raw, threshold) = (raw, *score);
        }
    }
    let mut tally = at(all, scores, threshold);
    tally.points =
        100.0 * (best_raw + profile.missed * windows as f64) / ((1.0 + profile.missed) * windows as f64);
    tally
}

/// The tally at a threshold, without points.
pub fn at(all: &[Series], scores: &[Vec<f64>], threshold: f64) -> Tally {
    let mut tally = Tally {
        threshold,
        kinds: Kind::ALL.map(|kind| (kind, 0, 0)).to_vec(),
        ..Tally::default()
    };
    for (series, scores) in all.iter().zip(scores) {
        tally.days += series.days();
        let hits: Vec<usize> = (series.probation..scores.len())
            .filter(|index| scores[*index] >= threshold)
            .collect();
        let inside = |index: &usize| series.labels.iter().any(|label| label.window.contains(index));
        tally.false_alarms += hits.iter().filter(|index| !inside(index)).count();
        for label in &series.labels {
            let hit = hits.iter().find(|index| label.window.contains(index));
            tally.windows += 1;
            tally.found += usize::from(hit.is_some());
            tally
                .delays
                .extend(hit.and_then(|index| index.checked_sub(label.onset)));
            if let Some((_, found, of)) = tally.kinds.iter_mut().find(|(kind, ..)| *kind == label.kind) {
                *found += usize::from(hit.is_some());
                *of += 1;
            }
        }
    }
    tally.delays.sort_unstable();
    tally
}
