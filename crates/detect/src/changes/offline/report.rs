//! Turns a partition into changes with their places, intervals, sizes and confidence.

use super::kink;
use super::partition::{Form, Partition, Regime};
use super::prepare::Prepared;
use crate::changes::{Change, ChangeKind};

/// How much longer than at the best place the description may be at a place within the interval: the value that a χ² of
/// one degree of freedom exceeds in one case of twenty.
const INTERVAL: f64 = 3.84;
/// If two lines meet with a step below this, in standard deviations, only the slope has changed.
const STEP_MIN: f64 = 2.5;
/// A change whose confidence is below this after its border was moved is dropped.
const CONFIDENCE_MIN: f64 = 0.9;
/// The shortest regime that moving a border may leave, in points.
const POINTS_MIN: usize = 2;

/// The changes of a partition, in order.
pub fn changes(prepared: &Prepared, mut partition: Partition<'_>) -> Vec<Change> {
    for at in 1..partition.regimes.len() {
        place(&mut partition, at);
    }
    prune(&mut partition);
    (1..partition.regimes.len())
        .map(|at| change(prepared, &partition, at))
        .collect()
}

/// One regime as a line: a constant has slope 0.
struct Line {
    start: f64,
    slope: f64,
    /// The standard deviation of the noise around it.
    sigma: f64,
}

impl Line {
    fn of(partition: &Partition<'_>, regime: &Regime) -> Self {
        let fit = partition.costs.residuals(regime.start, regime.end);
        let (start, slope) = if regime.form.line {
            (fit.start, fit.slope)
        } else {
            (fit.mean, 0.0)
        };
        let variance = if regime.form.own {
            (regime.squares(&fit) / regime.points() as f64).max(partition.rules.floor)
        } else {
            partition.variance
        };
        Self {
            start,
            slope,
            sigma: (variance * partition.costs.gain()).sqrt(),
        }
    }

    fn after(&self, points: usize) -> f64 {
        self.start + self.slope * points as f64
    }
}

/// Two neighbouring regimes and the differences between them at their border.
struct Border {
    before: Line,
    after: Line,
    step: f64,
    turn: f64,
    /// Length of the shorter regime, in points.
    shorter: f64,
    sigma: f64,
}

impl Border {
    fn of(partition: &Partition<'_>, at: usize) -> Self {
        let (left, right) = (&partition.regimes[at - 1], &partition.regimes[at]);
        let (before, after) = (Line::of(partition, left), Line::of(partition, right));
        Self {
            step: after.start - before.after(left.points()),
            turn: after.slope - before.slope,
            shorter: left.points().min(right.points()) as f64,
            sigma: ((before.sigma.powi(2) + after.sigma.powi(2)) / 2.0).sqrt(),
            before,
            after,
        }
    }

    fn kind(&self) -> ChangeKind {
        let led = self.turn.abs() * self.shorter;
        if self.turn != 0.0 && (self.step.abs() < STEP_MIN * self.sigma || self.step.abs() < led / 4.0) {
            return ChangeKind::Slope;
        }
        // The differences of the means and of the logarithms of the standard deviations, each in its standard errors.
        let level = self.step.abs() / self.sigma * (self.shorter / 2.0).sqrt();
        let spread = (self.after.sigma / self.before.sigma).ln().abs() * self.shorter.sqrt();
        if spread > level {
            ChangeKind::Variance
        } else {
            ChangeKind::Level
        }
    }
}

/// Moves the border before regime `at`, if only the slope changes there, to the kink of one continuous line.
fn place(partition: &mut Partition<'_>, at: usize) {
    if Border::of(partition, at).kind() != ChangeKind::Slope {
        return;
    }
    let (start, end) = (partition.regimes[at - 1].start, partition.regimes[at].end);
    if let Some(index) = kink::find(&partition.costs.values()[start..end]) {
        partition.regimes[at - 1].end = start + index;
        partition.regimes[at].start = start + index;
    }
}

/// Drops the least certain change until all reach [`CONFIDENCE_MIN`].
fn prune(partition: &mut Partition<'_>) {
    loop {
        let least = (1..partition.regimes.len())
            .map(|at| (at, merged(partition, at)))
            .min_by(|one, other| one.1.1.total_cmp(&other.1.1));
        let Some((at, (form, confidence))) = least else {
            return;
        };
        if confidence >= CONFIDENCE_MIN {
            return;
        }
        let gone = partition.regimes.remove(at);
        partition.regimes[at - 1].end = gone.end;
        partition.regimes[at - 1].form = form;
    }
}

/// The form of the two neighbours as one regime, and the probability that they are two: half the difference of the two
/// description lengths is the logarithm of the odds.
fn merged(partition: &Partition<'_>, at: usize) -> (Form, f64) {
    let (left, right) = (&partition.regimes[at - 1], &partition.regimes[at]);
    let describe = |start, end| {
        partition
            .rules
            .describe(&partition.costs, start, end, partition.variance)
    };
    let (form, one) = describe(left.start, right.end);
    let two = describe(left.start, left.end).1 + describe(right.start, right.end).1;
    (form, 1.0 / (1.0 + ((two - one) / 2.0).exp()))
}

/// The length of the description of the two neighbours, in their present forms, with another border.
fn length(partition: &Partition<'_>, at: usize, border: usize) -> f64 {
    let one = |regime: Regime| {
        let squares = regime.squares(&partition.costs.residuals(regime.start, regime.end));
        let points = regime.points() as f64;
        let variance = if regime.form.own {
            (squares / points).max(partition.rules.floor)
        } else {
            partition.variance
        };
        squares / variance + points * variance.ln()
    };
    one(Regime {
        end: border,
        ..partition.regimes[at - 1]
    }) + one(Regime {
        start: border,
        ..partition.regimes[at]
    })
}

/// The first and the last place around the border whose description is at most [`INTERVAL`] longer.
fn interval(partition: &Partition<'_>, at: usize) -> (usize, usize) {
    let (left, right) = (partition.regimes[at - 1], partition.regimes[at]);
    let border = right.start;
    let limit = length(partition, at, border) + INTERVAL;
    let good = |place: &usize| length(partition, at, *place) <= limit;
    let earliest = (left.start + POINTS_MIN..border).rev().take_while(good).last();
    let latest = (border + 1..right.end.saturating_sub(POINTS_MIN))
        .take_while(good)
        .last();
    (earliest.unwrap_or(border), latest.unwrap_or(border))
}

fn change(prepared: &Prepared, partition: &Partition<'_>, at: usize) -> Change {
    let (left, right) = (&partition.regimes[at - 1], &partition.regimes[at]);
    let border = Border::of(partition, at);
    let kind = border.kind();
    let ended = border.before.after(left.points());
    let (before, after, effect) = match kind {
        ChangeKind::Level => (
            prepared.level(ended),
            prepared.level(border.after.start),
            border.step / border.sigma,
        ),
        ChangeKind::Variance => (
            prepared.size(border.before.sigma, ended),
            prepared.size(border.after.sigma, border.after.start),
            (border.after.sigma / border.before.sigma).log2(),
        ),
        ChangeKind::Slope => (
            prepared.size(border.before.slope, ended),
            prepared.size(border.after.slope, border.after.start),
            border.turn * border.shorter / border.sigma,
        ),
    };
    let (earliest, latest) = interval(partition, at);
    Change {
        index: prepared.indices[right.start],
        earliest: prepared.indices[earliest],
        latest: prepared.indices[latest],
        kind,
        before,
        after,
        effect,
        confidence: merged(partition, at).1,
    }
}
