//! The audit log of a real gate's work: recomputed from all topics, and changes to the topics are found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use pulsegate::io::audit::{AuditLog, LedgerBatch, LedgerRecord};
use pulsegate::io::postgres::logins;
use pulsegate_loadtest::fleet::{Hostile, Pace};
use pulsegate_loadtest::kafka::{Producer, captured, read_all, watermarks};
use pulsegate_loadtest::record::{Captured, Header, Record};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::main_path::fleet;
use crate::stored::execute;
use pulsegate_testkit::corner::admin;
use pulsegate_testkit::wait::{PATIENCE, wait_for};
use pulsegate_testkit::world::{World, in_a_world};

/// Appends the whole ledger to the log, as the watch does, and signs it.
pub fn watch(world: &World) {
    let (kafka, topic) = (world.kafka(), &world.config.topics.ledger);
    let mut partitions: BTreeMap<i32, Vec<(i64, Vec<u8>)>> = BTreeMap::new();
    let ranges = watermarks(&kafka, topic).expect("the ledger is there");
    read_all(&kafka, topic, &ranges, |message| {
        let record = captured(message);
        let value = record.record.value.clone().unwrap_or_default();
        partitions
            .entry(record.partition)
            .or_default()
            .push((record.offset, value));
        Ok(())
    })
    .expect("read");
    Handle::current().block_on(async {
        let log = AuditLog::connect(&world.config.audit_settings())
            .await
            .expect("connected");
        for (partition, records) in &partitions {
            let claim = log.claim(*partition).await.expect("claimed");
            let fresh = records
                .iter()
                .filter(|(offset, _)| *offset >= claim.next.unwrap_or(0));
            let fresh: Vec<_> = fresh
                .map(|(offset, value)| LedgerRecord {
                    offset: *offset,
                    value: value.as_slice(),
                })
                .collect();
            let batch = LedgerBatch {
                partition: *partition,
                epoch: claim.epoch,
                expected: claim.next,
                next: records.last().map_or(0, |(offset, _)| offset + 1),
                records: &fresh,
            };
            log.append(&batch).await.expect("appended");
        }
        log.checkpoint(Timestamp::now()).await.expect("signed");
        log.close().await;
    });
}

/// Verifies with the command; returns its exit code and its report.
pub fn verify(world: &World, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = world.run(&[&["--json", "audit", "verify"], arguments].concat());
    let found = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no answer: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), found)
}

pub fn kinds(found: &Value) -> Vec<&str> {
    let problems = found["problems"].as_array().expect("a list");
    problems
        .iter()
        .filter_map(|problem| problem["kind"].as_str())
        .collect()
}

pub fn sum(found: &Value, field: &str) -> u64 {
    let lanes = found["lanes"].as_array().expect("a list");
    lanes.iter().filter_map(|lane| lane[field].as_u64()).sum()
}

#[test]
fn the_log_of_a_hostile_fleet_is_recomputed_from_all_topics() {
    in_a_world("audited", "", |world| {
        let mut fleet = fleet(world, 100, Hostile::some());
        world.import(&fleet);
        let mut gate = world.gate("one");
        let made = world.produce(&mut fleet, 5_000);
        world.settle(&mut [&mut gate]);
        watch(world);
        let (code, found) = verify(world, &[]);
        assert_eq!((code, kinds(&found)), (Some(0), vec![]), "{found:#}");
        assert_eq!(sum(&found, "raw_records"), made.records);
        assert!(
            sum(&found, "ranges") > 0 && sum(&found, "ranges_unknown") == 0,
            "{found:#}"
        );

        let kept = world.directory.join("kept");
        let out = kept.to_str().expect("UTF-8");
        world.done(&["audit", "show", "--checkpoint-out", out]);
        world.produce(&mut fleet, 2_000);
        world.settle(&mut [&mut gate]);
        assert!(gate.terminate().success());
        let (code, found) = verify(world, &["--checkpoint", out]);
        assert_eq!(
            (code, kinds(&found)),
            (Some(0), vec![]),
            "records that are not in the log yet are not a problem: {found:#}"
        );
        assert!(sum(&found, "ledger_pending") > 0, "{found:#}");
        watch(world);
        let (code, found) = verify(world, &["--checkpoint", out]);
        assert_eq!((code, kinds(&found)), (Some(0), vec![]), "{found:#}");
        let proofs = found["lanes"].as_array().expect("a list").iter();
        assert!(
            proofs.filter(|lane| lane["continued"].is_array()).count() >= 2,
            "{found:#}"
        );
        let none = verify(world, &["--from", "2100-01-01"]).1;
        assert_eq!(sum(&none, "ranges"), 0, "{none:#}");

        clean_and_deadletter_are_held_to_the_ledger(world);
        administration_is_in_the_log(world);
    });
}

#[test]
fn replaced_or_truncated_raw_records_are_reported() {
    in_a_world("exchanged", "", |world| {
        let mut fleet = fleet(world, 50, Hostile::default());
        world.import(&fleet);
        let mut gate = world.gate("one");
        world.produce(&mut fleet, 1_000);
        world.settle(&mut [&mut gate]);
        assert!(gate.terminate().success());
        watch(world);
        let records = raw_records(world);
        // Only the topic's own timestamps are new.
        make_raw_again(world, &records);
        let (code, found) = verify(world, &[]);
        assert_eq!((code, kinds(&found)), (Some(0), vec![]), "{found:#}");

        let mut exchanged = records.clone();
        let one = exchanged.iter_mut().find(|record| record.partition == 1);
        let value = one.and_then(|record| record.record.value.as_mut()).expect("one");
        value.push(b' ');
        let mut cut = exchanged;
        let last = cut.iter().rposition(|record| record.partition == 0);
        let last = cut.remove(last.expect("one"));
        make_raw_again(world, &cut);
        let (code, found) = verify(world, &["--against", "raw,ledger"]);
        assert_eq!(
            (code, kinds(&found)),
            (Some(1), vec!["raw_missing", "raw_changed"]),
            "{found:#}"
        );
        let problems = found["problems"].as_array().expect("a list");
        for (problem, partition) in problems.iter().zip(0..) {
            assert_eq!(
                problem["lane"],
                format!("{}/{partition}", world.config.topics.raw)
            );
        }
        let first = problems[0]["offset"].as_i64().expect("an offset");
        assert!(first <= last.offset, "the range that contained it: {found:#}");
        assert_eq!(problems[1]["offset"], 0);
    });
}

fn raw_records(world: &World) -> Vec<Captured> {
    let (kafka, topic) = (world.kafka(), &world.config.topics.raw);
    let ranges = watermarks(&kafka, topic).expect("there");
    let mut records = Vec::new();
    read_all(&kafka, topic, &ranges, |message| {
        records.push(captured(message));
        Ok(())
    })
    .expect("read");
    records
}

/// Replaces the content of the raw topic with these records.
fn make_raw_again(world: &World, records: &[Captured]) {
    let topic = &world.config.topics.raw;
    let kafka: AdminClient<DefaultClientContext> = world.config.kafka.client().create().expect("a client");
    let deleted = Handle::current().block_on(kafka.delete_topics(&[topic], &AdminOptions::new()));
    deleted.expect("deleted")[0].as_ref().expect("deleted");
    wait_for("the topic to be gone", || {
        let metadata = kafka.inner().fetch_metadata(None, PATIENCE).expect("an answer");
        metadata.topics().iter().all(|one| one.name() != topic)
    });
    world.done(&["topology", "apply"]);
    let mut producer = Producer::new(&world.kafka(), topic, "none").expect("a producer");
    for record in records {
        producer.send(&record.record, record.partition);
    }
    producer.finish().expect("delivered");
}

#[test]
fn a_start_while_the_log_is_unavailable_is_recorded_when_it_returns() {
    in_a_world("start_told", "", |world| {
        let role = format!("{}gate_audit", world.config.databases.prefix);
        let may = |what: &str| execute(world, "audit", &format!("alter role \"{role}\" {what}"));
        may("nologin");
        let mut gate = world.gate("one");
        wait_for("it to miss the log", || {
            gate.logged()
                .contains("failed to record the start in the audit log")
        });
        assert!(!done_by_people_and_programs(world).contains(&"gate.start".to_owned()));
        let back = Timestamp::now();
        may("login");
        wait_for("the start to be recorded", || {
            gate.expect_running();
            done_by_people_and_programs(world).contains(&"gate.start".to_owned())
        });
        let entries = administration(world);
        let start = entries.iter().find(|entry| entry["action"] == "gate.start");
        let at = start.and_then(|start| start["at"].as_str()).expect("a time");
        assert!(
            at.parse::<Timestamp>().expect("a time") < back,
            "the time of the start, not of the recording"
        );
        assert!(gate.terminate().success());
    });
}

/// Waits long enough that no record can be a repeat of an earlier one.
#[test]
fn a_window_does_not_require_records_outside_it() {
    in_a_world("window", "", |world| {
        let mut fleet = fleet(world, 50, Hostile::default());
        world.import(&fleet);
        let mut gate = world.gate("one");
        let mut begun = Vec::new();
        for records in [1_000, 100, 200, 300, 1_000] {
            begun.push(Timestamp::now());
            world.produce(&mut fleet, records);
            world.settle(&mut [&mut gate]);
            watch(world);
            let signed = Instant::now();
            wait_for("time to pass", || signed.elapsed() > Duration::from_secs(6));
        }
        assert!(gate.terminate().success());
        let repeats = [
            "--json",
            "--set",
            "gate.verify.freshness_seconds=1",
            "--set",
            "gate.admit.rate.burst=1",
            "--set",
            "gate.verify.budget.failures_burst=1",
            "audit",
            "verify",
        ];
        let (from, to) = (begun[2].to_string(), begun[3].to_string());
        let narrow = [repeats.as_slice(), &["--from", &from, "--to", &to]].concat();
        let found: Value = serde_json::from_str(&world.done(&narrow)).expect("JSON");
        assert_eq!(kinds(&found), Vec::<&str>::new(), "{found:#}");
        // Records directly before the window can have the same events; the one after it is read to detect its end.
        assert_eq!(sum(&found, "raw_records"), 200, "{found:#}");
        assert_eq!(sum(&found, "clean_records"), 600, "{found:#}");
        assert_eq!(sum(&found, "ranges_unknown"), 0, "{found:#}");
        assert_eq!(sum(&verify(world, &[]).1, "clean_records"), 2_600);
    });
}

/// Stops a load when dropped, also if the test fails.
struct Load<'a>(&'a AtomicBool);

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_running_pipeline_agrees_and_planted_records_are_found() {
    in_a_world("at_work", "gate.batch.time_max_ms = 20\n", |world| {
        let mut fleet = fleet(world, 100, Hostile::some());
        world.import(&fleet);
        let (mut gate, mut watch) = (world.gate("one"), world.watch("one"));
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let _load = Load(&ended);
            scope.spawn(|| {
                let pace = Pace { rate: Some(1_000.0) };
                while !ended.load(Ordering::Relaxed) {
                    let produced = fleet.produce_at(&world.kafka(), 500, pace, &mut |_| {});
                    produced.expect("produced");
                }
            });
            let compared = || sum(&verify(world, &[]).1, "ranges");
            wait_for("the log to grow", || compared() > 100);
            for _ in 0..5 {
                let (code, found) = verify(world, &[]);
                assert_eq!((code, kinds(&found)), (Some(0), vec![]), "{found:#}");
            }
            send(world, &world.config.topics.clean, &nobodys_event());
            wait_for("the planted records to be found", || {
                let (code, found) = verify(world, &[]);
                assert!(
                    kinds(&found).iter().all(|kind| *kind == "clean_inserted"),
                    "{found:#}"
                );
                code == Some(1)
            });
        });
        gate.expect_running();
        watch.expect_running();
    });
}

/// Produces to partition 0.
fn send(world: &World, topic: &str, record: &Record) {
    let mut producer = Producer::new(&world.kafka(), topic, "none").expect("a producer");
    producer.send(record, 0);
    producer.finish().expect("delivered");
}

/// An event that is valid in the clean topic but belongs to no raw record.
fn nobodys_event() -> Record {
    Record {
        value: Some(b"{}".to_vec()),
        ..Record::default()
    }
}

fn clean_and_deadletter_are_held_to_the_ledger(world: &World) {
    let topics = &world.config.topics;
    let send = |topic: &str, record: &Record| send(world, topic, record);
    // A rejection of a raw record that was accepted, and an event that no device sent.
    let header = |name: &str, value: &str| Header {
        name: name.as_bytes().to_vec(),
        value: Some(value.as_bytes().to_vec()),
    };
    let no_text = Header {
        name: vec![0xFF],
        value: None,
    };
    send(
        &topics.deadletter,
        &Record {
            headers: vec![
                no_text,
                header("pg-reason", "stale"),
                header("pg-origin", &format!("{}/0/999999", topics.raw)),
            ],
            ..Record::default()
        },
    );
    assert_eq!(
        verify(world, &[]).0,
        Some(0),
        "a rejection of an offset that is not written yet"
    );
    let accepted = accepted_offset(world);
    send(
        &topics.deadletter,
        &Record {
            headers: vec![
                header("pg-reason", "stale"),
                header("pg-origin", &format!("{}/0/{accepted}", topics.raw)),
            ],
            ..Record::default()
        },
    );
    let (code, found) = verify(world, &["--against", "raw"]);
    assert_eq!(code, Some(1));
    assert!(kinds(&found).contains(&"deadletter_inserted"), "{found:#}");
    let lane = Value::from(format!("{}/0", topics.raw));
    assert!(
        found["problems"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|problem| problem["lane"] == lane),
        "{found:#}"
    );

    send(&topics.clean, &nobodys_event());
    let (code, found) = verify(world, &["--against", "clean,ledger"]);
    assert!(
        code == Some(1) && kinds(&found).contains(&"clean_inserted"),
        "{found:#}"
    );

    // The first clean records of a lane are deleted, but the ledger counts them.
    let kafka: AdminClient<DefaultClientContext> = world.config.kafka.client().create().expect("a client");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topics.clean, 1, Offset::Offset(5))
        .expect("a place");
    let deleted = Handle::current().block_on(kafka.delete_records(&list, &AdminOptions::new()));
    deleted.expect("deleted");
    let (code, found) = verify(world, &["--against", "clean,ledger"]);
    assert!(
        code == Some(1) && kinds(&found).contains(&"clean_missing"),
        "{found:#}"
    );
}

/// A raw offset of partition 0 that was accepted: not in the deadletter, and the first, so not a repeat.
fn accepted_offset(world: &World) -> i64 {
    let (kafka, topic) = (world.kafka(), &world.config.topics.deadletter);
    let mut rejected = Vec::new();
    read_all(
        &kafka,
        topic,
        &watermarks(&kafka, topic).expect("there"),
        |message| {
            let record = captured(message).record;
            let origin = record
                .header(b"pg-origin")
                .and_then(|origin| String::from_utf8(origin.to_vec()).ok());
            rejected.extend(origin);
            Ok(())
        },
    )
    .expect("read");
    let origin = |offset: &i64| format!("{}/0/{offset}", world.config.topics.raw);
    (0..)
        .find(|offset| !rejected.contains(&origin(offset)))
        .expect("one")
}

/// Checks every administrative action of this world so far; without the login no further action is possible.
fn administration_is_in_the_log(world: &World) {
    assert_eq!(
        done_by_people_and_programs(world),
        ["topology.apply", "device.import", "device.import", "gate.start"]
    );
    let states = [1, 2].map(|number| proved(world, number)["detail"]["state"].take());
    assert_eq!(states, ["begun", "done"]);
    keys_that_sealed_are_in_the_log(world);

    let revoke = ["device", "revoke", "nobody-knows-it"];
    assert_eq!(world.run(&revoke).status.code(), Some(1));
    let opened = ["--json", "open", "--partition", "0", "--offset", "0"];
    let output = world.run(&opened);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let register = ["--json", "schema", "register"];
    let registered: Value = serde_json::from_str(&world.done(&register)).expect("JSON");
    let expected = [
        "device.revoke",
        "device.revoke",
        "phi.open",
        "schema.register",
        "schema.register",
        "schema.register",
        "schema.register",
    ];
    assert_eq!(done_by_people_and_programs(world)[4..], expected);
    let entries = administration(world);
    let details: Vec<&Value> = entries[entries.len() - 7..]
        .iter()
        .map(|entry| &entry["detail"])
        .collect();
    assert_eq!(details[1]["state"], "failed");
    assert_eq!(
        (&details[2]["partition"], &details[2]["offset"]),
        (&Value::from(0), &Value::from(0))
    );
    for (schema, told) in registered
        .as_array()
        .expect("a list")
        .iter()
        .zip(details[3..].chunks(2))
    {
        assert_eq!([&told[0]["state"], &told[1]["state"]], ["begun", "done"]);
        assert_eq!(
            [&told[0]["subject"], &told[1]["subject"]],
            [&schema["subject"]; 2]
        );
        assert_eq!(told[0]["schema_sha256"], told[1]["schema_sha256"]);
        assert_eq!(told[1]["id"], schema["id"]);
    }

    let databases = &world.config.databases;
    logins::read(databases, "operator_audit").expect("a login");
    let login =
        Path::new(&databases.logins_directory).join(format!("{}operator_audit.url", databases.prefix));
    std::fs::remove_file(login).expect("removed");
    for refused in [opened.as_slice(), &revoke, &register] {
        let output = world.run(refused);
        assert_eq!(
            output.status.code(),
            Some(2),
            "an action that cannot be audited is refused"
        );
        assert!(output.stdout.is_empty());
    }
}

/// Entries of the administration lane.
fn administration(world: &World) -> Vec<Value> {
    let query =
        "select convert_from(entry, 'UTF8') from audit_entry where lane = 'administration' order by seq";
    let entries: Vec<String> = Handle::current().block_on(async {
        let mut audit = admin(&world.config, "audit").await;
        let entries = sqlx::query_scalar(query).fetch_all(&mut audit).await;
        entries.expect("readable")
    });
    let parsed = entries.iter().map(|entry| serde_json::from_str(entry));
    parsed.collect::<Result<_, _>>().expect("JSON")
}

/// An entry of the administration lane, with a proof of inclusion.
fn proved(world: &World, number: u64) -> Value {
    let lane = ["--json", "audit", "show", "--lane", "administration", "--entry"];
    let shown = world.done(&[lane.as_slice(), &[&number.to_string()]].concat());
    let proved: Value = serde_json::from_str(&shown).expect("JSON");
    assert!(!proved["checkpoint"].as_str().expect("a note").is_empty());
    serde_json::from_str(proved["value"].as_str().expect("an entry")).expect("JSON")
}

/// Actions except those on keys, which a gate relays at its own time.
fn done_by_people_and_programs(world: &World) -> Vec<String> {
    let entries = administration(world);
    let others = entries.iter().filter(|entry| entry["detail"]["event"].is_null());
    others
        .filter_map(|entry| entry["action"].as_str().map(str::to_owned))
        .collect()
}

/// Checks that for each key id of a sealed field the log says when the key was made, and for which tenant.
fn keys_that_sealed_are_in_the_log(world: &World) {
    let entries = administration(world);
    let of = |action: &'static str| entries.iter().filter(move |entry| entry["action"] == action);
    let ids = of("data_key.make").flat_map(|entry| entry["detail"]["key_ids"].as_array().expect("ids"));
    let made: BTreeSet<u64> = ids.filter_map(Value::as_u64).collect();
    let sealed = sealed_with(world);
    assert!(
        sealed.len() > 50 && sealed.is_subset(&made),
        "{} keys sealed, {} are in the log",
        sealed.len(),
        made.len()
    );
    for action in ["kek.add", "tenant.add", "quarantine_key.make"] {
        assert!(of(action).count() > 0, "{action}");
    }
    let one = of("data_key.make").next().expect("one");
    assert_eq!(&proved(world, one["seq"].as_u64().expect("a number")), one);
}

/// Ids of the keys that sealed fields in the clean topic.
fn sealed_with(world: &World) -> BTreeSet<u64> {
    let (kafka, topic) = (world.kafka(), &world.config.topics.clean);
    let mut ids = BTreeSet::new();
    let ranges = watermarks(&kafka, topic).expect("there");
    read_all(&kafka, topic, &ranges, |message| {
        let value = captured(message).record.value.unwrap_or_default();
        let event: Value = serde_json::from_slice(&value).unwrap_or_default();
        let name = event.pointer("/subject/name").and_then(Value::as_str);
        let sealed = name.and_then(|name| BASE64_STANDARD.decode(name).ok());
        // A sealed field begins with a version byte and the key id.
        let id = sealed.and_then(|sealed| sealed.get(1..5)?.try_into().ok());
        ids.extend(id.map(|id| u64::from(u32::from_be_bytes(id))));
        Ok(())
    })
    .expect("read");
    ids
}
