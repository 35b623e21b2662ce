//! The best partition of a series into regimes: optimal partitioning (Jackson et al. 2005, doi:10.1109/LSP.2001.838216)
//! under a description length (Davis, Lee & Rodriguez-Yam 2006, doi:10.1198/016214505000000745).
//!
//! Each regime is described in the cheapest of four forms: a constant or a line, with the shared variance or its own.
//! The autocorrelation φ and the variance that the regimes share are tried on a grid; the partition with the shortest
//! description, with both fitted, wins. A large φ describes a wandering series shorter than many regimes do, so
//! autocorrelation is not mistaken for changes.

use super::cost::{Costs, Residuals};

/// Cost of the place of a change, in units of ln n. The textbook value is 2; real noise never matches the model
/// exactly, and of the values 2 to 6 this one gave the best balance of found and false changes on the families of
/// `benches/changes`.
const LOCATION: f64 = 4.0;
/// Lower limit of the standard deviation of noise, as a fraction of the range: a change must be visible in a plot.
const FLOOR: f64 = 0.02;
/// The shortest regime with its own variance, in points.
const OWN_MIN: usize = 12;
/// The shortest regime that is a line, in points.
const LINE_MIN: usize = 5;
/// Candidates for φ. A larger one would explain every jump of a true random walk as noise.
const PHIS: [f64; 6] = [0.0, 0.2, 0.4, 0.6, 0.8, 0.9];
/// Maximum number of shared variances to try, each half of the one before.
const VARIANCES: usize = 10;
/// The halving ends when the description is longer than the shortest so far by more than this, twice in a row.
const WORSE: f64 = 10.0;
/// Longer series are first searched at this many places, then more closely around the borders that were found.
const PLACES_MAX: usize = 512;
/// Factor by which each search is closer than the one before.
const CLOSER: usize = 16;

/// The form in which a regime is described.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// A line rather than a constant.
    pub line: bool,
    /// A variance of its own rather than the shared one.
    pub own: bool,
}

/// One regime: the indices from `start` up to but not including `end`.
#[derive(Clone, Copy, Debug)]
pub struct Regime {
    pub start: usize,
    pub end: usize,
    pub form: Form,
}

impl Regime {
    pub const fn points(&self) -> usize {
        self.end - self.start
    }

    /// The sum of squared innovations that this form leaves.
    pub const fn squares(&self, residuals: &Residuals) -> f64 {
        if self.form.line {
            residuals.line
        } else {
            residuals.constant
        }
    }
}

/// A partition, with the noise parameters used to judge it.
pub struct Partition<'v> {
    pub costs: Costs<'v>,
    pub regimes: Vec<Regime>,
    /// The shared variance of the innovations, for regimes without their own.
    pub variance: f64,
    pub rules: Rules,
    /// The length of its description, twice the negative logarithm of a likelihood.
    pub length: f64,
}

/// A partition and the length of its description.
struct Candidate {
    regimes: Vec<Regime>,
    phi: f64,
    variance: f64,
    length: f64,
}

/// Limits and penalties for one series.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    shortest: usize,
    /// The lower limit of a variance.
    pub floor: f64,
    location: f64,
    /// ln n.
    order: f64,
}

impl Rules {
    fn new(values: &[f64]) -> Self {
        let range = values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
            - values.iter().copied().fold(f64::INFINITY, f64::min);
        let order = (values.len() as f64).ln();
        Self {
            shortest: (values.len() / 20).clamp(3, 6),
            floor: (FLOOR * range).powi(2).max(f64::MIN_POSITIVE),
            location: LOCATION * order,
            order,
        }
    }

    /// The cheapest form of a regime, and its length with penalties. `logs` are the logarithms of the shared variance
    /// and of the number of points.
    fn cheapest(
        &self,
        costs: &Costs<'_>,
        (start, end): (usize, usize),
        variance: f64,
        logs: (f64, f64),
    ) -> (Form, f64) {
        let points = (end - start) as f64;
        let (log_variance, log_points) = logs;
        let residuals = costs.residuals(start, end);
        let shared = points * log_variance;
        let mut best = (Form::default(), residuals.constant / variance + shared);
        let mut take = |line: bool, own: bool, length: f64| {
            if length < best.1 {
                best = (Form { line, own }, length);
            }
        };
        if end - start >= LINE_MIN {
            take(true, false, residuals.line / variance + shared + log_points);
        }
        if end - start >= OWN_MIN {
            for (line, squares, penalty) in [
                (false, residuals.constant, log_points),
                (true, residuals.line, 2.0 * log_points),
            ] {
                // q − 1 − ln q ≤ (q − 1)² / min(q, 1) excludes ratios near 1 without computing a logarithm.
                let ratio = squares / (points * variance);
                if points * (ratio - 1.0).powi(2) > log_points * ratio.min(1.0) {
                    take(
                        line,
                        true,
                        points * (squares / points).max(self.floor).ln() + points + penalty,
                    );
                }
            }
        }
        (best.0, best.1 + costs.first_log() + self.location + log_points)
    }

    /// The same as [`Self::cheapest`], for a single regime.
    pub fn describe(&self, costs: &Costs<'_>, start: usize, end: usize, variance: f64) -> (Form, f64) {
        let logs = (variance.ln(), ((end - start) as f64).ln());
        self.cheapest(costs, (start, end), variance, logs)
    }

    /// Fits the shared variance to a partition and computes the length of the whole description.
    fn judge(&self, costs: &Costs<'_>, regimes: Vec<Regime>) -> Candidate {
        // Each parameter takes a degree of freedom: otherwise many lines through few points would fit too well.
        let (mut squares, mut freedom) = (0.0, 0.0);
        for regime in regimes.iter().filter(|regime| !regime.form.own) {
            squares += regime.squares(&costs.residuals(regime.start, regime.end));
            freedom += regime.points() as f64 - if regime.form.line { 2.0 } else { 1.0 };
        }
        let variance = (squares / f64::max(freedom, 1.0)).max(self.floor);
        let lengths = regimes
            .iter()
            .map(|regime| self.describe(costs, regime.start, regime.end, variance).1);
        let length = lengths.sum::<f64>() + if costs.phi > 0.0 { self.order } else { 0.0 };
        Candidate {
            regimes,
            phi: costs.phi,
            variance,
            length,
        }
    }
}

/// The partition with the shortest description. `values` must not be empty.
pub fn best(values: &[f64]) -> Partition<'_> {
    let rules = Rules::new(values);
    let n = values.len();
    let mut step = n.div_ceil(PLACES_MAX);
    let mut places: Vec<usize> = (0..n).step_by(step).chain([n]).collect();
    let whole = Regime {
        start: 0,
        end: n,
        form: Form::default(),
    };
    let mut best = rules.judge(&Costs::new(values, 0.0), vec![whole]);
    for phi in PHIS {
        let costs = Costs::new(values, phi);
        let mut variance = (costs.residuals(0, n).constant / n as f64).max(rules.floor);
        let (mut least, mut worse) = (f64::INFINITY, 0);
        for _ in 0..VARIANCES {
            let candidate = rules.judge(&costs, optimal(&rules, &costs, variance, &places));
            worse = if candidate.length > least + WORSE {
                worse + 1
            } else {
                0
            };
            least = least.min(candidate.length);
            let too_many = candidate.regimes.len() > 2 + n / 10;
            if candidate.length < best.length {
                best = candidate;
            }
            if variance <= rules.floor || too_many || worse == 2 {
                break;
            }
            variance = (variance / 2.0).max(rules.floor);
        }
    }
    let costs = Costs::new(values, best.phi);
    while step > 1 {
        let closer = step.div_ceil(CLOSER);
        places = around(&best.regimes, step, closer, n);
        best = rules.judge(&costs, optimal(&rules, &costs, best.variance, &places));
        step = closer;
    }
    Partition {
        costs,
        regimes: best.regimes,
        variance: best.variance,
        length: best.length,
        rules,
    }
}

/// Places spaced by `closer`, up to `step` on each side of every border, and the two ends.
fn around(regimes: &[Regime], step: usize, closer: usize, n: usize) -> Vec<usize> {
    let borders = regimes.iter().skip(1).map(|regime| regime.start);
    let near =
        borders.flat_map(|border| (border.saturating_sub(step)..(border + step).min(n)).step_by(closer));
    let mut places: Vec<usize> = near.chain([0, n]).collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// The regimes of the shortest description for one φ and one shared variance, with borders at some of `places`, which
/// begin with 0 and end with n.
fn optimal(rules: &Rules, costs: &Costs<'_>, variance: f64, places: &[usize]) -> Vec<Regime> {
    let log_variance = variance.ln();
    // The shortest description up to each place, where its last regime begins, and that regime's form.
    let mut found = vec![(f64::INFINITY, 0, Form::default()); places.len()];
    found[0].0 = 0.0;
    for j in 1..places.len() {
        for i in 0..j {
            let (start, end) = (places[i], places[j]);
            if end - start < rules.shortest && (i, j) != (0, places.len() - 1) {
                break;
            }
            let log_points = ((end - start) as f64).ln();
            let (form, length) = rules.cheapest(costs, (start, end), variance, (log_variance, log_points));
            if found[i].0 + length < found[j].0 {
                found[j] = (found[i].0 + length, i, form);
            }
        }
    }
    let mut regimes = Vec::new();
    let mut j = places.len() - 1;
    while j > 0 {
        let (_, i, form) = found[j];
        regimes.push(Regime {
            start: places[i],
            end: places[j],
            form,
        });
        j = i;
    }
    regimes.reverse();
    regimes
}
