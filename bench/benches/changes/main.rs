//! The accuracy of change detection on synthetic series: `cargo bench --bench changes`.
//!
//! Offline: F1 with a margin of five points and covering on each family, compared with reporting no changes and with
//! binary segmentation of means (Scott & Knott 1974) with Schwarz's penalty. Online: false alarms, and the mean delay
//! after a shift once a thousand points are known, as commonly reported for other detectors.

mod online;
mod random;
mod score;
mod series;

use std::collections::BTreeMap;
use std::time::Instant;

use pulsegate_detect::changes::offline;

use random::Random;
use series::{FAMILIES, Family, Labelled};

/// Number of series per family, and a seed that was not used to choose defaults.
const SERIES: u64 = 40;
const SEED: u64 = 77;
/// How far a found change may be from the true one, in points.
const MARGIN: usize = 5;

/// Sums of F1, covering, and the numbers of found and of true changes.
#[derive(Clone, Copy, Default)]
struct Scores {
    f1: f64,
    covering: f64,
    found: f64,
    truth: f64,
    count: f64,
}

impl Scores {
    fn add(&mut self, series: &Labelled, found: &[usize]) {
        self.f1 += score::f1(&series.changes, found, MARGIN);
        self.covering += score::covering(&series.changes, found, series.values.len());
        self.found += found.len() as f64;
        self.truth += series.changes.len() as f64;
        self.count += 1.0;
    }

    fn join(&mut self, other: &Self) {
        self.f1 += other.f1 / other.count;
        self.covering += other.covering / other.count;
        self.found += other.found / other.count;
        self.truth += other.truth / other.count;
        self.count += 1.0;
    }

    fn text(&self) -> String {
        format!("{:.3} {:.3}", self.f1 / self.count, self.covering / self.count)
    }
}

fn main() {
    println!("F1 (margin {MARGIN}) and covering of {SERIES} series per family");
    println!(
        "{:44} {:12} {:12} {:12} longest",
        "", "changes", "segmentation", "nothing"
    );
    let mut groups: BTreeMap<&str, [Scores; 3]> = BTreeMap::new();
    for (number, family) in (0..).zip(&FAMILIES) {
        let (scores, longest_ms) = offline_scores(number, family);
        let group = groups.entry(family.group()).or_default();
        for (total, scores) in group.iter_mut().zip(&scores) {
            total.join(scores);
        }
        print(family.name, &scores, &format!("{longest_ms:.0} ms"));
    }
    println!();
    for (group, scores) in &groups {
        let [changes, ..] = scores;
        let counts = format!(
            "found {:.2} of {:.2}",
            changes.found / changes.count,
            changes.truth / changes.count
        );
        print(&format!("mean: {group}"), scores, &counts);
    }
    println!();
    online::report();
}

fn print(name: &str, scores: &[Scores; 3], more: &str) {
    let [changes, segmentation, nothing] = scores.map(|scores| scores.text());
    println!("{name:44} {changes:12} {segmentation:12} {nothing:12} {more}");
}

fn offline_scores(number: u64, family: &Family) -> ([Scores; 3], f64) {
    let mut scores = [Scores::default(); 3];
    let mut longest: f64 = 0.0;
    for run in 0..SERIES {
        let series = (family.make)(&mut Random::new(
            SEED * 1_000_003 + number * 7_919 + run * 104_729,
        ));
        let begun = Instant::now();
        let found = offline::changes(&series.values);
        longest = longest.max(begun.elapsed().as_secs_f64() * 1e3);
        let found: Vec<usize> = found.iter().map(|change| change.index as usize).collect();
        scores[0].add(&series, &found);
        scores[1].add(&series, &segmentation(&series.values));
        scores[2].add(&series, &[]);
    }
    (scores, longest)
}

/// Binary segmentation of the mean, with the noise estimated by the median of the first differences and a penalty of 3
/// ln n per change.
fn segmentation(values: &[f64]) -> Vec<usize> {
    let mut steps: Vec<f64> = values.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
    steps.sort_unstable_by(f64::total_cmp);
    let sigma = (1.4826 * steps[steps.len() / 2] / 2.0_f64.sqrt()).max(1e-9);
    let mut sums = vec![0.0];
    for value in values {
        sums.push(sums[sums.len() - 1] + value);
    }
    let (mut found, mut open) = (Vec::new(), vec![(0, values.len())]);
    while let Some((start, end)) = open.pop() {
        let gain = |at: usize| {
            let (left, right) = ((at - start) as f64, (end - at) as f64);
            let step = (sums[end] - sums[at]) / right - (sums[at] - sums[start]) / left;
            step * step * left * right / (left + right) / (sigma * sigma)
        };
        let best =
            (start + 3..end.saturating_sub(2)).max_by(|one, other| gain(*one).total_cmp(&gain(*other)));
        if let Some(at) = best.filter(|at| gain(*at) > 3.0 * (values.len() as f64).ln()) {
            found.push(at);
            open.extend([(start, at), (at, end)]);
        }
    }
    found.sort_unstable();
    found
}
