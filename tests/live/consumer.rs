//! The consumer alone: a lane that starts gets every record from its start offset on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pulsegate::io::kafka::consumer::{Consumer, Rebalance};
use pulsegate::io::kafka::raw::Messages;
use pulsegate::roles::clients::Settings;
use pulsegate_loadtest::kafka::watermarks;

use crate::main_path::fleet;
use pulsegate_testkit::wait::{PATIENCE, wait_for};
use pulsegate_testkit::world::{World, in_a_world};

/// A seek that overtook the broker's answer to an earlier request for the end of the log was undone half a second
/// later: the partition jumped to its end. So each partition starts as early as possible and is then read slowly.
#[test]
fn a_lane_that_starts_at_once_skips_nothing() {
    in_a_world("start", "", |world| {
        let records = 3_000;
        let mut fleet = fleet(world, 50, Default::default());
        world.produce(&mut fleet, records);
        for group in 0..5 {
            assert_eq!(read_all(world, group, records), records, "group {group}");
        }
    });
}

/// Whether or not librdkafka's notice that the next offset is gone was received, the lane starts again.
#[test]
fn a_lane_that_was_given_up_starts_again() {
    in_a_world("given_up", "", |world| {
        let topic = &world.config.topics.raw;
        let mut fleet = fleet(world, 50, Default::default());
        world.produce(&mut fleet, 1_000);
        let (consumer, lanes) = subscribed(world, 0);
        world.delete_records(topic);
        let mut given_up = BTreeSet::new();
        let mut starting = lanes.clone();
        let mut messages = Messages::with_capacity(16);
        wait_for("librdkafka to give up the lanes", || {
            assert!(consumer.serve().is_none(), "no fatal error");
            starting.retain(|&lane| consumer.start(lane, 0).is_err());
            consumer.consume(&mut messages, 16, Duration::from_millis(5));
            let errors = messages.iter().filter(|message| message.error().is_some());
            given_up.extend(errors.map(|error| error.partition()));
            given_up.len() == lanes.len() || consumer.take_gap()
        });
        world.produce(&mut fleet, 1_000);
        let ends = watermarks(&world.kafka(), topic).expect("there");
        let (mut starting, mut read) = (ends, 0);
        wait_for("the remaining records to be read", || {
            assert!(consumer.serve().is_none(), "no fatal error");
            starting.retain(|lane| consumer.start(lane.partition, lane.first).is_err());
            consumer.consume(&mut messages, 16, Duration::from_millis(5));
            read += messages
                .iter()
                .filter(|message| message.error().is_none())
                .count();
            read == 1_000
        });
    });
}

/// A consumer and the lanes that the group has assigned to it; none has started.
fn subscribed(world: &World, group: u32) -> (Consumer, Vec<i32>) {
    let mut config = world.config.clone();
    config.gate.group = format!("{}-{group}", config.topics.raw);
    let settings = Settings::new(&config, "test");
    let consumer = Consumer::subscribe(&settings.consumer(0), &config.topics.raw).expect("subscribed");
    let mut lanes = Vec::new();
    wait_for("the group to assign the lanes", || {
        assert!(consumer.serve().is_none(), "no fatal error");
        while let Some(Rebalance::Assign(partitions)) = consumer.rebalance() {
            consumer.assign(&partitions).expect("assigned");
            lanes.extend(partitions);
        }
        !lanes.is_empty()
    });
    (consumer, lanes)
}

/// Number of records that a new group reads within the time of the jump, and then until `wanted` are read.
fn read_all(world: &World, group: u32, wanted: u64) -> u64 {
    let (consumer, mut starting) = subscribed(world, group);
    let (mut read, mut messages) = (0, Messages::with_capacity(16));
    let begun = Instant::now();
    while read < wanted && begun.elapsed() < PATIENCE / 8 {
        assert!(consumer.serve().is_none(), "no fatal error");
        starting.retain(|&partition| consumer.start(partition, 0).is_err());
        consumer.consume(&mut messages, 16, Duration::from_millis(5));
        read += messages
            .iter()
            .filter(|message| message.error().is_none())
            .count() as u64;
    }
    read
}
