//! Real faults: kill −9, a paused gate, a broker and a vault that stop. After each the oracle, which shares no code
//! with the gate, must account for every raw offset exactly once.
//!
//! These tests run alone: some of them stop servers that other tests need.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pulsegate_loadtest::fleet::{Fleet, Hostile, Options};
use pulsegate_loadtest::outcome::Outcome;

use pulsegate_testkit::skip::{Need, skip};
use pulsegate_testkit::wait::wait_for;
use pulsegate_testkit::world::{Gate, LOW_RATE, World, alone_in_a_world, limited_to};

/// Small transactions, so that there are many points at which a fault can strike, and short sessions, so that a failed
/// gate is noticed soon.
const SMALL_BATCHES: &str = "gate.batch.records_max = 400\ngate.batch.time_max_ms = 20\n\
    gate.transaction_timeout_ms = 10000\ngate.settle_timeout_ms = 8000\n\
    kafka.properties.\"session.timeout.ms\" = \"6000\"\n";

fn fleet(world: &World, seed: u64, devices: u32) -> Fleet {
    let hostile = Hostile::some();
    Fleet::new(Options {
        devices,
        hostile,
        topic: world.config.topics.raw.clone(),
        ..Options::new(seed)
    })
}

/// `docker/stack COMMAND SERVER`.
fn stack(command: &str, server: &str) {
    let output = Command::new(script())
        .args([command, server])
        .output()
        .expect("the stack's script runs");
    assert!(
        output.status.success(),
        "stack {command} {server}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A server that is stopped or frozen. It is restored also if the test fails, because other tests need it.
pub struct Down {
    server: &'static str,
    back: &'static str,
}

impl Down {
    /// Stops the server: it refuses connections.
    pub fn stop(server: &'static str) -> Self {
        stack("stop", server);
        Self {
            server,
            back: "start",
        }
    }

    /// Freezes the server: it accepts connections and answers nothing.
    pub fn freeze(server: &'static str) -> Self {
        stack("pause", server);
        Self {
            server,
            back: "resume",
        }
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        stack(self.back, self.server);
    }
}

/// Whether the stack started the server and so may stop it. A server whose address is given by the environment belongs
/// to its operator.
pub fn is_ours(server: &str) -> bool {
    let output = Command::new(script())
        .arg("status")
        .output()
        .expect("the stack's script runs");
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = status.lines().map(str::split_whitespace);
    let mode = words.find_map(|mut words| (words.next() == Some(server)).then(|| words.next()).flatten());
    if mode == Some("external") {
        skip(
            Need::Servers,
            "the stack did not start the server, and so may not stop it",
        );
    }
    mode.is_some_and(|mode| mode != "external")
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/stack")
}

#[test]
fn killed_twenty_times_during_200_000_events_nothing_is_lost_or_doubled() {
    let settings = format!("{SMALL_BATCHES}{}", limited_to(LOW_RATE));
    alone_in_a_world("kill", &settings, |world| {
        let records = 200_000;
        let mut fleet = fleet(world, 11, 500);
        world.import(&fleet);
        world.produce(&mut fleet, records);
        // At any point of its life: while it joins, while it opens lanes, and in the middle of transactions.
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for kill in 0..20 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let before = world.settled();
            let progress = if kill % 5 == 4 {
                0
            } else {
                (random >> 33) % (records / 25)
            };
            let mut gate = world.start_gate("killed", &[], &[]);
            wait_for("the gate to make some progress", || {
                gate.expect_running();
                world.settled() >= (before + progress).min(records)
            });
            gate.kill();
        }
        assert!(world.settled() < records, "the last kill must hit a working gate");
        let mut gate = world.gate("killed");
        world.settle(&mut [&mut gate]);
        let report = world.judged_good_at(&fleet, LOW_RATE);
        assert_eq!(report.total.records, records);
        // How much of its rate each device had used was restored after every kill.
        assert!(report.total.outcomes.get(&Outcome::RateLimited) > Some(&0));
        assert!(gate.terminate().success());
    });
}

#[test]
fn a_gate_paused_past_its_session_changes_nothing_when_it_resumes() {
    alone_in_a_world("zombie", SMALL_BATCHES, |world| {
        let mut fleet = fleet(world, 12, 200);
        world.import(&fleet);
        world.produce(&mut fleet, 20_000);
        let (one, mut two) = (world.gate("one"), world.gate("two"));
        world.produce(&mut fleet, 20_000);
        one.signal("-STOP");
        let lanes = world.config.topology.partitions.expect("set by the corner") as usize;
        wait_for("the other gate to own every lane", || two.lanes() == lanes);
        world.produce(&mut fleet, 20_000);
        world.settle(&mut [&mut two]);
        one.signal("-CONT");
        world.produce(&mut fleet, 20_000);
        wait_for("the group to commit everything", || world.behind_by() == 0);
        two.expect_running();
        let report = world.judged_good(&fleet);
        assert_eq!(report.total.records, 80_000);
        // Fenced or not, it stops when asked.
        let _ = one.terminate();
        assert!(two.terminate().success());
    });
}

/// Two processes with the same instance name: the newer one's producers fence the older one's, whose next transaction
/// fails.
#[test]
fn a_gate_whose_name_another_takes_stops_and_nothing_is_doubled() {
    alone_in_a_world("fenced", SMALL_BATCHES, |world| {
        let mut fleet = fleet(world, 16, 200);
        world.import(&fleet);
        world.produce(&mut fleet, 60_000);
        let mut old = world.start_gate("same", &[], &[]);
        wait_for("some progress", || world.settled() > 1_000);
        let mut new = world.start_gate("same", &[], &[]);
        assert_eq!(old.wait().code(), Some(1));
        assert!(old.logged().contains("another worker"), "{}", old.logged());
        world.produce(&mut fleet, 10_000);
        world.settle(&mut [&mut new]);
        let report = world.judged_good(&fleet);
        assert_eq!(report.total.records, 70_000);
        assert!(new.terminate().success());
    });
}

#[test]
fn a_gate_asked_to_stop_while_it_is_behind_stops_in_time() {
    alone_in_a_world("end", SMALL_BATCHES, |world| {
        let mut fleet = fleet(world, 15, 200);
        world.import(&fleet);
        world.produce(&mut fleet, 100_000);
        let gate = world.start_gate("one", &[], &[]);
        wait_for("some progress", || world.settled() > 1_000);
        let begun = Instant::now();
        assert!(gate.terminate().success(), "everything it had read is committed");
        let limit = Duration::from_millis(world.config.gate.drain_timeout_ms);
        assert!(begun.elapsed() < limit, "it took {:?}", begun.elapsed());
        assert!(world.behind_by() > 0, "more records were left to process");
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        world.judged_good(&fleet);
        assert!(gate.terminate().success());
    });
}

#[test]
fn a_broker_that_stops_and_starts_loses_nothing() {
    if !is_ours("kafka") {
        return;
    }
    alone_in_a_world("broker", SMALL_BATCHES, |world| {
        let mut fleet = fleet(world, 13, 200);
        world.import(&fleet);
        world.produce(&mut fleet, 50_000);
        let mut gate = world.start_gate("one", &[], &[]);
        wait_for("some progress", || world.settled() > 1_000);
        drop(Down::stop("kafka"));
        world.produce(&mut fleet, 10_000);
        world.settle(&mut [&mut gate]);
        let report = world.judged_good(&fleet);
        assert_eq!(report.total.records, 60_000);
        assert!(gate.terminate().success());
    });
}

/// The watchdog gives up a hanging transaction, whose result is then unknown.
#[test]
fn a_broker_that_hangs_past_a_transactions_deadline_loses_and_duplicates_nothing() {
    if !is_ours("kafka") {
        return;
    }
    alone_in_a_world("frozen", SMALL_BATCHES, |world| {
        let mut fleet = fleet(world, 17, 200);
        world.import(&fleet);
        world.produce(&mut fleet, 100_000);
        let mut gate = world.start_gate("one", &[], &[]);
        wait_for("some progress", || world.settled() > 1_000);
        let broker = Down::freeze("kafka");
        wait_for("the transaction to be given up", || {
            gate.expect_running();
            let log = gate.logged();
            log.contains("replacing the producer") || log.contains("transaction aborted")
        });
        drop(broker);
        world.produce(&mut fleet, 10_000);
        world.settle(&mut [&mut gate]);
        let report = world.judged_good(&fleet);
        assert_eq!(report.total.records, 110_000);
        assert!(gate.terminate().success());
    });
}

#[test]
fn without_the_vault_known_subjects_continue_and_unknown_ones_are_held() {
    without_the_vault("vault", Down::stop);
}

#[test]
fn with_a_vault_that_hangs_known_subjects_continue_and_unknown_ones_are_held() {
    without_the_vault("vault_hangs", Down::freeze);
}

fn without_the_vault(name: &str, take_away: fn(&'static str) -> Down) {
    if !is_ours("postgres") {
        return;
    }
    alone_in_a_world(name, SMALL_BATCHES, move |world| {
        let mut known = fleet(world, 14, 100);
        let mut unknown = with_strangers(world, &known);
        world.import(&unknown);
        world.produce(&mut known, 5_000);
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        {
            let _vault = take_away("postgres");
            world.produce(&mut known, 5_000);
            world.settle(&mut [&mut gate]);
            assert_eq!(
                gate.get("/readyz").map(|(status, _)| status),
                Some(200),
                "no lane is held"
            );
            world.produce(&mut unknown, 2_000);
            wait_for("a lane to be held for the vault", || held_for_keys(&mut gate));
            assert!(world.behind_by() > 0, "unknown subjects wait");
        }
        world.settle(&mut [&mut gate]);
        gate.wait_ready();
        world.judged_good(&unknown);
        assert!(gate.terminate().success());
    });
}

/// The same devices after a restart and as many new ones, whose subjects no gate has seen. All are well-behaved.
fn with_strangers(world: &World, known: &Fleet) -> Fleet {
    let Options {
        seed, devices, boot, ..
    } = *known.options();
    let topic = world.config.topics.raw.clone();
    Fleet::new(Options {
        devices: devices * 2,
        boot: boot + 1,
        topic,
        ..Options::new(seed)
    })
}

fn held_for_keys(gate: &mut Gate) -> bool {
    gate.expect_running();
    gate.get("/readyz")
        .is_some_and(|(status, body)| status == 503 && body.contains("subject_keys"))
}
