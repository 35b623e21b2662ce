//! What a lane does when somebody moved the group's offsets, or retention deleted what nobody had read.

use pulsegate_loadtest::fleet::Hostile;
use pulsegate_loadtest::oracle::Problem;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::audit;
use crate::main_path::fleet;
use crate::world::{World, in_a_world};

#[test]
fn a_gate_refuses_offsets_that_somebody_reset_until_it_is_told_to_rewind() {
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
            "it says what to do: {}",
            refused.logged()
        );

        rewind(world);
        // What was asked for: everything is there twice. The ledger says so, and its chain holds.
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
        // What two ranges cover is not recomputed, and counted apart; what three cover, too.
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

/// Before the log has heard of it, and after.
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

/// The gate is stopped in its tracks between two records, and finds the next one gone when it goes on.
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
        // A fetch that was under way when the gate was stopped may have brought some of them.
        assert!((1..=1_000).contains(&report.total.lost_offsets), "{report}");
        assert!(report.total.is_conserved(), "{report}");
    });
}

/// Back to the start, as an operator would, while the group is empty.
fn reset_offsets(world: &World) {
    let raw = &world.config.topics.raw;
    let mut client = world.config.kafka.client();
    let group: BaseConsumer = client.set("group.id", raw).create().expect("a client");
    let mut offsets = TopicPartitionList::new();
    for partition in 0..world.partitions() {
        offsets
            .add_partition_offset(raw, partition, Offset::Offset(0))
            .expect("a valid offset");
    }
    group.commit(&offsets, CommitMode::Sync).expect("committed");
}
