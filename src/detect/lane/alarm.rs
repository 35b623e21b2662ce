//! When a series that scores high becomes a finding, and when it may become the next.

/// Points that decide, and how many of them have to be surprising (M of N).
const WINDOW: u32 = 5;
const SURPRISING_MIN: u32 = 3;
/// Below this part of the threshold a point is calm again.
const LEAVE_SHARE: f64 = 0.6;
/// Calm points in a row that end an alarm.
const CALM_ENDS: u8 = 5;

/// The alarm of one series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Alarm {
    /// A bit for each of the last points, the newest lowest: whether it was surprising.
    pub recent: u8,
    /// Calm points in a row.
    pub calm: u8,
    /// It was told and is not over.
    pub on: bool,
    /// When the first surprising point of now was.
    pub since_ms: i64,
}

impl Alarm {
    /// Goes on with the next point's surprise (−log₁₀ p). True when a finding begins. `enter` is the surprise that a point
    /// needs to count.
    pub fn observe(&mut self, time_ms: i64, surprise: f64, enter: f64) -> bool {
        let surprising = surprise >= enter;
        if surprising && self.recent == 0 && !self.on {
            self.since_ms = time_ms;
        }
        self.recent = (self.recent << 1 | u8::from(surprising)) & ((1 << WINDOW) - 1);
        if self.on {
            self.calm = if surprise < LEAVE_SHARE * enter {
                self.calm + 1
            } else {
                0
            };
            if self.calm >= CALM_ENDS {
                *self = Self::default();
            }
            return false;
        }
        self.on = self.recent.count_ones() >= SURPRISING_MIN;
        self.on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(surprises: &[f64]) -> Vec<usize> {
        let mut alarm = Alarm::default();
        let points = surprises.iter().enumerate();
        points
            .filter(|(at, surprise)| alarm.observe(*at as i64, **surprise, 4.0))
            .map(|(at, _)| at)
            .collect()
    }

    #[test]
    fn three_of_five_points_begin_a_finding_and_five_calm_ones_end_it() {
        assert_eq!(told(&[9.0, 0.0, 9.0, 0.0, 0.0, 0.0]), [0; 0], "two are not three");
        assert_eq!(told(&[9.0, 0.0, 0.0, 0.0, 9.0, 9.0]), [0; 0], "too far apart");
        assert_eq!(told(&[0.0, 9.0, 0.0, 9.0, 9.0, 9.0, 9.0]), [4], "told once");
        let calm = [0.0; 5];
        let (high, half) = ([9.0; 3], [3.0; 9]);
        assert_eq!(
            told(&[&high[..], &half, &high].concat()),
            [2],
            "half as high is not calm"
        );
        assert_eq!(told(&[&high[..], &calm, &high].concat()), [2, 10]);
    }

    #[test]
    fn it_remembers_since_when() {
        let mut alarm = Alarm::default();
        for (time_ms, surprise) in [(10, 9.0), (20, 0.0), (30, 9.0), (40, 9.0)] {
            alarm.observe(time_ms, surprise, 4.0);
        }
        assert!(alarm.on);
        assert_eq!(alarm.since_ms, 10);
    }
}
