#![expect(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

use proptest::prelude::*;

use super::*;

const FRESHNESS_MS: i64 = 300_000;
const GENERATION_MS: i64 = 2 * FRESHNESS_MS;
/// Start of a generation.
const START_MS: i64 = 1_800_000_000_000;

fn rate(events_per_minute: u32, burst: u32) -> Rate {
    Rate {
        events_per_minute: NonZeroU32::new(events_per_minute).unwrap(),
        burst: NonZeroU32::new(burst).unwrap(),
    }
}

fn admission() -> Admission {
    Admission::new(&Config::default(), FRESHNESS_MS)
}

fn jws(boot: u64, number: u64, issued_ms: i64) -> Sequence {
    Sequence {
        issued_ms,
        id: MessageId::Jws { boot, number },
    }
}

fn webhook(hash: u64, issued_ms: i64) -> Sequence {
    Sequence {
        issued_ms,
        id: MessageId::Webhook { hash },
    }
}

impl Admission {
    /// Admits one record that was signed when it was appended.
    fn at(&mut self, slot: u32, id: (u64, u64), appended_ms: i64) -> Outcome {
        self.admit(slot, 0, jws(id.0, id.1, appended_ms), appended_ms)
            .map_or_else(|outcome| outcome, |_| Outcome::Clean)
    }

    fn contents(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        (self.clock, self.current.contents(), self.previous.contents())
    }
}

const STALE: Outcome = Outcome::Rejected(Reason::Stale);
const LIMITED: Outcome = Outcome::Rejected(Reason::RateLimited);

#[test]
fn a_repeat_is_a_duplicate_in_any_order_within_the_window() {
    let mut lane = admission();
    for number in [1_000, 1_001, 600, 999, 490] {
        assert_eq!(lane.at(1, (1, number), START_MS), Outcome::Clean, "{number}");
        assert_eq!(lane.at(1, (1, number), START_MS), Outcome::Duplicate, "{number}");
    }
    // 1001 - 490 = 511 is the oldest message that a window of 512 covers.
    assert_eq!(lane.at(1, (1, 489), START_MS), STALE);
    assert_eq!(
        lane.at(2, (1, 489), START_MS),
        Outcome::Clean,
        "another device has its own window"
    );
}

#[test]
fn a_jump_clears_what_the_window_moves_over_and_nothing_else() {
    let mut lane = admission();
    for number in [0, 1, 511, 512, 700, 1_211, 5_000, 5_512] {
        assert_eq!(lane.at(1, (1, number), START_MS), Outcome::Clean, "{number}");
    }
    assert_eq!(lane.at(1, (1, 5_001), START_MS), Outcome::Clean);
    assert_eq!(lane.at(1, (1, 5_000), START_MS), STALE);
    assert_eq!(lane.at(1, (1, u64::MAX), START_MS), Outcome::Clean);
    assert_eq!(lane.at(1, (1, u64::MAX), START_MS), Outcome::Duplicate);
    assert_eq!(lane.at(1, (1, u64::MAX - 511), START_MS), Outcome::Clean);
    assert_eq!(lane.at(1, (1, u64::MAX - 512), START_MS), STALE);
}

#[test]
fn a_later_boot_starts_anew_and_an_earlier_one_cannot_be_judged() {
    let mut lane = admission();
    assert_eq!(lane.at(1, (7, 900), START_MS), Outcome::Clean);
    assert_eq!(lane.at(1, (8, 0), START_MS), Outcome::Clean);
    assert_eq!(lane.at(1, (7, 901), START_MS), STALE);
    assert_eq!(lane.at(1, (8, 0), START_MS), Outcome::Duplicate);
    let next_ms = START_MS + GENERATION_MS;
    assert_eq!(
        lane.at(1, (7, 902), next_ms),
        STALE,
        "the generation before knows the later boot"
    );
    assert_eq!(lane.at(1, (8, 1), next_ms), Outcome::Clean);
}

#[test]
fn a_repeat_is_detected_as_long_as_it_is_fresh() {
    let mut lane = admission();
    // The first copy is signed as late as is fresh, the second arrives as late as is fresh.
    let issued_ms = START_MS + GENERATION_MS - 1 + FRESHNESS_MS;
    let first = |lane: &mut Admission, id| {
        lane.admit(1, 0, Sequence { issued_ms, id }, issued_ms - FRESHNESS_MS)
            .err()
    };
    let second = |lane: &mut Admission, id| {
        lane.admit(1, 0, Sequence { issued_ms, id }, issued_ms + FRESHNESS_MS)
            .err()
    };
    let ids = [
        MessageId::Jws { boot: 1, number: 1 },
        MessageId::Webhook { hash: 1 },
    ];
    assert!(ids.iter().all(|&id| first(&mut lane, id).is_none()));
    for id in ids {
        assert_eq!(second(&mut lane, id), Some(Outcome::Duplicate));
    }
}

#[test]
fn idle_devices_vanish_with_their_generation() {
    let mut lane = admission();
    for slot in 0..1_000 {
        assert_eq!(lane.at(slot, (1, 1), START_MS), Outcome::Clean);
    }
    assert_eq!(lane.at(0, (1, 2), START_MS + GENERATION_MS), Outcome::Clean);
    assert_eq!((lane.current.devices(), lane.previous.devices()), (1, 1_000));
    assert_eq!(lane.at(0, (1, 3), START_MS + 2 * GENERATION_MS), Outcome::Clean);
    assert_eq!((lane.current.devices(), lane.previous.devices()), (1, 1));
    assert_eq!(lane.at(0, (1, 4), START_MS + 4 * GENERATION_MS), Outcome::Clean);
    assert_eq!((lane.current.devices(), lane.previous.devices()), (1, 0));
}

#[test]
fn the_rate_is_set_by_class_and_counted_by_device() {
    let classes = [("infusion-pump".to_owned(), rate(60, 2))].into();
    let mut lane = Admission::new(
        &Config {
            classes,
            rate: rate(60, 4),
            ..Config::default()
        },
        FRESHNESS_MS,
    );
    lane.learn_classes(["wearable"]);
    lane.learn_classes(["wearable", "infusion-pump"]);
    let mut burst = |slot, class| {
        let admitted = |lane: &mut Admission, number| {
            lane.admit(slot, class, jws(1, number, START_MS), START_MS)
                .is_ok()
        };
        (0..10).take_while(|&number| admitted(&mut lane, number)).count()
    };
    // The class's rate, the default rate, and a class that the lane does not know yet.
    assert_eq!([burst(1, 1), burst(2, 0), burst(3, 9), burst(4, 1)], [2, 4, 4, 2]);
    let mut later = |number, now_ms| lane.admit(1, 1, jws(1, number, now_ms), now_ms).err();
    assert_eq!(later(100, START_MS + 999), Some(LIMITED));
    assert_eq!(later(101, START_MS + 1_000), None);
}

#[test]
fn a_record_beyond_the_rate_is_remembered_but_not_counted() {
    let mut lane = Admission::new(
        &Config {
            rate: rate(60, 1),
            ..Config::default()
        },
        FRESHNESS_MS,
    );
    assert_eq!(lane.at(1, (1, 1), START_MS), Outcome::Clean);
    for number in 2..50 {
        assert_eq!(lane.at(1, (1, number), START_MS), LIMITED);
    }
    assert_eq!(
        lane.at(1, (1, 2), START_MS),
        Outcome::Duplicate,
        "its first copy is in the deadletter topic"
    );
    assert_eq!(lane.at(1, (1, 50), START_MS + 1_000), Outcome::Clean);
}

#[test]
fn a_generation_costs_at_most_one_more_burst() {
    let mut lane = Admission::new(
        &Config {
            rate: rate(1, 3),
            ..Config::default()
        },
        FRESHNESS_MS,
    );
    let end_ms = START_MS + GENERATION_MS - 1;
    let clean = |lane: &mut Admission, numbers: std::ops::Range<u64>, now_ms| {
        numbers
            .filter(|&number| lane.at(1, (1, number), now_ms) == Outcome::Clean)
            .count()
    };
    assert_eq!(clean(&mut lane, 0..10, end_ms), 3);
    assert_eq!(clean(&mut lane, 10..20, end_ms + 1), 3);
    assert_eq!(clean(&mut lane, 20..30, end_ms + 2), 0);
}

#[test]
fn a_lane_without_room_for_a_device_or_an_id_returns_rate_limited() {
    let config = Config {
        devices_max: 2,
        webhook_ids_max: 3,
        ..Config::default()
    };
    let mut lane = Admission::new(&config, FRESHNESS_MS);
    assert_eq!(
        [1, 2, 3, 1].map(|slot| lane.at(slot, (1, 1), START_MS)),
        [Outcome::Clean, Outcome::Clean, LIMITED, Outcome::Duplicate]
    );
    let mut hook = |hash, now_ms| lane.admit(1, 0, webhook(hash, now_ms), now_ms).err();
    assert_eq!(
        [1, 2, 3, 4, 3].map(|hash| hook(hash, START_MS)),
        [None, None, None, Some(LIMITED), Some(Outcome::Duplicate)]
    );
    // A full generation still finds what the previous one remembers.
    let next_ms = START_MS + GENERATION_MS;
    assert_eq!([7, 8, 9].map(|hash| hook(hash, next_ms)), [None; 3]);
    assert_eq!(hook(1, next_ms), Some(Outcome::Duplicate));
    assert_eq!(hook(5, next_ms), Some(LIMITED));
}

#[test]
fn ids_of_one_hash_belong_to_their_devices() {
    let mut lane = admission();
    assert_eq!(
        [1, 2].map(|slot| lane.admit(slot, 0, webhook(5, START_MS), START_MS).err()),
        [None, None]
    );
}

#[test]
fn a_step_back_does_not_let_a_repeat_through() {
    let mut lane = admission();
    let last_ms = START_MS + GENERATION_MS - 1;
    assert_eq!(lane.at(1, (1, 1), last_ms), Outcome::Clean);
    // A device whose clock agrees with a broker that is five minutes ahead takes the lane two generations on.
    assert_eq!(lane.at(2, (1, 1), START_MS + 2 * GENERATION_MS), Outcome::Clean);
    // Back at the correct time the repeat would be fresh, but the lane's clock stands still, so it is stale.
    let again = lane.admit(1, 0, jws(1, 1, last_ms), last_ms + FRESHNESS_MS);
    assert_eq!(again.err(), Some(STALE));
}

#[test]
fn a_lane_whose_clock_was_far_ahead_starts_over() {
    let mut lane = Admission::new(
        &Config {
            rate: rate(60, 1),
            ..Config::default()
        },
        FRESHNESS_MS,
    );
    assert_eq!(lane.at(1, (1, 1), START_MS + 86_400_000), Outcome::Clean);
    assert_eq!(lane.at(1, (1, 2), START_MS), Outcome::Clean);
    assert_eq!(lane.at(1, (1, 3), START_MS + 1_000), Outcome::Clean);
}

#[test]
fn an_aborted_transaction_across_generations_is_undone() {
    let mut lane = admission();
    lane.at(1, (1, 1), START_MS);
    lane.at(2, (1, 1), START_MS);
    let before = lane.contents();
    let first = lane.savepoint();
    lane.at(1, (1, 2), START_MS + 1);
    lane.at(1, (1, 3), START_MS + GENERATION_MS);
    lane.at(3, (1, 1), START_MS + GENERATION_MS);
    let _second = lane.savepoint();
    lane.at(3, (1, 2), START_MS + 2 * GENERATION_MS);
    lane.at(3, (1, 2), START_MS + 9 * GENERATION_MS);
    lane.rollback_to(first);
    assert_eq!(lane.contents(), before);
}

#[test]
#[should_panic(expected = "no longer open")]
fn a_savepoint_that_was_rolled_back_with_an_earlier_one_panics() {
    let mut lane = admission();
    let first = lane.savepoint();
    let second = lane.savepoint();
    lane.rollback_to(first);
    lane.rollback_to(second);
}

/// A record that is fresh by its own append time, so `verify` would pass it.
#[derive(Clone, Copy, Debug)]
struct Logged {
    slot: u32,
    sequence: Sequence,
    appended_ms: i64,
}

impl Logged {
    fn admit(self, lane: &mut Admission) -> Outcome {
        let outcome = lane.admit(self.slot, (self.slot % 2) as u8, self.sequence, self.appended_ms);
        outcome.map_or_else(|outcome| outcome, |_| Outcome::Clean)
    }
}

/// One step of a random log.
#[derive(Clone, Debug)]
enum Event {
    Jws {
        slot: u32,
        boot: u64,
        number: u64,
        skew_ms: i64,
    },
    Webhook {
        slot: u32,
        hash: u64,
        skew_ms: i64,
    },
    /// A replay of an earlier record, if it is still fresh.
    Replay {
        back: prop::sample::Index,
    },
    /// Consecutive messages of one device.
    Flood {
        slot: u32,
        boot: u64,
        from: u64,
        count: u64,
    },
    /// Time passes, or steps back.
    Step {
        ms: i64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let skew = prop_oneof![3 => -5_000..5_000_i64, 1 => -FRESHNESS_MS..=FRESHNESS_MS];
    let skew2 = skew.clone();
    prop_oneof![
        6 => (0..6_u32, 0..3_u64, 0..400_u64, skew).prop_map(|(slot, boot, number, skew_ms)| Event::Jws { slot, boot, number, skew_ms }),
        3 => (0..6_u32, 0..40_u64, skew2).prop_map(|(slot, hash, skew_ms)| Event::Webhook { slot, hash, skew_ms }),
        6 => any::<prop::sample::Index>().prop_map(|back| Event::Replay { back }),
        1 => (0..6_u32, 0..3_u64, 0..400_u64, 1..30_u64).prop_map(|(slot, boot, from, count)| Event::Flood { slot, boot, from, count }),
        6 => (0..60_000_i64).prop_map(|ms| Event::Step { ms }),
        1 => (0..GENERATION_MS * 3).prop_map(|ms| Event::Step { ms }),
        2 => (0..20_000_i64).prop_map(|ms| Event::Step { ms: -ms }),
        1 => (0..GENERATION_MS * 2).prop_map(|ms| Event::Step { ms: -ms }),
    ]
}

fn log(events: &[Event]) -> Vec<Logged> {
    let mut log: Vec<Logged> = Vec::new();
    let mut now_ms = START_MS;
    for event in events {
        match *event {
            Event::Jws {
                slot,
                boot,
                number,
                skew_ms,
            } => {
                log.push(Logged {
                    slot,
                    sequence: jws(boot, number, now_ms + skew_ms),
                    appended_ms: now_ms,
                });
            }
            Event::Webhook { slot, hash, skew_ms } => {
                log.push(Logged {
                    slot,
                    sequence: webhook(hash, now_ms + skew_ms),
                    appended_ms: now_ms,
                });
            }
            Event::Replay { back } if !log.is_empty() => {
                let again = Logged {
                    appended_ms: now_ms,
                    ..log[back.index(log.len())]
                };
                if (again.sequence.issued_ms - now_ms).abs() <= FRESHNESS_MS {
                    log.push(again);
                }
            }
            Event::Replay { .. } => {}
            Event::Flood {
                slot,
                boot,
                from,
                count,
            } => log.extend((from..from + count).map(|number| Logged {
                slot,
                sequence: jws(boot, number, now_ms),
                appended_ms: now_ms,
            })),
            Event::Step { ms } => now_ms += ms,
        }
    }
    log
}

/// Small bounds, so that the logs reach them.
fn tight() -> Admission {
    let config = Config {
        window_messages: 64,
        devices_max: 5,
        webhook_ids_max: 12,
        rate: rate(60, 5),
        classes: [("slow".to_owned(), rate(6, 3))].into(),
    };
    let mut lane = Admission::new(&config, FRESHNESS_MS);
    lane.learn_classes(["plain", "slow"]);
    lane
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Exactly-once after a rebalance rests on this: a lane that reads the log again from `rebuild_start_ms` decides
    /// every later record as the lane that has read all of it.
    #[test]
    fn a_rebuilt_lane_decides_as_the_one_that_saw_everything(
        events in prop::collection::vec(event(), 1..200),
        resume in any::<prop::sample::Index>(),
    ) {
        let log = log(&events);
        prop_assume!(!log.is_empty());
        let resume = resume.index(log.len());
        let mut full = tight();
        let decided: Vec<_> = log.iter().map(|record| record.admit(&mut full)).collect();

        let from_ms = Admission::rebuild_start_ms(FRESHNESS_MS, log[resume].appended_ms);
        // Like the broker's lookup by time: the first offset whose timestamp is at or after it.
        let from = log.iter().position(|record| record.appended_ms >= from_ms).unwrap();
        let mut rebuilt = tight();
        for (offset, record) in log.iter().enumerate().skip(from) {
            let outcome = record.admit(&mut rebuilt);
            if offset >= resume {
                prop_assert_eq!(outcome, decided[offset], "offset {} of {}, rebuilt from {}", offset, log.len(), from);
            }
        }
        prop_assert_eq!(rebuilt.current.contents(), full.current.contents());
    }

    /// No message of a device is clean twice, unless the lane's clock was wrong by more than a generation.
    #[test]
    fn nothing_is_admitted_twice(events in prop::collection::vec(event(), 1..300)) {
        let events: Vec<_> = events.into_iter().filter(|event| !matches!(event, Event::Step { ms } if *ms < -GENERATION_MS)).collect();
        let (mut lane, mut seen, mut newest_ms) = (tight(), std::collections::BTreeSet::new(), i64::MIN);
        for record in log(&events) {
            newest_ms = newest_ms.max(record.appended_ms);
            if newest_ms - record.appended_ms > GENERATION_MS {
                break;
            }
            if record.admit(&mut lane) == Outcome::Clean {
                let id = match record.sequence.id {
                    MessageId::Jws { boot, number } => (0, boot, number),
                    MessageId::Webhook { hash } => (1, 0, hash),
                };
                prop_assert!(seen.insert((record.slot, id, record.sequence.issued_ms)));
            }
        }
    }

    /// Two transactions in flight, with aborts and commits in any order: an abort restores the state.
    #[test]
    fn an_abort_leaves_no_trace(
        batches in prop::collection::vec((prop::collection::vec(event(), 0..25), 0..4_u8), 1..20),
    ) {
        let mut lane = tight();
        // The open transactions, oldest first, with the lane as it was before each.
        let mut open: Vec<(Savepoint, Admission)> = Vec::new();
        let mut events = Vec::new();
        for (batch, what) in batches {
            let before = lane.clone();
            open.push((lane.savepoint(), before));
            let start = log(&events).len();
            events.extend(batch);
            for record in log(&events).split_off(start) {
                record.admit(&mut lane);
            }
            match what {
                0 => {
                    let (savepoint, before) = open.swap_remove(0);
                    open.clear();
                    lane.rollback_to(savepoint);
                    prop_assert_eq!(lane.contents(), before.contents());
                }
                1 if open.len() > 1 => {
                    let (savepoint, before) = open.swap_remove(open.len() - 1);
                    lane.rollback_to(savepoint);
                    prop_assert_eq!(lane.contents(), before.contents());
                }
                2 => lane.commit_through(open.remove(0).0),
                _ => {}
            }
            // The pipeline never holds more than two.
            while open.len() > 2 {
                lane.commit_through(open.remove(0).0);
            }
        }
        for (savepoint, before) in open.into_iter().rev() {
            lane.rollback_to(savepoint);
            prop_assert_eq!(lane.contents(), before.contents());
        }
        prop_assert!(lane.undo.is_empty());
    }
}
