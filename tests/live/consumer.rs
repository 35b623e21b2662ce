//! The consumer alone: a lane that starts gets every record from there on.

use std::time::{Duration, Instant};

use pulsegate::io::kafka::consumer::{Consumer, Rebalance};
use pulsegate::io::kafka::raw::Messages;
use pulsegate::io::kafka::settings::Settings;

use crate::main_path::fleet;
use crate::world::{PATIENCE, World, in_a_world};

/// A seek that overtook the broker's answer to an earlier question about the end of the log was undone half a second
/// later: the partition jumped to its end. So each partition starts as early as it can, and is then read slowly.
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

/// How many records a fresh group gets within the time that the jump took, and then until there are as many as wanted.
fn read_all(world: &World, group: u32, wanted: u64) -> u64 {
    let mut config = world.config.clone();
    config.gate.group = format!("{}-{group}", config.topics.raw);
    let settings = Settings::new(&config, "test");
    let consumer = Consumer::subscribe(&settings.consumer(0), &config.topics.raw).expect("subscribed");
    let (mut starting, mut read, mut messages) = (Vec::new(), 0, Messages::with_capacity(16));
    let begun = Instant::now();
    while read < wanted && begun.elapsed() < PATIENCE / 8 {
        assert!(consumer.serve().is_none(), "no fatal error");
        while let Some(Rebalance::Assign(partitions)) = consumer.rebalance() {
            consumer.assign(&partitions).expect("assigned");
            starting.extend(partitions);
        }
        starting.retain(|&partition| consumer.start(partition, 0).is_err());
        consumer.consume(&mut messages, 16, Duration::from_millis(5));
        read += messages
            .iter()
            .filter(|message| message.error().is_none())
            .count() as u64;
    }
    read
}
