//! Records that no well-meaning producer sends, each of which gets its one outcome while the lane goes on. (The hostile
//! fleet of `main_path` has the other misdeeds.)

use pulsegate_loadtest::fleet::{Draft, Fleet, Hostile};
use pulsegate_loadtest::kafka::Producer;
use pulsegate_loadtest::outcome::Outcome;
use pulsegate_loadtest::record::{Header, Record};

use crate::main_path::fleet;
use crate::world::in_a_world;

/// What is done to a good record, and what comes of it.
type Case = (&'static str, fn(&mut Record), Outcome);

const CASES: [Case; 8] = [
    (
        "ten megabytes",
        |record| record.value = Some(vec![b' '; 10_000_000]),
        Outcome::TooLarge,
    ),
    (
        "a hundred headers",
        |record| pad_headers(record, 100),
        Outcome::TooLarge,
    ),
    (
        "a null value",
        |record| record.value = None,
        Outcome::BadSignature,
    ),
    ("a null key", |record| record.key = None, Outcome::Misrouted),
    (
        "no headers",
        |record| record.headers.clear(),
        Outcome::MissingSignature,
    ),
    (
        "a header twice",
        |record| record.headers.extend(record.headers.clone()),
        Outcome::MalformedSignature,
    ),
    (
        "a header that is not UTF-8",
        |record| record.headers.insert(0, Header::new(b"\xff\xfe", *b"x")),
        Outcome::Clean,
    ),
    (
        "a byte more",
        |record| record.value.get_or_insert_default().push(b' '),
        Outcome::BadSignature,
    ),
];

fn pad_headers(record: &mut Record, count: usize) {
    record
        .headers
        .resize_with(count, || Header::new(b"padding", *b"x"));
}

#[test]
fn each_bad_record_gets_its_outcome_and_the_lane_goes_on() {
    in_a_world("bad", "", |world| {
        let mut fleet = fleet(world, 20, Hostile::default());
        world.import(&fleet);
        let mut producer =
            Producer::new(&world.kafka(), &world.config.topics.raw, "none").expect("a producer");
        for (_, spoil, _) in CASES {
            let mut draft = next(&mut fleet);
            let home = draft.partition(producer.partitions());
            spoil(&mut draft.record);
            producer.send(&draft.record, home);
            // The lane goes on.
            let good = next(&mut fleet);
            producer.send(&good.record, good.partition(producer.partitions()));
        }
        producer.finish().expect("delivered");
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        let report = world.judge(&fleet);
        for outcome in Outcome::ALL {
            let expected = CASES.iter().filter(|(_, _, of)| *of == outcome).count() as u64;
            let good = if outcome == Outcome::Clean {
                CASES.len() as u64
            } else {
                0
            };
            let found = report.total.ledger.get(&outcome).copied().unwrap_or_default();
            assert_eq!(found, expected + good, "{outcome:?}\n{report}");
        }
        assert!(report.is_good(), "{report}");
        assert!(gate.terminate().success());
    });
}

fn next(fleet: &mut Fleet) -> Draft {
    let mut draft = Draft::default();
    fleet
        .next(jiff::Timestamp::now().as_millisecond(), &mut draft)
        .expect("an event");
    draft
}
