//! Records that no well-behaved producer sends: each gets its one outcome, and the lane continues. (The hostile fleet
//! of `main_path` covers the other misdeeds.)

use std::collections::{BTreeSet, HashMap};

use pulsegate::io::vault::opening::Opener;
use pulsegate_core::crypto::envelope::{FieldKey, key_id_of};
use pulsegate_core::crypto::kek::Source;
use pulsegate_core::gate::seal::quarantine_context;
use pulsegate_loadtest::fleet::{Draft, Fleet, Hostile};
use pulsegate_loadtest::kafka::{Producer, captured, read_all, watermarks};
use pulsegate_loadtest::outcome::Outcome;
use pulsegate_loadtest::record::{Captured, Header, Record};
use tokio::runtime::Handle;

use crate::main_path::fleet;
use pulsegate_testkit::world::{World, in_a_world};

/// Name of the case, the change to a good record, and its outcome.
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
fn each_bad_record_gets_its_outcome_and_the_lane_continues() {
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
            // The lane continues after each of them.
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

/// Rejections after signature verification: the record belongs to its signer, although it is invalid.
const SIGNED: [&str; 3] = ["wrong_audience", "stale", "misrouted"];

#[test]
fn a_validly_signed_deadletter_opens_with_its_tenants_key() {
    in_a_world("signed", "", |world| {
        let mut fleet = fleet(world, 50, Hostile::some());
        world.import(&fleet);
        world.produce(&mut fleet, 3_000);
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        assert!(gate.terminate().success());

        let topics = &world.config.topics;
        let raw: HashMap<_, _> = read(world, &topics.raw)
            .into_iter()
            .map(|from| (format!("{}/{}/{}", from.topic, from.partition, from.offset), from))
            .collect();
        let letters = read(world, &topics.deadletter);
        let keys = quarantine_keys(world, letters.iter().map(|letter| sealed_with(&letter.record)));
        let (mut seen, mut tenants, mut house) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for Captured { record, .. } in &letters {
            let reason = text(record, b"pg-reason");
            let key = sealed_with(record);
            if reason == "bad_signature" {
                house.insert(key);
            }
            if !SIGNED.contains(&reason) {
                continue;
            }
            let origin = text(record, b"pg-origin");
            let sent = &raw[origin].record;
            assert_eq!(record.key, sent.key, "{reason}");
            let mut aad = Vec::new();
            quarantine_context("local", origin.as_bytes(), &topics.deadletter, &mut aad).expect("short");
            let opened = keys[&key].expand().open(&aad, value(record)).expect("opens");
            assert_eq!(&opened[..], value(sent), "{reason}");
            seen.insert(reason);
            tenants.insert(key);
        }
        assert_eq!(seen, BTreeSet::from(SIGNED));
        assert!(
            !house.is_empty() && tenants.is_disjoint(&house),
            "{tenants:?} {house:?}"
        );
    });
}

/// Every record of a topic.
pub fn read(world: &World, topic: &str) -> Vec<Captured> {
    let (kafka, mut records) = (world.kafka(), Vec::new());
    let ranges = watermarks(&kafka, topic).expect("the topic is there");
    read_all(&kafka, topic, &ranges, |message| {
        records.push(captured(message));
        Ok(())
    })
    .expect("read");
    records
}

fn quarantine_keys(world: &World, ids: impl Iterator<Item = u32>) -> HashMap<u32, FieldKey> {
    let mut config = world.config.clone();
    (config.kek.source, config.kek.file) = (Source::File, Some(world.directory.join("kek")));
    let ids: Vec<_> = ids.collect::<BTreeSet<_>>().into_iter().collect();
    Handle::current().block_on(async {
        let opener = Opener::connect(&config.vault_settings())
            .await
            .expect("the vault is there");
        opener.quarantine_keys(&ids).await.expect("read")
    })
}

fn sealed_with(record: &Record) -> u32 {
    key_id_of(value(record)).expect("sealed")
}

fn value(record: &Record) -> &[u8] {
    record.value.as_deref().expect("a value")
}

fn text<'r>(record: &'r Record, header: &[u8]) -> &'r str {
    std::str::from_utf8(record.header(header).expect("the header")).expect("text")
}

/// The fleet's next event.
pub fn next(fleet: &mut Fleet) -> Draft {
    let mut draft = Draft::default();
    fleet
        .next(jiff::Timestamp::now().as_millisecond(), &mut draft)
        .expect("an event");
    draft
}
