//! A lane after an operator moved the group's offsets, or after retention deleted unread records.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pulsegate_ledger::entry::Entry;
use pulsegate_loadtest::fleet::Hostile;
use pulsegate_loadtest::kafka::{Range, watermarks};
use pulsegate_loadtest::oracle::Problem;
use pulsegate_loadtest::record::{Captured, Record};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::audit;
use crate::bad_input::read;
use crate::main_path::fleet;
use pulsegate_testkit::wait::wait_for;
use pulsegate_testkit::world::{Gate, World, in_a_world};

#[test]
fn a_gate_refuses_reset_offsets_until_it_is_asked_to_rewind() {
    in_a_world("rewind", "", |world| {
        let mut fleet = fleet(world, 50, Hostile::some());
        world.import(&fleet);
        world.produce(&mut fleet, 2_000);
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        assert!(gate.terminate().success());
        audit::watch(world);
        reset_offsets(world);

        let mut refused = world.start_gate("one", &[], &[]);
        assert_eq!(refused.wait().code(), Some(1));
        assert!(
            refused.logged().contains("--rewind"),
            "the log says what to do: {}",
            refused.logged()
        );

        rewind(world);
        // As requested, everything is there twice. The ledger records the rewind, and its chain is intact.
        let report = world.judge(&fleet);
        assert!(report.total.rewinds > 0, "{report}");
        let chain = [
            Problem::LedgerChain,
            Problem::LedgerMalformed,
            Problem::LedgerRange,
        ];
        assert!(
            !chain.iter().any(|problem| report.problems.contains_key(problem)),
            "{report}"
        );
        // Records covered by two ranges, or by three, are not recomputed but counted separately.
        covered_again(world);
        reset_offsets(world);
        rewind(world);
        covered_again(world);
    });
}

fn rewind(world: &World) {
    let mut rewound = world.start_gate("one", &[], &["--rewind"]);
    rewound.wait_ready();
    world.settle(&mut [&mut rewound]);
    assert!(rewound.terminate().success());
}

/// Verifies before the audit log has the rewind, and after.
fn covered_again(world: &World) {
    for pending in [true, false] {
        let (code, found) = audit::verify(world, &[]);
        assert_eq!((code, audit::kinds(&found)), (Some(0), vec![]), "{found:#}");
        assert_eq!(audit::sum(&found, "ledger_pending") > 0, pending, "{found:#}");
        audit::watch(world);
    }
    let (_, found) = audit::verify(world, &[]);
    assert!(audit::sum(&found, "ranges_unknown") > 0, "{found:#}");
}

#[test]
fn what_retention_deleted_unread_becomes_a_lost_range() {
    in_a_world("lost", "", |world| {
        let mut fleet = fleet(world, 50, Hostile::default());
        world.import(&fleet);
        world.produce(&mut fleet, 1_000);
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        assert!(gate.terminate().success());
        world.produce(&mut fleet, 1_000);
        world.delete_records(&world.config.topics.raw);

        let mut gate = world.gate("one");
        world.produce(&mut fleet, 500);
        world.settle(&mut [&mut gate]);
        assert!(gate.terminate().success());
        let report = world.judge(&fleet);
        assert_eq!(report.total.lost_offsets, 1_000, "{report}");
    });
}

/// The gate is paused between two records, and finds the next one deleted when it resumes.
#[test]
fn what_retention_deletes_under_a_running_gate_becomes_a_lost_range() {
    in_a_world("cut", "", |world| {
        let mut fleet = fleet(world, 50, Hostile::default());
        world.import(&fleet);
        world.produce(&mut fleet, 1_000);
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        gate.signal("-STOP");
        world.produce(&mut fleet, 1_000);
        world.delete_records(&world.config.topics.raw);
        gate.signal("-CONT");
        world.produce(&mut fleet, 500);
        world.settle(&mut [&mut gate]);
        gate.wait_ready();
        assert!(gate.terminate().success());
        let report = world.judge(&fleet);
        // A fetch in flight when the gate was paused may have returned some of them.
        assert!((1..=1_000).contains(&report.total.lost_offsets), "{report}");
        assert!(report.total.is_conserved(), "{report}");
    });
}

/// Chunks are taken from librdkafka by record count, whatever the records' size.
#[test]
fn a_transaction_ends_with_the_record_that_fills_it() {
    in_a_world("bytes", "gate.batch.bytes_max = 5000\n", |world| {
        let topics = &world.config.topics;
        let mut fleet = fleet(world, 50, Hostile::default());
        world.import(&fleet);
        world.produce(&mut fleet, 1_000);
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        world.judged_good(&fleet);
        assert!(gate.terminate().success());

        let sizes: HashMap<_, _> = read(world, &topics.raw)
            .into_iter()
            .map(|from| ((from.partition, from.offset), size(&from.record)))
            .collect();
        for Captured {
            partition, record, ..
        } in read(world, &topics.ledger)
        {
            let entry = Entry::parse(record.value.as_deref().expect("a value")).expect("an entry");
            let all_but_one = entry.first..entry.next - 1;
            let bytes: usize = all_but_one.map(|offset| sizes[&(partition, offset)]).sum();
            assert!(bytes < 5_000, "{bytes} bytes and one more record in {entry:?}");
        }
    });
}

fn size(record: &Record) -> usize {
    let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    length(&record.key) + length(&record.value)
}

#[test]
fn a_lane_whose_output_is_refused_retries_until_it_is_accepted_and_loses_nothing() {
    in_a_world("refused", "", |world| {
        let letters = &world.config.topics.deadletter;
        let mut fleet = fleet(world, 50, Hostile::some());
        world.import(&fleet);
        world.produce(&mut fleet, 2_000);
        world.configure_topic(letters, "max.message.bytes", "100");
        let mut gate = world.start_gate("one", &[], &[]);
        // With this many aborts, one of the lanes has had at least two.
        let enough = world.partitions() as usize + 1;
        wait_for("transactions to be aborted", || {
            gate.expect_running();
            aborts(&gate) >= enough
        });
        let (begun, before) = (Instant::now(), aborts(&gate));
        wait_for("the gate to retry", || {
            let (status, body) = gate.get("/readyz").expect("an answer");
            assert!(status == 503 && body.contains("kafka"), "{status}: {body}");
            aborts(&gate) >= before + 2 * enough
        });
        // Each lane retries once per second, possibly at different times.
        assert!(
            begun.elapsed() > Duration::from_secs(1),
            "the gate retries without a pause"
        );
        assert!(gate.logged().contains(letters), "the log names the topic");

        world.configure_topic(letters, "max.message.bytes", "1048576");
        world.settle(&mut [&mut gate]);
        gate.wait_ready();
        world.judged_good(&fleet);
        assert!(gate.terminate().success());
    });
}

fn aborts(gate: &Gate) -> usize {
    gate.logged().matches("transaction aborted").count()
}

/// On a rewind a gate first waits for the maximum duration of the ledger's last transaction.
const SHORT_TRANSACTIONS: &str = "gate.transaction_timeout_ms = 3000\ngate.settle_timeout_ms = 3000\n";

/// Freshness, replay and rate checks would depend on the producers' clocks.
#[test]
fn a_gate_refuses_records_with_producer_timestamps() {
    in_a_world("times", SHORT_TRANSACTIONS, |world| {
        let raw = &world.config.topics.raw;
        let mut fleet = fleet(world, 50, Hostile::default());
        world.import(&fleet);
        let mut gate = world.gate("one");
        world.configure_topic(raw, "message.timestamp.type", "CreateTime");
        let mut late = world.start_gate("two", &[], &[]);
        assert_eq!(late.wait().code(), Some(1));
        assert!(
            late.logged().contains("message.timestamp.type=CreateTime"),
            "{}",
            late.logged()
        );

        world.produce(&mut fleet, 100);
        assert_eq!(gate.wait().code(), Some(1));
        assert!(
            gate.logged().contains("offset 0: "),
            "the log says where: {}",
            gate.logged()
        );
        assert_eq!(world.settled(), 0);

        // Follows the advice in the gate's log.
        world.configure_topic(raw, "message.timestamp.type", "LogAppendTime");
        commit_offsets(world, &watermarks(&world.kafka(), raw).expect("there"));
        world.produce(&mut fleet, 200);
        let mut gate = world.start_gate("one", &[], &["--rewind"]);
        gate.wait_ready();
        world.settle(&mut [&mut gate]);
        assert!(gate.terminate().success());
        assert_eq!(world.judge(&fleet).clean_records, 200);
    });
}

/// Resets the offsets to the start, as an operator would while the group is empty.
fn reset_offsets(world: &World) {
    let start = |partition| Range {
        partition,
        first: 0,
        next: 0,
    };
    commit_offsets(world, &(0..world.partitions()).map(start).collect::<Vec<_>>());
}

/// Commits the ends of the ranges.
fn commit_offsets(world: &World, ranges: &[Range]) {
    let raw = &world.config.topics.raw;
    let mut client = world.config.kafka.client();
    let group: BaseConsumer = client.set("group.id", raw).create().expect("a client");
    let mut offsets = TopicPartitionList::new();
    for range in ranges {
        offsets
            .add_partition_offset(raw, range.partition, Offset::Offset(range.next))
            .expect("a valid offset");
    }
    group.commit(&offsets, CommitMode::Sync).expect("committed");
}
