//! The methods that the detector is compared with: common cheap methods and a random cut forest.

use std::collections::VecDeque;

use krcf::{RandomCutForest, RandomCutForestOptions};
use pulsegate_detect::anomaly::Detector;

use crate::series::Series;

/// A way to score a series; higher is more unusual.
pub struct Contender {
    pub name: &'static str,
    pub score: fn(&Series) -> Vec<f64>,
}

pub const CONTENDERS: [Contender; 7] = [
    Contender {
        name: "pulsegate",
        score: ours,
    },
    Contender {
        name: "pulsegate's surprise, no rest",
        score: ours_without_rest,
    },
    Contender {
        name: "windowed Gaussian",
        score: gaussian,
    },
    Contender {
        name: "windowed Gaussian, rest",
        score: |series| rested(&gaussian(series)),
    },
    Contender {
        name: "EWMA",
        score: ewma,
    },
    Contender {
        name: "EWMA, rest",
        score: |series| rested(&ewma(series)),
    },
    Contender {
        name: "random cut forest, rest",
        score: |series| rested(&forest(series)),
    },
];

fn ours(series: &Series) -> Vec<f64> {
    let mut detector = Detector::new();
    let rows = series.times_ms.iter().zip(&series.values);
    rows.map(|(ms, value)| detector.observe(*ms, *value).score)
        .collect()
}

fn ours_without_rest(series: &Series) -> Vec<f64> {
    let mut detector = Detector::new();
    let rows = series.times_ms.iter().zip(&series.values);
    rows.map(|(ms, value)| detector.observe(*ms, *value).surprise)
        .collect()
}

/// −log10 of both tails of a Gaussian with the mean and deviation of the last thousand values.
fn gaussian(series: &Series) -> Vec<f64> {
    const WINDOW: usize = 1_000;
    let (mut window, mut sum, mut squares) = (VecDeque::new(), 0.0, 0.0);
    let origin = series.values.first().copied().unwrap_or_default();
    let mut score = |value: f64| {
        let value = value - origin;
        let count = window.len() as f64;
        let mean = sum / f64::max(count, 1.0);
        let deviation = (squares / f64::max(count, 1.0) - mean * mean)
            .max(0.0)
            .sqrt()
            .max(1e-6);
        let distance = (value - mean).abs() / deviation;
        window.push_back(value);
        (sum, squares) = (sum + value, squares + value * value);
        if window.len() > WINDOW
            && let Some(old) = window.pop_front()
        {
            (sum, squares) = (sum - old, squares - old * old);
        }
        if count < 30.0 { 0.0 } else { tail(distance) }
    };
    series.values.iter().map(|value| score(*value)).collect()
}

/// −log10 of a Gaussian's two tails (the first term of the asymptotic series, precise enough for ranking).
fn tail(distance: f64) -> f64 {
    let natural = distance * distance / 2.0 + (1.0 + distance * 1.2533).ln();
    natural / std::f64::consts::LN_10
}

/// Distance from an exponentially weighted mean in exponentially weighted deviations.
fn ewma(series: &Series) -> Vec<f64> {
    const WEIGHT: f64 = 0.05;
    let (mut mean, mut variance) = (series.values.first().copied().unwrap_or_default(), 0.0_f64);
    let score = |(index, value): (usize, &f64)| {
        let residual = value - mean;
        let distance = residual.abs() / variance.sqrt().max(1e-6);
        mean += WEIGHT * residual;
        variance = (1.0 - WEIGHT) * (variance + WEIGHT * residual * residual);
        if index < 30 { 0.0 } else { distance }
    };
    series.values.iter().enumerate().map(score).collect()
}

fn forest(series: &Series) -> Vec<f64> {
    const SHINGLE: usize = 8;
    let options = RandomCutForestOptions {
        dimensions: SHINGLE,
        shingle_size: 1,
        num_trees: Some(50),
        sample_size: Some(256),
        random_seed: Some(42),
        ..Default::default()
    };
    let mut forest = RandomCutForest::new(options).expect("the options are valid");
    let mut shingle = [series.values.first().copied().unwrap_or_default() as f32; SHINGLE];
    let mut score = |value: f64| {
        shingle.rotate_left(1);
        shingle[SHINGLE - 1] = value as f32;
        let score = forest.score(&shingle).expect("the shingle has the right length");
        forest.update(&shingle).expect("the shingle has the right length");
        score
    };
    series.values.iter().map(|value| score(*value)).collect()
}

/// Improves any score: standardises it by its own mean and deviation, and adds a rest after a high one.
fn rested(scores: &[f64]) -> Vec<f64> {
    const WEIGHT: f64 = 0.005;
    let (mut mean, mut variance, mut held) = (1.0, 0.1_f64, 0.0_f64);
    let rest = |score: &f64| {
        let distance = (score - mean) / variance.sqrt().max(1e-3);
        mean += WEIGHT * (score - mean);
        variance = (1.0 - WEIGHT) * (variance + WEIGHT * (score - mean).powi(2));
        let rested = if distance > held { distance } else { 0.0 };
        held = (held * 0.99).max(distance);
        rested.max(0.0)
    };
    scores.iter().map(rest).collect()
}
