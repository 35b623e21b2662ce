use proptest::prelude::*;

use super::*;

const NOON: i64 = 1_795_341_600_000;
const MINUTE: i64 = 60_000;
/// The minutes in which an episode opens, given one score a minute.
fn opened(scores: &[f64]) -> Vec<usize> {
    let (config, mut episode) = (Config::default(), Episode::default());
    let opens = |(minute, score): (usize, &f64)| {
        episode
            .observe(&config, NOON + minute as i64 * MINUTE, *score)
            .then_some(minute)
    };
    scores.iter().enumerate().filter_map(opens).collect()
}

#[test]
fn an_episode_opens_at_three_high_of_five_and_closes_at_five_low() {
    let cases: [(&str, &[f64], &[usize]); 7] = [
        ("one spike", &[0.0, 1.0, 0.0, 0.0, 0.0], &[]),
        ("two of five", &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0], &[]),
        ("three of five", &[1.0, 0.0, 1.0, 0.0, 1.0], &[4]),
        ("high for an hour", &[0.9; 60], &[2]),
        (
            "down, but not below the closing threshold",
            &[0.9, 0.9, 0.9, 0.31, 0.31, 0.31, 0.31, 0.31, 0.9, 0.9, 0.9],
            &[2],
        ),
        (
            "five low scores, then high again",
            &[0.9, 0.9, 0.9, 0.2, 0.2, 0.2, 0.2, 0.2, 0.9, 0.9, 0.9],
            &[2, 10],
        ),
        ("NaN scores", &[f64::NAN, f64::NAN, f64::NAN], &[]),
    ];
    for (name, scores, expected) in cases {
        assert_eq!(opened(scores), expected, "{name}");
    }
}

#[test]
fn scores_before_a_gap_do_not_count() {
    let (config, mut episode) = (Config::default(), Episode::default());
    let mut at = |minute: i64| episode.observe(&config, NOON + minute * MINUTE, 1.0);
    assert_eq!(
        [0, 1, 40, 41, 42].map(&mut at),
        [false, false, false, false, true]
    );
    assert_eq!(
        [80, 81, 82].map(at),
        [false, false, true],
        "a new episode after a gap"
    );
}

#[test]
fn silence_doubles_and_resets_after_a_day() {
    let config = Config {
        device_day_max: 100,
        ..Config::default()
    };
    let (mut rest, mut budget) = (Rest::default(), Budget::default());
    let mut told = Vec::new();
    for minute in 0..24 * 60 {
        if notify(&config, &mut rest, &mut budget, NOON + minute * MINUTE) {
            told.push(minute);
        }
    }
    assert_eq!(told, [0, 30, 90, 210, 450, 930]);
    let later = NOON + (930 + 24 * 60) * MINUTE;
    assert!(notify(&config, &mut rest, &mut budget, later));
    assert!(!notify(&config, &mut rest, &mut budget, later + 29 * MINUTE));
    assert!(notify(&config, &mut rest, &mut budget, later + 30 * MINUTE));
}

#[test]
fn all_series_of_a_device_share_one_daily_budget() {
    let (config, mut budget) = (Config::default(), Budget::default());
    let mut tell = |time_ms| notify(&config, &mut Rest::default(), &mut budget, time_ms);
    let told = (0..10).filter(|minute| tell(NOON + minute * MINUTE)).count();
    assert_eq!(told, 4);
    assert!(tell(NOON + 24 * 3_600_000));
    assert!(
        (0..9).filter(|_| tell(NOON)).count() == 3,
        "yesterday's budget is gone"
    );
}

proptest! {
    #[test]
    fn any_time_and_score_is_accepted(points in proptest::collection::vec((any::<i64>(), proptest::num::f64::ANY), 0..50)) {
        let config = Config::default();
        let (mut episode, mut rest, mut budget) = (Episode::default(), Rest::default(), Budget::default());
        for (time_ms, score) in points {
            episode.observe(&config, time_ms, score);
            notify(&config, &mut rest, &mut budget, time_ms);
            prop_assert_eq!(Episode::from_bytes(episode.to_bytes()), episode);
            prop_assert_eq!(Rest::from_bytes(rest.to_bytes()), rest);
            prop_assert_eq!(Budget::from_bytes(budget.to_bytes()), budget);
        }
    }
}
