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

/// A sabotage without its effect makes the oracle look blind. Boot and time decide which records a fleet makes, and both
/// differ in every run of the tests above. Here they are fixed: lane 1 begins with an empty value under boot 18, with a
/// value that is not JSON under boot 12, and with an event that has no subject under boot 109; under boot 112 the first
/// forged record that is JSON has no readable `event_id`.
#[test]
fn every_sabotage_has_its_effect_on_any_fleet() {
    const NOW_MS: i64 = 1_800_000_000_000;
    let topics = Topics::prefixed("sabotage");
    let mut options = fleet(&topics).options().clone();
    // The size of these records is not judged here, and small ones are hashed faster.
    options.hostile.oversized_bytes = 2_000;
    for boot in 0..128 {
        options.boot = boot;
        let mut fleet = Fleet::new(options.clone());
        let planted = fleet.planted();
        let lanes = gate::draft(&mut fleet, 600, NOW_MS);
        let right = gate::outputs(&topics, &lanes, Sabotage::Nothing);
        for sabotage in Sabotage::ALL {
            let outputs = gate::outputs(&topics, &lanes, sabotage);
            let is_changed = |lane: &usize| outputs[*lane] != right[*lane];
            let changed: Vec<_> = (0..lanes.len()).filter(is_changed).collect();
            assert_eq!(changed, [1], "boot {boot}: the lanes that {sabotage:?} changes");
            let [clean, ..] = &outputs[1];
            let values = clean.iter().filter_map(|record| record.value.as_deref());
            let unreadable: Vec<_> = values.filter(|value| !gate::has_event_id(value)).collect();
            let naked = unreadable.iter().filter(|value| is_naked(value, &planted));
            let expected = usize::from(sabotage == Sabotage::NakedClean);
            assert_eq!(
                (unreadable.len(), naked.count()),
                (expected, expected),
                "boot {boot}: unreadable clean records, and those of them with PHI, after {sabotage:?}"
            );
        }
    }
}

fn is_naked(value: &[u8], planted: &[String]) -> bool {
    let text = String::from_utf8_lossy(value);
    planted.iter().any(|phi| text.contains(phi.as_str()))
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
