//! The kink of a continuous line with two slopes.

/// Minimum number of points on each side.
const POINTS_MIN: usize = 3;

/// The index at which the second slope begins, by least squares on 1, t and max(0, t − index); `None` for too few
/// values.
pub fn find(values: &[f64]) -> Option<usize> {
    let n = values.len();
    let count = n as f64;
    let mean_t = (count - 1.0) / 2.0;
    let mean_y = values.iter().sum::<f64>() / count;
    let spread_t = count * (count * count - 1.0) / 12.0;
    let slope = values
        .iter()
        .enumerate()
        .map(|(t, y)| (t as f64 - mean_t) * (y - mean_y))
        .sum::<f64>()
        / spread_t;
    let mut best: Option<(usize, f64)> = None;
    // The sums of the points beyond the hinge, and of h = max(0, t − at): one step down adds 1 to h at each of them.
    let (mut points, mut times, mut ys) = (0.0, 0.0, 0.0);
    let (mut h, mut hh, mut ht, mut hy) = (0.0, 0.0, 0.0, 0.0);
    for at in (POINTS_MIN..n.saturating_sub(1)).rev() {
        points += 1.0;
        times += (at + 1) as f64 - mean_t;
        ys += values[at + 1] - mean_y;
        hh += 2.0 * h + points;
        h += points;
        ht += times;
        hy += ys;
        if at + POINTS_MIN >= n {
            continue;
        }
        // The part that h explains beyond the straight line: its residual on 1 and t, against that of y.
        let spread = hh - h * h / count - ht * ht / spread_t;
        let gain = (hy - ht * slope).powi(2) / spread;
        if spread > 0.0 && best.is_none_or(|(_, most)| gain > most) {
            best = Some((at, gain));
        }
    }
    best.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn a_kink_is_found_where_it_is() {
        for at in [5_usize, 20, 44] {
            let values: Vec<f64> = (0..50)
                .map(|t| 3.0 - 0.5 * f64::from(t) + 2.0 * (f64::from(t) - at as f64).max(0.0))
                .collect();
            assert_eq!(find(&values), Some(at));
        }
    }

    #[test]
    fn a_short_series_has_no_kink() {
        for n in 0..6 {
            assert_eq!(find(&vec![1.0; n]), None, "{n} points");
        }
    }
}
