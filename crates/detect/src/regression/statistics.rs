//! Welch's test, the tail of Student's t, and the false discovery rate.

use std::f64::consts::LN_10;

/// The result of comparing two means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Welch {
    /// The sizes of the two samples.
    pub treated: usize,
    pub controls: usize,
    /// The mean of the treated minus that of the controls, and its standard error.
    pub difference: f64,
    pub error: f64,
    /// The difference in standard errors.
    pub errors: f64,
    /// −log₁₀ of the two-sided p.
    pub surprise: f64,
    /// The standard deviation of the controls.
    pub deviation: f64,
}

impl Welch {
    /// The difference in standard deviations of the controls.
    pub fn effect(&self) -> f64 {
        self.difference / self.deviation
    }
}

/// Welch's test of two samples; `None` if the controls do not vary or numbers overflow.
pub fn welch(treated: &[f64], controls: &[f64]) -> Option<Welch> {
    let ((mean, variance), (control_mean, control_variance)) = (moments(treated), moments(controls));
    let (n, m) = (treated.len() as f64, controls.len() as f64);
    let (one, other) = (variance / n, control_variance / m);
    let error = (one + other).sqrt();
    let freedom = (one + other).powi(2) / (one * one / (n - 1.0) + other * other / (m - 1.0));
    let difference = mean - control_mean;
    let errors = difference / error;
    let sound = error > 0.0 && control_variance > 0.0 && errors.is_finite() && freedom.is_finite();
    sound.then(|| Welch {
        treated: treated.len(),
        controls: controls.len(),
        difference,
        error,
        errors,
        surprise: -ln_tails(errors, freedom) / LN_10,
        deviation: control_variance.sqrt(),
    })
}

fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (
        mean,
        values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0),
    )
}

/// The median, 0 for no values; reorders the values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values {
        [] => 0.0,
        _ if values.len() % 2 == 1 => values[middle],
        _ => values[middle - 1] / 2.0 + values[middle] / 2.0,
    }
}

/// Whether each hypothesis, given by its −log₁₀ p, is a discovery at this false discovery rate (Benjamini & Hochberg
/// 1995, doi:10.1111/j.2517-6161.1995.tb02031.x).
pub fn discoveries(surprises: &[f64], rate: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..surprises.len()).collect();
    order.sort_by(|one, other| surprises[*other].total_cmp(&surprises[*one]));
    let total = surprises.len() as f64;
    let enough =
        |(rank, at): &(usize, &usize)| surprises[**at] >= -(rate * (*rank as f64 + 1.0) / total).log10();
    let last = order
        .iter()
        .enumerate()
        .rfind(enough)
        .map_or(0, |(rank, _)| rank + 1);
    let mut found = vec![false; surprises.len()];
    for at in &order[..last] {
        found[*at] = true;
    }
    found
}

/// ln of the probability that Student's t is further from 0 than `t`: ln I(ν/(ν + t²); ν/2, ½).
fn ln_tails(t: f64, freedom: f64) -> f64 {
    let x = freedom / (freedom + t * t);
    let (a, b) = (freedom / 2.0, 0.5);
    // 1 − x, without loss of precision near x = 1.
    let rest = t * t / (freedom + t * t);
    let ln_front = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * rest.ln();
    if x < (a + 1.0) / (a + b + 2.0) {
        return ln_front + (fraction(x, a, b) / a).ln();
    }
    (1.0 - ln_front.exp() * fraction(rest, b, a) / b)
        .max(f64::MIN_POSITIVE)
        .ln()
        .min(0.0)
}

/// The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let kept = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / kept(1.0 - (a + b) * x / (a + 1.0));
    let mut all = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for part in [even, odd] {
            d = 1.0 / kept(1.0 + part * d);
            c = kept(1.0 + part / c);
            all *= d * c;
        }
        if (d * c - 1.0).abs() < 1e-14 {
            break;
        }
    }
    all
}

/// ln Γ(x) for x > 0: Stirling's series (DLMF 5.11.1), after the recurrence has made x large enough.
fn ln_gamma(mut x: f64) -> f64 {
    let mut below = 0.0;
    while x < 10.0 {
        below += x.ln();
        x += 1.0;
    }
    let square = x * x;
    let series =
        (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1_260.0 - 1.0 / 1_680.0 / square) / square) / square) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - below
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use statrs::distribution::{ContinuousCDF as _, StudentsT};

    use super::*;

    /// Quantiles of Student's t from the usual tables. With many degrees of freedom it is the normal distribution,
    /// whose tails at 40 are 2 φ(40)/40.
    #[test]
    fn tails_match_the_published_tables() {
        let cases = [
            (1.0, 1.0, 0.5),
            (12.706_204_736, 1.0, 0.05),
            (2.570_581_836, 5.0, 0.05),
            (4.032_142_984, 5.0, 0.01),
            (2.042_272_456, 30.0, 0.05),
            (1.959_963_985, 1e9, 0.05),
            (4.0, 1e9, 6.334_248_366_623_985e-5),
        ];
        for (t, freedom, expected) in cases {
            let p = ln_tails(t, freedom).exp();
            assert!(
                (p / expected - 1.0).abs() < 1e-6,
                "t {t}, {freedom} degrees: {p}, expected {expected}"
            );
        }
        assert!(
            (ln_tails(40.0, 1e9) / LN_10 + 349.136).abs() < 0.001,
            "{}",
            ln_tails(40.0, 1e9) / LN_10
        );
    }

    proptest! {
        /// `statrs` computes the same tails and the same gamma function, where its result does not underflow.
        #[test]
        fn a_statistics_library_computes_the_same_tails(t in 0.01_f64..30.0, freedom in 1.0_f64..500.0) {
            let theirs = 2.0 * StudentsT::new(0.0, 1.0, freedom).expect("a distribution").sf(t);
            prop_assume!(theirs > 1e-200);
            let ours = ln_tails(t, freedom);
            prop_assert!((ours - theirs.ln()).abs() < 1e-7 * theirs.ln().abs().max(1.0), "{} {}", ours, theirs.ln());
            let gamma = statrs::function::gamma::ln_gamma(freedom);
            prop_assert!((ln_gamma(freedom) - gamma).abs() < 1e-9 * gamma.abs().max(1.0));
        }
    }

    #[test]
    fn discoveries_follow_the_procedure() {
        let p = [
            0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216,
        ];
        let surprises: Vec<f64> = p.iter().map(|p: &f64| -p.log10()).collect();
        let count = |rate| {
            discoveries(&surprises, rate)
                .into_iter()
                .filter(|found| *found)
                .count()
        };
        assert_eq!((count(0.05), count(0.1), count(0.0001)), (2, 6, 0));
        assert_eq!(discoveries(&[], 0.1), Vec::<bool>::new());
    }

    #[test]
    fn a_sample_without_variance_has_no_test() {
        assert_eq!(welch(&[1.0; 30], &[2.0; 30]), None);
        assert_eq!(welch(&[f64::MAX, f64::MIN], &[1.0, 2.0]), None);
    }
}
