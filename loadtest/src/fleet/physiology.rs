//! A body through the day: heart rate, oxygen, temperature, steps and breathing as functions of the hour, sleep,
//! activity and exercise. Plausible rather than exact: shapes and ranges come from textbooks, so that a detector on the
//! stream has something to learn and something to find.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::event::{Quality, Reading};
use super::person::rounded;

const MS_PER_HOUR: f64 = 3_600_000.0;
const MS_PER_DAY: i64 = 86_400_000;

/// Properties of a body that change slowly or not at all.
#[derive(Clone, Debug)]
pub struct Body {
    resting_rate: f64,
    highest_rate: f64,
    temperature: f64,
    oxygen: f64,
    breathing: f64,
    /// Offset of the local clock from UTC, in hours.
    zone: f64,
    bedtime: f64,
    sleep: f64,
    exercise_hour: f64,
    /// Days of exercise: bit n stands for day numbers that are n modulo 7.
    exercise_days: u8,
    /// From 0 to 1, drifts.
    activity: f64,
}

impl Body {
    /// Makes an adult body.
    pub fn make(age_years: f64, rng: &mut ChaCha8Rng) -> Self {
        let resting_rate: f64 = normal(rng, 62.0, 7.0).clamp(44.0, 84.0);
        Self {
            resting_rate,
            highest_rate: normal(rng, 208.0 - 0.7 * age_years, 6.0).clamp(125.0, 205.0),
            temperature: normal(rng, 36.7, 0.15).clamp(36.2, 37.2),
            oxygen: normal(rng, 97.6, 0.6).clamp(95.0, 99.0),
            breathing: normal(rng, 14.5, 1.5).clamp(11.0, 19.0),
            zone: f64::from(rng.random_range(0..3_u8)),
            bedtime: normal(rng, 23.0, 0.8).clamp(21.0, 25.5),
            sleep: normal(rng, 7.6, 0.6).clamp(5.5, 9.5),
            exercise_hour: [7.0, 12.2, 18.0][rng.random_range(0..3)],
            exercise_days: rng.random_range(0..128),
            activity: 0.1,
        }
    }

    /// Measures at a time (milliseconds since the Unix epoch) and replaces the content of `readings`. With `all` every
    /// metric, otherwise the heart rate only, as in the compact shape.
    pub fn measure(
        &mut self,
        at_ms: i64,
        step_ms: i64,
        all: bool,
        rng: &mut ChaCha8Rng,
        readings: &mut Vec<Reading>,
    ) {
        let hour = (at_ms.rem_euclid(MS_PER_DAY) as f64 / MS_PER_HOUR + self.zone) % 24.0;
        let since_bedtime = (hour - self.bedtime).rem_euclid(24.0);
        let asleep = since_bedtime < self.sleep;
        let exercising = self.exercises(at_ms, hour) && !asleep;
        self.drift(asleep, exercising, rng);
        // Lowest at about four in the morning, highest in the afternoon.
        let circadian = -((hour - 4.0) * std::f64::consts::TAU / 24.0).cos();

        readings.clear();
        let spread = self.highest_rate - self.resting_rate;
        let sleep_dip = if asleep {
            6.0 + 3.0 * (since_bedtime * std::f64::consts::TAU / 1.5).cos()
        } else {
            0.0
        };
        let heart = self.resting_rate + 3.0 * circadian + 0.8 * spread * self.activity - sleep_dip
            + normal(rng, 0.0, 1.8);
        let in_motion = self.activity > 0.55 && rng.random_range(0..4_u8) == 0;
        readings.push(Reading {
            metric: "heart_rate",
            value: rounded(heart.clamp(34.0, 212.0), 0),
            unit: all.then_some("/min"),
            quality: in_motion.then_some(Quality::Uncertain),
            offset_ms: None,
        });
        if !all {
            return;
        }
        let oxygen =
            self.oxygen - if asleep { 1.1 } else { 0.0 } - 0.8 * self.activity + normal(rng, 0.0, 0.45);
        readings.push(plain("spo2", rounded(oxygen.clamp(86.0, 100.0), 0), "%"));
        let temperature = self.temperature + 0.35 * circadian + 0.7 * self.activity + normal(rng, 0.0, 0.05);
        readings.push(plain("body_temperature", rounded(temperature, 2), "Cel"));
        let breathing =
            self.breathing + 16.0 * self.activity - if asleep { 1.8 } else { 0.0 } + normal(rng, 0.0, 0.7);
        readings.push(plain(
            "respiratory_rate",
            rounded(breathing.clamp(7.0, 48.0), 1),
            "/min",
        ));
        let minutes = step_ms as f64 / 60_000.0;
        let pace = if asleep || self.activity < 0.12 {
            0.0
        } else {
            175.0 * self.activity + normal(rng, 0.0, 6.0)
        };
        readings.push(plain(
            "steps",
            rounded((pace.clamp(0.0, 200.0) * minutes).min(99_999.0), 0),
            "{steps}",
        ));
    }

    fn exercises(&self, at_ms: i64, hour: f64) -> bool {
        let day = at_ms.div_euclid(MS_PER_DAY).rem_euclid(7);
        self.exercise_days >> day & 1 == 1 && (self.exercise_hour..self.exercise_hour + 0.75).contains(&hour)
    }

    /// Moves the activity towards the level of the hour, with bursts of walking while awake.
    fn drift(&mut self, asleep: bool, exercising: bool, rng: &mut ChaCha8Rng) {
        let (wanted, speed) = match (asleep, exercising) {
            (true, _) => (0.0, 0.35),
            (false, true) => (0.75, 0.3),
            (false, false) if rng.random_range(0..24_u8) == 0 => (0.5, 0.7),
            (false, false) => (0.08, 0.2),
        };
        self.activity += speed * (wanted - self.activity);
        if !asleep {
            self.activity += normal(rng, 0.0, 0.02);
        }
        self.activity = self.activity.clamp(0.0, 1.0);
    }
}

fn plain(metric: &'static str, value: f64, unit: &'static str) -> Reading {
    Reading {
        metric,
        value,
        unit: Some(unit),
        quality: None,
        offset_ms: None,
    }
}

fn normal(rng: &mut ChaCha8Rng, mean: f64, deviation: f64) -> f64 {
    let unit: f64 = rng.sample(StandardNormal);
    mean + deviation * unit
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_week_of_minutes_stays_plausible_and_has_a_night_and_a_day() {
        for seed in 0..20 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut body = Body::make(20.0 + 3.0 * seed as f64, &mut rng);
            let (mut readings, mut night, mut day) = (Vec::new(), Vec::new(), Vec::new());
            for minute in 0..7 * 24 * 60 {
                let at = minute * 60_000;
                body.measure(at, 60_000, true, &mut rng, &mut readings);
                for reading in &readings {
                    let plausible = match reading.metric {
                        "heart_rate" => 30.0..=220.0,
                        "spo2" => 70.0..=100.0,
                        "body_temperature" => 35.0..=39.0,
                        "respiratory_rate" => 4.0..=60.0,
                        "steps" => 0.0..=300.0,
                        other => panic!("unknown metric {other}"),
                    };
                    assert!(plausible.contains(&reading.value), "{reading:?}");
                }
                match (minute / 60 + body.zone as i64) % 24 {
                    2..=4 => night.push(readings[0].value),
                    14..=16 => day.push(readings[0].value),
                    _ => {}
                }
            }
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            assert!(
                mean(&day) > mean(&night) + 5.0,
                "the heart rate is higher by day (seed {seed})"
            );
        }
    }
}
