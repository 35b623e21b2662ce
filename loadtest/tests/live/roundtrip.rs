//! generate, capture, replay and verify through the command line.

use std::path::Path;
use std::process::{Command, Output};

use pulsegate_loadtest::capture;
use pulsegate_loadtest::record::Captured;

use crate::topics::{Owned, kafka, unique};

fn command(brokers: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pulsegate-loadtest"));
    command
        .env("PULSEGATE_KAFKA__BROKERS", brokers)
        .args(args)
        .output()
        .expect("the command runs")
}

/// Runs the command, which must succeed, and returns its JSON.
fn json(brokers: &str, args: &[&str]) -> serde_json::Value {
    let output = command(brokers, &[&["--json"], args].concat());
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn records(path: &Path) -> Vec<Captured> {
    let mut records = Vec::new();
    let keep = |captured| {
        records.push(captured);
        Ok(())
    };
    capture::each_record(path, keep).expect("a captured file reads");
    records.sort_by_key(|captured: &Captured| (captured.partition, captured.offset));
    records
}

#[test]
fn a_stream_is_the_same_after_generate_capture_and_replay() {
    let kafka = kafka();
    let brokers = kafka.brokers.as_str();
    let mut owned = Owned::at(&kafka);
    let names: [String; 3] = std::array::from_fn(|_| unique("roundtrip"));
    names.iter().for_each(|name| owned.create(name));
    let [first, second, third] = names.each_ref().map(String::as_str);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (keys, lines, container) = (path("keys.jsonl"), path("first.jsonl"), path("first.avro"));

    let generate = [
        "generate",
        "--topic",
        first,
        "--records",
        "2000",
        "--devices",
        "40",
        "--hostile",
        "--signing-keys",
        &keys,
    ];
    assert_eq!(json(brokers, &generate)["records"], 2000);
    assert_eq!(
        json(brokers, &["capture", "--topic", first, "--output", &lines])["records"],
        2000
    );
    json(brokers, &["capture", "--topic", first, "--output", &container]);
    let captured = records(Path::new(&lines));
    assert_eq!(
        captured,
        records(Path::new(&container)),
        "both layouts hold the same"
    );
    assert!(
        captured
            .iter()
            .all(|captured| captured.log_append_time && captured.broker >= 0)
    );

    // Unchanged: byte for byte, partition for partition.
    json(
        brokers,
        &[
            "replay",
            &lines,
            "--as-is",
            "--keep-partitions",
            "--topic",
            second,
        ],
    );
    json(
        brokers,
        &["capture", "--topic", second, "--output", &path("second.avro")],
    );
    let again = records(Path::new(&path("second.avro")));
    let content = |all: &[Captured]| {
        all.iter()
            .map(|c| (c.partition, c.record.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(content(&again), content(&captured));

    // Signed anew for the third topic: valid signatures are replaced, every other record is unchanged.
    let replayed = json(
        brokers,
        &[
            "replay",
            &container,
            "--keys",
            &keys,
            "--topic",
            third,
            "--boot",
            "99999999999",
        ],
    );
    let number = |name: &str| replayed[name].as_u64().expect("a number");
    assert_eq!(
        (
            number("records"),
            number("signed") + number("not_held"),
            number("no_key")
        ),
        (2000, 2000, 0)
    );
    // About 66 do not hold, with a standard deviation of 8.
    assert!(number("not_held") > 20 && number("signed") > 1500, "{replayed}");
    json(
        brokers,
        &["capture", "--topic", third, "--output", &path("third.avro")],
    );
    let fresh = records(Path::new(&path("third.avro")));
    let values = |all: &[Captured]| {
        let mut values: Vec<_> = all.iter().map(|captured| captured.record.value.clone()).collect();
        values.sort();
        values
    };
    assert_eq!(values(&fresh), values(&captured));
    let same = fresh
        .iter()
        .filter(|one| captured.iter().any(|other| other.record == one.record))
        .count() as u64;
    assert_eq!(same, number("not_held"));
}

#[test]
fn recordings_become_events_of_the_named_devices() {
    let kafka = kafka();
    let mut owned = Owned::at(&kafka);
    let topic = unique("recordings");
    owned.create(&topic);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (csv, keys) = (path("heart.csv"), path("keys.jsonl"));
    std::fs::write(&csv, "t_s,hr,spo2\n0,60,97\n30.5,61,\n61,,98\n9000,70,99\n").expect("writes");
    json(
        &kafka.brokers,
        &[
            "generate",
            "--records",
            "0",
            "--devices",
            "2",
            "--profile",
            "jws-hs256",
            "--signing-keys",
            &keys,
        ],
    );
    let replay = [
        "replay",
        &csv,
        "--keys",
        &keys,
        "--topic",
        &topic,
        "--device",
        "dev1-h000001",
    ];
    let replayed = json(&kafka.brokers, &replay);
    assert_eq!(
        (&replayed["records"], &replayed["readings"]["heart.csv"]),
        (&2.into(), &6.into())
    );
    json(
        &kafka.brokers,
        &["capture", "--topic", &topic, "--output", &path("out.jsonl")],
    );
    let events: Vec<serde_json::Value> = records(Path::new(&path("out.jsonl")))
        .iter()
        .map(|captured| {
            serde_json::from_slice(captured.record.value.as_deref().expect("a value")).expect("JSON")
        })
        .collect();
    assert_eq!(events[0]["device_id"], "dev1-h000001");
    assert_eq!(events[0]["readings"][3]["offset_ms"], 61_000);
}

#[test]
fn exit_codes_distinguish_bad_data_usage_and_an_unreachable_kafka() {
    let code = |brokers: &str, args: &[&str]| command(brokers, args).status.code();
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys.jsonl");
    let keys = keys.to_str().expect("UTF-8");
    // Nothing listens on port 1.
    let nowhere = "127.0.0.1:1";
    assert_eq!(
        code(nowhere, &["generate", "--records", "0", "--keys", keys]),
        Some(0)
    );
    assert_eq!(code(nowhere, &["verify", "--keys", keys]), Some(3));
    assert_eq!(code(nowhere, &["verify"]), Some(2));
    assert_eq!(code(nowhere, &["verify", "--keys", "no such file"]), Some(2));
    std::fs::write(keys, "not a key\n").expect("writes");
    assert_eq!(code(nowhere, &["verify", "--keys", keys]), Some(2));
    let kafka = kafka();
    let mut owned = Owned::at(&kafka);
    let topics = owned.gate("codes");
    let prefix = topics
        .raw
        .strip_suffix(".raw")
        .expect("the topics' common beginning");
    let keyed = [
        "generate",
        "--devices",
        "5",
        "--topic",
        &topics.raw,
        "--keys",
        keys,
        "--records",
    ];
    assert_eq!(code(&kafka.brokers, &[&keyed[..], &["0"]].concat()), Some(0));
    let verify = ["verify", "--keys", keys, "--prefix", prefix];
    assert_eq!(
        code(&kafka.brokers, &verify),
        Some(0),
        "verification of empty topics succeeds"
    );
    assert_eq!(code(&kafka.brokers, &[&keyed[..], &["100"]].concat()), Some(0));
    let output = command(&kafka.brokers, &verify);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("raw record in no ledger range: 100") && text.contains("unaccounted"),
        "{text}"
    );
    assert_eq!(
        code(
            &kafka.brokers,
            &["verify", "--keys", keys, "--prefix", "no-such-topics"]
        ),
        Some(2)
    );
}
