//! Raw to clean, with every misdeed of a hostile fleet.

use pulsegate_loadtest::fleet::{Fleet, Hostile, Options};
use pulsegate_loadtest::outcome::Outcome;

use pulsegate_testkit::world::{LOW_RATE, World, in_a_world, limited_to};

pub fn fleet(world: &World, devices: u32, hostile: Hostile) -> Fleet {
    Fleet::new(Options {
        devices,
        hostile,
        topic: world.config.topics.raw.clone(),
        ..Options::new(7)
    })
}

#[test]
fn every_record_of_a_hostile_fleet_gets_its_outcome() {
    in_a_world("hostile", &limited_to(LOW_RATE), |world| {
        let mut fleet = fleet(world, 200, Hostile::some());
        world.import(&fleet);
        let made = world.produce(&mut fleet, 20_000);
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        let report = world.judged_good_at(&fleet, LOW_RATE);
        assert_eq!(report.total.records, made.records);
        assert!(report.total.outcomes.get(&Outcome::RateLimited) > Some(&0));
        let violations = report.total.ledger[&Outcome::SchemaViolation] as usize;
        let told = gate.logged().matches("\"violation\":").count();
        assert!((1..violations).contains(&told), "{told} of {violations}");
        assert!(gate.terminate().success(), "a drained gate exits with 0");
    });
}

#[test]
fn a_restarted_gate_continues_where_it_stopped() {
    in_a_world("back", "", |world| {
        let mut fleet = fleet(world, 50, Hostile::some());
        world.import(&fleet);
        for _ in 0..3 {
            world.produce(&mut fleet, 2_000);
            let mut gate = world.gate("one");
            world.settle(&mut [&mut gate]);
            assert!(gate.terminate().success());
        }
        world.judged_good(&fleet);
    });
}

#[test]
fn two_gates_share_the_lanes_and_hand_them_over() {
    in_a_world("two", "gate.workers = 2\n", |world| {
        let mut fleet = fleet(world, 50, Hostile::default());
        world.import(&fleet);
        let mut one = world.gate("one");
        world.produce(&mut fleet, 2_000);
        let mut two = world.gate("two");
        world.produce(&mut fleet, 2_000);
        world.settle(&mut [&mut one, &mut two]);
        assert!(one.terminate().success());
        world.produce(&mut fleet, 2_000);
        world.settle(&mut [&mut two]);
        assert!(two.terminate().success());
        world.judged_good(&fleet);
    });
}
