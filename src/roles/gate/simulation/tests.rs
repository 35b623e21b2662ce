//! The seeds of CI, and the planted bugs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::bug::Bug;
use super::run::run;

/// Seeds that are played unless `PULSEGATE_SEEDS` says otherwise.
const SEEDS: u64 = 10_000;
/// Seeds within which a planted bug must be found.
const BUG_SEEDS: u64 = 10_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

#[test]
fn the_invariants_hold_in_every_seed() {
    let one = number("PULSEGATE_SEED");
    let seeds = one.map_or(0..number("PULSEGATE_SEEDS").unwrap_or(SEEDS), |seed| {
        seed..seed + 1
    });
    let (count, mut commits) = (seeds.end - seeds.start, 0);
    for seed in seeds {
        let played = catch_unwind(AssertUnwindSafe(|| run(seed, None)));
        match played {
            Ok(Ok(came)) => commits += came.commits,
            Ok(Err(violation)) => panic!("{violation}\n{}", replay(seed)),
            Err(panicked) => {
                eprintln!("{}", replay(seed));
                std::panic::resume_unwind(panicked);
            }
        }
    }
    // A world in which nothing commits would hold every invariant.
    assert!(commits as u64 > count * 2, "{commits} commits in {count} seeds");
}

fn replay(seed: u64) -> String {
    format!("replay it with: PULSEGATE_SEED={seed} cargo test --lib simulation::tests::the_invariants")
}

#[test]
fn every_planted_bug_is_found() {
    let missed: Vec<_> = Bug::ALL
        .into_iter()
        .filter(|&bug| {
            let found = (0..BUG_SEEDS).find(|&seed| {
                let played = catch_unwind(AssertUnwindSafe(|| run(seed, Some(bug))));
                !matches!(played, Ok(Ok(_)))
            });
            println!(
                "{bug:?}: {}",
                found.map_or("missed".to_owned(), |seed| format!("seed {seed}"))
            );
            found.is_none()
        })
        .collect();
    assert_eq!(missed, []);
}
