use proptest::prelude::*;

use super::*;

const NOON: i64 = 1_795_341_600_000;
const MINUTE: i64 = 60_000;
const HEART: About<'static> = About {
    firmware: "2.1",
    model: "band",
    metric: "heart_rate",
};

/// The minutes in which an episode opens, of scores a minute apart.
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
fn an_episode_opens_once_at_three_of_five_and_closes_at_five_low() {
    let cases: [(&str, &[f64], &[usize]); 7] = [
        ("one spike", &[0.0, 1.0, 0.0, 0.0, 0.0], &[]),
        ("two of five", &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0], &[]),
        ("three of five", &[1.0, 0.0, 1.0, 0.0, 1.0], &[4]),
        ("for long", &[0.9; 60], &[2]),
        (
            "down to above what closes it",
            &[0.9, 0.9, 0.9, 0.31, 0.31, 0.31, 0.31, 0.31, 0.9, 0.9, 0.9],
            &[2],
        ),
        (
            "low for five, again",
            &[0.9, 0.9, 0.9, 0.2, 0.2, 0.2, 0.2, 0.2, 0.9, 0.9, 0.9],
            &[2, 10],
        ),
        ("no numbers", &[f64::NAN, f64::NAN, f64::NAN], &[]),
    ];
    for (name, scores, expected) in cases {
        assert_eq!(opened(scores), expected, "{name}");
    }
}

#[test]
fn what_was_before_a_gap_does_not_count() {
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
fn silence_doubles_and_is_forgiven_after_a_day() {
    let config = Config {
        device_day_max: 100,
        ..Config::default()
    };
    let (mut rest, mut budget) = (Rest::default(), Budget::default());
    let mut told = Vec::new();
    for minute in 0..24 * 60 {
        if notify(
            &config,
            &Grouping::Alone,
            &mut rest,
            &mut budget,
            NOON + minute * MINUTE,
        ) {
            told.push(minute);
        }
    }
    assert_eq!(told, [0, 30, 90, 210, 450, 930]);
    let later = NOON + (930 + 24 * 60) * MINUTE;
    assert!(notify(&config, &Grouping::Alone, &mut rest, &mut budget, later));
    assert!(!notify(
        &config,
        &Grouping::Alone,
        &mut rest,
        &mut budget,
        later + 29 * MINUTE
    ));
    assert!(notify(
        &config,
        &Grouping::Alone,
        &mut rest,
        &mut budget,
        later + 30 * MINUTE
    ));
}

#[test]
fn a_device_has_a_budget_a_day_for_all_its_series() {
    let (config, mut budget) = (Config::default(), Budget::default());
    let mut tell = |time_ms| {
        notify(
            &config,
            &Grouping::Alone,
            &mut Rest::default(),
            &mut budget,
            time_ms,
        )
    };
    let told = (0..10).filter(|minute| tell(NOON + minute * MINUTE)).count();
    assert_eq!(told, 4);
    assert!(tell(NOON + 24 * 3_600_000));
    assert!(
        (0..9).filter(|_| tell(NOON)).count() == 3,
        "yesterday has no budget of its own any more"
    );
}

#[test]
fn one_in_a_hundred_of_a_cohort_is_one_finding_and_the_rest_stay_silent() {
    let config = Config::default();
    let mut groups = Groups::default();
    for _ in 0..1_000 {
        groups.joins(None, 7);
    }
    let mut observe = |device: u64, at_ms: i64| groups.observe(&config, (7, 0), &HEART, device, NOON + at_ms);
    for device in 0..9 {
        assert_eq!(
            observe(device, device as i64 * 1_000),
            Grouping::Alone,
            "device {device}"
        );
        assert_eq!(
            observe(device, device as i64 * 1_000),
            Grouping::Alone,
            "the same device counts once"
        );
    }
    let Grouping::Completes(together) = observe(9, 10_000) else {
        panic!("ten of a thousand are a group")
    };
    assert_eq!((together.devices, together.of), (10, 1_000));
    for device in 10..500 {
        assert_eq!(
            observe(device, 10_000 + device as i64 * 1_000),
            Grouping::Member(together.id)
        );
    }
    let later = 500_000 + 5 * MINUTE + 500_000;
    assert_eq!(observe(0, later), Grouping::Alone, "the group has ended");
    let (mut rest, mut budget) = (Rest::default(), Budget::default());
    assert!(!notify(
        &config,
        &Grouping::Member(together.id),
        &mut rest,
        &mut budget,
        NOON
    ));
    assert_eq!(
        (rest, budget),
        (Rest::default(), Budget::default()),
        "silence for a group costs nothing"
    );
}

#[test]
fn lanes_that_see_the_same_give_the_same_id() {
    let config = Config::default();
    let id = |devices: std::ops::Range<u64>, from_ms: i64| {
        let mut groups = Groups::default();
        groups.joins(None, 7);
        let mut last = Grouping::Alone;
        for device in devices {
            last = groups.observe(&config, (7, 0), &HEART, device, from_ms + device as i64);
        }
        last.id()
    };
    assert!(id(0..3, NOON).is_some());
    assert_eq!(id(0..3, NOON), id(50..53, NOON + MINUTE));
    assert_ne!(id(0..3, NOON), id(0..3, NOON + 5 * MINUTE));
}

#[test]
fn cohorts_grow_and_shrink() {
    let mut groups = Groups::default();
    groups.joins(None, 1);
    groups.joins(Some(1), 2);
    groups.leaves(2);
    groups.leaves(2);
    assert_eq!(groups, Groups::default());
}

proptest! {
    #[test]
    fn the_state_reads_back_and_goes_on_the_same(
        events in proptest::collection::vec((0_u64..3, 0_u16..2, 0_u64..30, 0_i64..400_000), 0..200),
    ) {
        let config = Config::default();
        let mut groups = Groups::default();
        let mut now = NOON;
        for (cohort, metric, device, wait) in events {
            groups.joins(None, cohort);
            now += wait;
            let mut other = Groups::from_bytes(&groups.to_bytes()).expect("its own bytes");
            prop_assert_eq!(&other, &groups);
            let same = groups.observe(&config, (cohort, metric), &HEART, device, now);
            prop_assert_eq!(other.observe(&config, (cohort, metric), &HEART, device, now), same);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Some(groups) = Groups::from_bytes(&bytes) {
            prop_assert_eq!(Groups::from_bytes(&groups.to_bytes()), Some(groups));
        }
    }

    #[test]
    fn any_time_and_score_is_taken(points in proptest::collection::vec((any::<i64>(), proptest::num::f64::ANY), 0..50)) {
        let config = Config::default();
        let (mut episode, mut rest, mut budget) = (Episode::default(), Rest::default(), Budget::default());
        let mut groups = Groups::default();
        for (time_ms, score) in points {
            episode.observe(&config, time_ms, score);
            notify(&config, &Grouping::Alone, &mut rest, &mut budget, time_ms);
            groups.observe(&config, (1, 1), &HEART, 1, time_ms);
            prop_assert_eq!(Episode::from_bytes(episode.to_bytes()), episode);
            prop_assert_eq!(Rest::from_bytes(rest.to_bytes()), rest);
            prop_assert_eq!(Budget::from_bytes(budget.to_bytes()), budget);
        }
    }
}
