//! The oracle accepts the output of a correct gate, and reports every single defect.

use std::collections::BTreeSet;

use pulsegate_loadtest::fleet::{Fleet, Hostile, Options};
use pulsegate_loadtest::oracle::{self, Config, Keys, Mark, Problem, Report, Topics};
use pulsegate_loadtest::outcome::Outcome;

use crate::gate::{self, Sabotage};
use crate::topics::{Owned, kafka, unique};

/// A fleet with every misdeed whose outcome is certain.
fn fleet(topics: &Topics) -> Fleet {
    let hostile = Hostile {
        forged: 0.1,
        replayed: 0.1,
        misplaced: 0.05,
        stale: 0.1,
        malformed: 0.2,
        flooding: 0.0,
        oversized_bytes: (1 << 20) + 1,
        ..Hostile::some()
    };
    Fleet::new(Options {
        devices: 60,
        hostile,
        topic: topics.raw.clone(),
        ..Options::new(11)
    })
}

fn keys(fleet: &Fleet) -> Keys {
    let lines: Vec<String> = fleet.import_lines().collect();
    Keys::read(lines.iter().map(String::as_str)).expect("keys of a fleet")
}

fn problems(report: &Report) -> BTreeSet<Problem> {
    report.problems.keys().copied().collect()
}

#[test]
fn a_correct_account_is_good_and_every_single_defect_is_reported() {
    let kafka = kafka();
    let mut owned = Owned::at(&kafka);
    let topics = owned.gate("oracle");
    let mut fleet = fleet(&topics);
    let keys = keys(&fleet);
    let lanes = gate::produce(&kafka, &topics, &mut fleet, 2500);
    let wrong = [
        (Sabotage::Nothing, vec![]),
        (Sabotage::DropClean, vec![Problem::CleanMissing]),
        (Sabotage::DoubleClean, vec![Problem::CleanDoubled]),
        (Sabotage::AlienClean, vec![Problem::CleanWithoutRaw]),
        (Sabotage::SwapClean, vec![Problem::OrderViolated]),
        (Sabotage::PassRepeat, vec![Problem::CleanDoubled]),
        (Sabotage::PassForged, vec![Problem::WrongOutcome]),
        (
            Sabotage::DropDead,
            vec![
                Problem::DeadletterMissing,
                Problem::LedgerCounts,
                Problem::LedgerRoot,
            ],
        ),
        (Sabotage::DoubleDead, vec![Problem::DeadletterDoubled]),
        (
            Sabotage::WrongReason,
            vec![Problem::WrongOutcome, Problem::LedgerCounts, Problem::LedgerRoot],
        ),
        (Sabotage::WrongReceived, vec![Problem::DeadletterMalformed]),
        (Sabotage::WrongRoot, vec![Problem::LedgerRoot]),
        (Sabotage::WrongCount, vec![Problem::LedgerCounts]),
        (Sabotage::WrongTime, vec![Problem::LedgerCounts]),
        (Sabotage::BreakHash, vec![Problem::LedgerChain]),
        (Sabotage::SkipSequence, vec![Problem::LedgerChain]),
        (Sabotage::AddSpace, vec![Problem::LedgerMalformed]),
    ];
    for (sabotage, expected) in wrong {
        let report = verify(&kafka, &mut owned, &topics, &keys, &lanes, &fleet, sabotage);
        let mut named = problems(&report);
        // A missing clean record looks like a repeat, which the ledger's count and root then contradict.
        if sabotage == Sabotage::DropClean {
            assert!(
                named.remove(&Problem::LedgerCounts) && named.remove(&Problem::LedgerRoot),
                "{report}"
            );
        }
        assert_eq!(named, expected.into_iter().collect(), "{sabotage:?}\n{report}");
        assert_eq!(report.total.records, 2500, "{sabotage:?}");
        if sabotage == Sabotage::Nothing {
            check_totals(&report, &lanes);
        }
    }
}

/// For defects with several symptoms, the expected kind is among those reported.
#[test]
fn defects_with_several_symptoms_are_reported_too() {
    let kafka = kafka();
    let mut owned = Owned::at(&kafka);
    let topics = owned.gate("oracle-more");
    let mut fleet = fleet(&topics);
    let keys = keys(&fleet);
    let lanes = gate::produce(&kafka, &topics, &mut fleet, 1500);
    let wrong = [
        (Sabotage::AlienDead, Problem::DeadletterMissing),
        (Sabotage::WrongStage, Problem::DeadletterMalformed),
        (Sabotage::NakedClean, Problem::CleanUnreadable),
        (Sabotage::NakedClean, Problem::PlantedPhi),
        (Sabotage::LeaveGap, Problem::LedgerRange),
        (Sabotage::LeaveGap, Problem::Unaccounted),
        (Sabotage::ForgetTail, Problem::Unaccounted),
    ];
    for (sabotage, expected) in wrong {
        let report = verify(&kafka, &mut owned, &topics, &keys, &lanes, &fleet, sabotage);
        let place = report.problems.get(&expected);
        assert!(
            place.is_some_and(|found| found.first.partition == 1),
            "{sabotage:?}: no {expected:?} in\n{report}"
        );
        assert!(!report.is_good());
    }
}

fn verify(
    kafka: &pulsegate_loadtest::kafka::Kafka,
    owned: &mut Owned,
    topics: &Topics,
    keys: &Keys,
    lanes: &[Vec<gate::Raw>],
    fleet: &Fleet,
    sabotage: Sabotage,
) -> Report {
    let outputs = Topics {
        raw: topics.raw.clone(),
        ..Topics::prefixed(&unique("out"))
    };
    let topics = owned.outputs(outputs);
    gate::run(kafka, &topics, lanes, sabotage);
    let config = Config {
        topics,
        planted: fleet.planted(),
        ..Config::new(kafka.clone())
    };
    oracle::verify(&config, keys, &mut |_| {}).expect("the topics can be read")
}

fn check_totals(report: &Report, lanes: &[Vec<gate::Raw>]) {
    assert!(report.total.is_conserved());
    assert_eq!(
        report.total.outcomes, report.total.ledger,
        "the table and the ledger"
    );
    assert_eq!(report.total.roots_checked, report.total.ledger_records);
    for outcome in Outcome::ALL {
        let deserved = lanes
            .iter()
            .flatten()
            .filter(|raw| raw.outcome == outcome)
            .count() as u64;
        assert_eq!(
            report.total.outcomes.get(&outcome).copied().unwrap_or(0),
            deserved,
            "{outcome}"
        );
        let certain = !matches!(outcome, Outcome::RateLimited | Outcome::KeyNotActive);
        assert_eq!(deserved > 0, certain, "the fleet makes {outcome}");
    }
}

#[test]
fn a_mark_leaves_out_what_was_before_but_remembers_it_for_repeats() {
    let kafka = kafka();
    let mut owned = Owned::at(&kafka);
    let topics = owned.gate("mark");
    let mut fleet = Fleet::new(Options {
        devices: 20,
        topic: topics.raw.clone(),
        ..Options::new(5)
    });
    let keys = keys(&fleet);
    let before = gate::produce(&kafka, &topics, &mut fleet, 300);
    gate::run(&kafka, &topics, &before, Sabotage::Nothing);
    let mark = Mark::take(&kafka, &topics).expect("a mark");
    let mark: Mark =
        serde_json::from_str(&serde_json::to_string(&mark).expect("JSON")).expect("the same mark");
    let config = Config {
        topics,
        since: Some(mark),
        ..Config::new(kafka.clone())
    };
    let nothing = oracle::verify(&config, &keys, &mut |_| {}).expect("reads");
    assert!(nothing.is_good() && nothing.total.records == 0, "{nothing}");
    // The whole stream a second time: every record repeats one from before the mark, and no ledger record covers it.
    let mut again = Fleet::new(fleet.options().clone());
    let mut repeats = gate::produce(&kafka, &config.topics, &mut again, 300);
    let report = oracle::verify(&config, &keys, &mut |_| {}).expect("reads");
    assert_eq!(problems(&report), [Problem::Unaccounted].into());
    assert_eq!((report.total.records, report.total.unaccounted), (300, 300));
    repeats
        .iter_mut()
        .flatten()
        .for_each(|raw| raw.outcome = Outcome::Duplicate);
    gate::run(&kafka, &config.topics, &repeats, Sabotage::Nothing);
    let report = oracle::verify(&config, &keys, &mut |_| {}).expect("reads");
    assert!(report.is_good(), "{report}");
    assert_eq!(report.total.outcomes, [(Outcome::Duplicate, 300)].into());
}
