//! Real faults of the watch and its databases. After each, every reading of the clean topic is stored exactly once.

use pulsegate_loadtest::fleet::Hostile;
use serde_json::{Value, json};
use sqlx::Row as _;

use crate::faults::{Down, is_ours};
use crate::main_path::fleet;
use crate::stored::{
    CleanTopic, behind, count, counted, event, everything_once, execute, in_the_findings_topic, in_the_table,
    in_the_topic, now_ms, query, told, wait_until_stored,
};
use pulsegate_testkit::wait::wait_for;
use pulsegate_testkit::world::{World, alone_in_a_world, in_a_world};

/// Small batches, so that there are many points at which a fault can strike, and short sessions, so that a failed watch
/// is noticed soon.
const SMALL_BATCHES: &str = "watch.batch.rows_max = 300\nwatch.batch.time_max_ms = 20\n\
    watch.snapshot_records_max = 1000\ntimescale.request_time_max_ms = 5000\n\
    kafka.properties.\"session.timeout.ms\" = \"6000\"\n";

/// Three days of a hundred devices, with occasional anomalies.
fn produce(world: &World, from: i64, events: i64) {
    produce_of(world, from, events, |_| true);
}

/// As [`produce`], for some of the devices.
fn produce_of(world: &World, from: i64, events: i64, is_there: impl Fn(u32) -> bool) {
    let clean = CleanTopic::of(world);
    let start = now_ms() - 3 * 86_400_000;
    for step in from..from + events {
        for device in (0..100_u32).filter(|device| is_there(*device)) {
            let wave = ((step * 7 + i64::from(device)) % 11) as f64;
            let value = if (step + i64::from(device)) % 97 == 0 {
                0.0
            } else {
                60.0 + wave
            };
            let at_ms = start + step * 60_000;
            let firmware = if step > from + events / 2 { "2" } else { "1" };
            clean.send(
                device,
                &event(device, at_ms, firmware, &[("heart_rate", value), ("spo2", 97.0)]),
            );
        }
    }
    clean.flush();
}

/// Number of records of the clean topic that are stored.
fn stored(world: &World) -> i64 {
    count(
        world,
        "analytics",
        "select coalesce(sum(next), 0)::bigint from sink_offset",
    )
}

/// Ids of all findings.
fn finding_ids(world: &World) -> Vec<String> {
    let rows = query(world, "analytics", "select id::text from findings order by 1");
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn killed_twenty_times_every_reading_is_stored_once_and_the_findings_are_those_of_one_run() {
    in_a_world("watch_kill", SMALL_BATCHES, |world| {
        let (kills, steps) = (20, 50);
        let mut hits = 0;
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for kill in 0..kills {
            // More work each time, so that a working watch is hit: while it joins, while it opens lanes, and in the
            // middle of writes.
            produce(world, kill * steps, steps);
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let before = stored(world);
            let progress = if kill % 5 == 4 {
                0
            } else {
                (random >> 33) as i64 % (steps * 50)
            };
            let mut watch = world.start_watch("killed", &[]);
            wait_for("some progress", || {
                watch.expect_running();
                stored(world) >= (before + progress).min((kill + 1) * steps * 100)
            });
            watch.kill();
            hits += i32::from(stored(world) < (kill + 1) * steps * 100);
        }
        assert!(hits >= 5, "only {hits} kills hit a working watch");
        let watch = world.watch("killed");
        let rows = everything_once(world);
        assert_eq!(rows.len() as i64, kills * steps * 100 * 2);
        relayed(world);
        assert!(watch.terminate().success());
        let interrupted = finding_ids(world);
        assert_eq!(
            in_the_findings_topic(world),
            interrupted,
            "every finding once, whatever was killed"
        );
        assert!(interrupted.len() >= 100, "{} findings", interrupted.len());
        the_same_from_scratch(world, &interrupted);
    });
}

/// A database rebuilt from the topic has the same findings, and they are sent again under the same ids, by which
/// consumers recognise them.
fn the_same_from_scratch(world: &World, findings: &[String]) {
    execute(
        world,
        "analytics",
        "truncate readings, findings, device_version, sink_offset, detector_snapshot, outbox;
         update outbox_head set batch = 0",
    );
    let watch = world.watch("fresh");
    everything_once(world);
    relayed(world);
    assert!(watch.terminate().success());
    assert_eq!(finding_ids(world), findings);
    let twice: Vec<_> = findings.iter().flat_map(|id| [id.clone(), id.clone()]).collect();
    assert_eq!(in_the_findings_topic(world), twice);
}

/// Waits until no finding is left in the outbox.
fn relayed(world: &World) {
    wait_for("the findings to be relayed", || {
        count(world, "analytics", "select count(*) from outbox") == 0
    });
}

#[test]
fn lanes_that_move_between_watches_lose_nothing_and_the_findings_are_those_of_one_run() {
    in_a_world("watch_share", SMALL_BATCHES, |world| {
        produce(world, 0, 100);
        let mut one = world.watch("one");
        wait_for("some progress", || stored(world) > 1_000);
        let mut two = world.watch("two");
        wait_for("both to have lanes", || one.lanes() > 0 && two.lanes() > 0);
        produce(world, 100, 100);
        wait_for("more progress", || stored(world) > 12_000);
        one.kill();
        produce(world, 200, 50);
        everything_once(world);
        relayed(world);
        two.wait_ready();
        assert!(two.terminate().success());
        let findings = finding_ids(world);
        assert!(findings.len() >= 20, "{} findings", findings.len());
        assert_eq!(
            in_the_findings_topic(world),
            findings,
            "every finding once, whichever watch relayed it"
        );
        the_same_from_scratch(world, &findings);
    });
}

/// The gate works all the while, in small transactions, so that there is always an unread ledger record.
#[test]
fn killed_twenty_times_every_ledger_record_is_audited_and_counted_once() {
    let settings = format!("{SMALL_BATCHES}gate.batch.records_max = 50\ngate.batch.time_max_ms = 5\n");
    in_a_world("watch_ledger", &settings, |world| {
        let mut fleet = fleet(world, 200, Hostile::some());
        world.import(&fleet);
        let mut gate = world.gate("one");
        let mut hits = 0;
        for kill in 0..20_i64 {
            world.produce(&mut fleet, 2_000);
            // Forty transactions; every fifth time the watch is killed while it joins.
            let progress = if kill % 5 == 4 { 0 } else { kill * 37 % 40 };
            let before = followed(world, "audit");
            let mut watch = world.start_watch("killed", &[]);
            wait_for("some progress", || {
                watch.expect_running();
                followed(world, "audit") >= before + progress
            });
            watch.kill();
            // The KPI count is gathered for seconds before it is stored, so most of the time something is pending.
            hits += i32::from(followed(world, "operations") < followed(world, "audit"));
        }
        assert!(
            hits >= 5,
            "only {hits} kills hit a watch that had not counted everything"
        );
        world.settle(&mut [&mut gate]);
        assert!(gate.terminate().success());
        let mut watch = world.watch("killed");
        wait_for("the whole ledger to be audited and counted", || {
            watch.expect_running();
            audited(world) && counted(world).values().sum::<i64>() == 40_000
        });
        assert_eq!(counted(world), told(world));
        assert!(watch.terminate().success());
        world.judged_good(&fleet);
    });
}

/// How far a database has followed the ledger, in offsets summed over all partitions.
fn followed(world: &World, database: &str) -> i64 {
    let sql = "select coalesce(sum(next), 0)::bigint from sink_offset";
    count(world, database, sql)
}

#[test]
fn a_watch_asked_to_stop_while_it_is_behind_stops_in_time() {
    in_a_world("watch_end", SMALL_BATCHES, |world| {
        produce(world, 0, 500);
        let watch = world.start_watch("one", &[]);
        wait_for("some progress", || stored(world) > 1_000);
        assert!(watch.terminate().success(), "everything it had read is stored");
        assert!(behind(world) > 0, "more records were left to store");
        let watch = world.watch("one");
        everything_once(world);
        assert!(watch.terminate().success());
    });
}

#[test]
fn a_broker_that_stops_and_starts_under_a_watch_loses_and_duplicates_nothing() {
    if !is_ours("kafka") {
        return;
    }
    alone_in_a_world("watch_broker", SMALL_BATCHES, |world| {
        let mut fleet = fleet(world, 200, Hostile::some());
        world.import(&fleet);
        world.produce(&mut fleet, 30_000);
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        let all = behind(world);
        let mut watch = world.start_watch("one", &[]);
        wait_for("some progress", || {
            watch.expect_running();
            stored(world) > 1_000
        });
        let broker = Down::stop("kafka");
        assert!(
            stored(world) < all,
            "the watch was working when the broker stopped"
        );
        drop(broker);
        world.produce(&mut fleet, 10_000);
        world.settle(&mut [&mut gate]);
        everything_once(world);
        assert!(gate.terminate().success());
        wait_for("the whole ledger to be audited", || {
            watch.expect_running();
            audited(world)
        });
        watch.wait_ready();
        assert!(watch.terminate().success());
    });
}

/// Whether the audit log agrees with all topics, and no ledger record is pending.
fn audited(world: &World) -> bool {
    let output = world.run(&["--json", "audit", "verify"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("an answer");
    assert!(output.status.success(), "{found:#}");
    let lanes = found["lanes"].as_array().expect("a list");
    let pending: Vec<_> = lanes
        .iter()
        .filter_map(|lane| lane["ledger_pending"].as_u64())
        .collect();
    pending == vec![0; world.partitions() as usize]
}

#[test]
fn a_second_watch_takes_over_the_lanes_and_the_first_writes_no_more() {
    in_a_world("watch_two", SMALL_BATCHES, |world| {
        produce(world, 0, 20);
        let mut first = world.watch("first");
        everything_once(world);
        // In another group, so Kafka does not revoke the first watch's lanes, but the database fences it.
        let group = format!("watch.group={}-other", world.config.topics.raw);
        let mut second = world.start_watch("second", &[&group]);
        second.wait_ready();
        produce(world, 20, 20);
        everything_once(world);
        wait_for("the first watch to give up its lanes", || {
            first.expect_running();
            first
                .get("/readyz")
                .is_some_and(|(status, body)| status == 503 && body.contains("fenced"))
        });
        assert!(second.terminate().success());
        assert!(first.terminate().success(), "the first watch still stops cleanly");
    });
}

/// The watch is paused between two records, and finds the next one deleted when it resumes.
#[test]
fn records_deleted_by_retention_under_a_running_watch_are_reported_and_the_rest_is_stored() {
    in_a_world("watch_cut", SMALL_BATCHES, |world| {
        produce(world, 0, 10);
        let watch = world.watch("one");
        let before = everything_once(world);
        watch.signal("-STOP");
        produce(world, 10, 10);
        world.delete_records(&world.config.topics.clean);
        watch.signal("-CONT");
        produce(world, 20, 10);
        wait_until_stored(world);
        assert!(watch.terminate().success());
        let (left, stored) = (in_the_topic(world), in_the_table(world));
        assert!(stored.values().all(|&times| times == 1));
        assert!(
            before
                .keys()
                .chain(left.keys())
                .all(|origin| stored.contains_key(origin))
        );
        let told = "select count(*) from findings where reason like '%were deleted before they were read'";
        assert!(count(world, "analytics", told) > 0);
    });
}

/// The topic is deleted and recreated. Stored offsets then hold different records, and only one lane reveals it: the
/// logs of the others are as long as before by the time the watch checks.
#[test]
fn a_lane_whose_log_lost_its_end_is_held_until_an_operator_decides() {
    in_a_world("watch_truncated", SMALL_BATCHES, |world| {
        let is_short = |device: u32| device % world.partitions().cast_unsigned() == 1;
        let next = |lane: &str| {
            count(
                world,
                "analytics",
                &format!("select sum(next)::bigint from sink_offset where partition {lane}"),
            )
        };
        produce(world, 0, 20);
        let watch = world.watch("one");
        everything_once(world);
        assert!(watch.terminate().success());
        let (short, others) = (next("= 1"), next("<> 1"));

        world.remake_topic(&world.config.topics.clean);
        produce(world, 20, 10);
        produce_of(world, 30, 20, |device| !is_short(device));
        for _ in 0..2 {
            let mut watch = world.start_watch("one", &[]);
            wait_for("the lane to be held, and no other", || {
                watch.expect_running();
                watch.get("/readyz").is_some_and(|(status, body)| {
                    let held: Value = serde_json::from_str(&body).expect("JSON");
                    status == 503
                        && held["held"] == json!([{"log": "clean", "lane": 1, "cause": "truncated"}])
                })
            });
            wait_for("the others to be stored", || next("<> 1") == others / 20 * 30);
            assert_eq!(next("= 1"), short);
            assert!(watch.logged().contains("set `next` of this partition"));
            assert!(watch.terminate().success());
            // Now longer than before: the next watch cannot see the loss and must have it recorded.
            produce_of(world, 30, 20, is_short);
        }

        let decision = "update sink_offset set next = log_end, log_end = null where partition = 1";
        execute(world, "analytics", decision);
        let watch = world.watch("one");
        wait_until_stored(world);
        assert!(watch.terminate().success());
        assert_eq!(next("= 1"), short / 20 * 50);
        let read_on = format!(
            "select count(distinct origin_offset) from readings where origin_partition = 1 and origin_offset >= {}",
            short / 2
        );
        // Ten stored records of the old log, and forty of the new one, of which half have offsets of the old one.
        assert_eq!(count(world, "analytics", &read_on), short / 20 * 40);
    });
}

#[test]
fn one_unavailable_database_does_not_stop_the_other() {
    in_a_world("watch_db", SMALL_BATCHES, |world| {
        produce(world, 0, 10);
        let mut watch = world.watch("one");
        everything_once(world);
        shut(world, "analytics", true);
        produce(world, 10, 10);
        wait_for("the lanes to be held", || {
            watch.expect_running();
            watch.get("/readyz").is_some_and(|(status, body)| {
                status == 503 && body.contains(r#""log":"clean""#) && !body.contains(r#""log":"ledger""#)
            })
        });
        let signed = || count(world, "audit", "select count(*) from audit_checkpoint");
        let before = signed();
        wait_for("the audit log to continue", || signed() > before);
        shut(world, "analytics", false);
        everything_once(world);
        watch.wait_ready();

        shut(world, "audit", true);
        produce(world, 20, 10);
        everything_once(world);
        shut(world, "audit", false);
        watch.wait_ready();
        assert!(watch.terminate().success());
    });
}

/// Ends every connection to a database of the world and refuses new ones, or allows them again.
fn shut(world: &World, database: &str, closed: bool) {
    let prefix = &world.config.databases.prefix;
    let role = format!("{prefix}watch_{database}");
    let login = if closed { "nologin" } else { "login" };
    execute(world, database, &format!("alter role \"{role}\" {login}"));
    if closed {
        execute(
            world,
            database,
            &format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'"),
        );
    }
}

#[test]
fn connections_killed_in_mid_batch_lose_and_duplicate_nothing() {
    in_a_world("watch_mid", SMALL_BATCHES, |world| {
        produce(world, 0, 300);
        let mut watch = world.start_watch("one", &[]);
        let role = format!("{}watch_analytics", world.config.databases.prefix);
        let terminate = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}' and state <> 'idle'"
        );
        wait_for("everything to be stored", || {
            watch.expect_running();
            execute(world, "analytics", &terminate);
            behind(world) == 0
        });
        everything_once(world);
        watch.wait_ready();
        assert!(watch.terminate().success());
    });
}
