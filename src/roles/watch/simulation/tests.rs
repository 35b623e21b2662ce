//! Seeds, and bugs that they find.

use std::env;

use super::run::run;
use crate::roles::watch::planted::Bug;

/// Replays one seed, and prints what happens.
const SEED: &str = "PULSEGATE_SEED";
/// Number of seeds.
const SEEDS: u64 = 10_000;
/// Number of seeds among which each planted bug is found.
const BUG_SEEDS: u64 = 10_000;

#[test]
fn every_offset_is_stored_exactly_once_and_in_order_whatever_goes_wrong() {
    let replayed = env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seeds = replayed.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    for seed in seeds {
        if let Err(violation) = run(seed, replayed.is_some()) {
            panic!(
                "seed {seed}: {violation}\nreplay: {SEED}={seed} cargo test --lib watch::simulation -- --nocapture"
            );
        }
    }
}

#[test]
fn a_seed_always_plays_the_same() {
    // The planted bug makes the outcome depend on the order of everything before it.
    Bug::plant(Some(Bug::TakeWhilePaused));
    let play = || (0..20).map(|seed| run(seed, false)).collect::<Vec<_>>();
    let (first, second) = (play(), play());
    Bug::plant(None);
    assert_eq!(first, second);
}

#[test]
fn planted_bugs_are_found() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        Bug::plant(Some(bug));
        let found = (0..BUG_SEEDS).find_map(|seed| Some((seed, run(seed, false).err()?)));
        Bug::plant(None);
        match found {
            Some((seed, violation)) => println!("{bug:?}: seed {seed}: {violation}"),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
