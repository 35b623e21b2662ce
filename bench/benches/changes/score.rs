//! Scores of found changes: F1 with a margin, and covering (van den Burg & Williams 2020, arXiv:2003.06222).

/// F1 of the found changes. Precision and recall count the start of the series as a change that is always found, so
/// that a series without changes has a score. Each true change is matched by at most one found change within `margin`.
pub fn f1(truth: &[usize], found: &[usize], margin: usize) -> f64 {
    let (truth, found) = (with_start(truth), with_start(found));
    let mut used = vec![false; found.len()];
    let mut hits = 0.0;
    for t in &truth {
        let near = (0..found.len())
            .filter(|&i| !used[i] && found[i].abs_diff(*t) <= margin)
            .min_by_key(|&i| found[i].abs_diff(*t));
        if let Some(i) = near {
            used[i] = true;
            hits += 1.0;
        }
    }
    let (precision, recall) = (hits / found.len() as f64, hits / truth.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// The mean, over all points, of the best overlap (Jaccard) of their true regime with a found one.
pub fn covering(truth: &[usize], found: &[usize], n: usize) -> f64 {
    let found = regimes(found, n);
    let weighted = |regime: &(usize, usize)| {
        let best = found
            .iter()
            .map(|other| overlap(*regime, *other))
            .fold(0.0, f64::max);
        (regime.1 - regime.0) as f64 * best
    };
    regimes(truth, n).iter().map(weighted).sum::<f64>() / n as f64
}

fn with_start(changes: &[usize]) -> Vec<usize> {
    let mut all = vec![0];
    all.extend(changes.iter().filter(|change| **change != 0));
    all
}

fn regimes(changes: &[usize], n: usize) -> Vec<(usize, usize)> {
    let mut edges = with_start(changes);
    edges.push(n);
    edges.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

fn overlap(a: (usize, usize), b: (usize, usize)) -> f64 {
    let shared = a.1.min(b.1).saturating_sub(a.0.max(b.0));
    shared as f64 / (a.1 - a.0 + b.1 - b.0 - shared) as f64
}
