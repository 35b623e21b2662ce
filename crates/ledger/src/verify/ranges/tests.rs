//! A minimal gate, the topics it writes for similar raw records, and tampering with them.

use std::ops::Range;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::entry::{Entry, Head, Stamp, Tally};
use crate::outcome::{Outcome, Reason};
use crate::record::{Received, SignatureHeaders};
use crate::verify::account::EventId;
use crate::verify::account::Pending;
use crate::verify::account::{Job, Recomputed, TopicNames};
use crate::verify::report::Kind;
use crate::verify::window::{Accounts, Bound, Window};

/// Time between raw records.
const STEP_MS: i64 = 1_000;
/// Distance in raw records up to which a repeat is a duplicate, and not stale.
const REPEAT_RECORDS: i64 = 10;
/// Size of the commits after the given steps.
const REST: u8 = 7;
const LANE: &str = "raw/0";

/// A raw record.
#[derive(Clone, Debug)]
struct Sent {
    event: EventId,
    /// Number with which the device signed it.
    number: u8,
    /// Its fault, if any, and a fault that it has only when read again.
    faults: [Option<Reason>; 2],
    value: Vec<u8>,
}

fn sent(event: u8, number: u8) -> Sent {
    Sent {
        event: event.into(),
        number,
        faults: [None; 2],
        value: vec![event, number],
    }
}

/// Contents of the topics.
#[derive(Clone, Debug)]
struct Lab {
    raw: Vec<Sent>,
    clean: Vec<Option<EventId>>,
    dead: Vec<(i64, Outcome)>,
    ledger: Vec<Entry>,
    head: Head,
    /// End of the records read before, which are read again after a rewind.
    read: i64,
}

/// Next action of the gate.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Commits this many records.
    Commit(u8),
    /// Goes back by this many records, as with `--rewind`.
    Rewind(u8),
}

impl Lab {
    /// Lets the gate take these steps, and then commit the rest in small parts.
    fn new(raw: Vec<Sent>, steps: &[Step]) -> Self {
        let mut lab = Self {
            raw,
            clean: Vec::new(),
            dead: Vec::new(),
            ledger: Vec::new(),
            head: Head::genesis(0),
            read: 0,
        };
        steps.iter().for_each(|step| lab.step(*step));
        while lab.head.next < lab.raw.len() as i64 {
            lab.step(Step::Commit(REST));
        }
        lab
    }

    fn step(&mut self, step: Step) {
        let from = self.head.next;
        let value = match step {
            Step::Rewind(by) => self
                .head
                .append_rewind(LANE, (from - i64::from(by)).max(0), &STAMP),
            Step::Commit(count) => {
                let next = (from + i64::from(count)).min(self.raw.len() as i64);
                let tally = self.commit(from..next);
                self.read = self.read.max(next);
                self.head.append(LANE, &tally, next, &STAMP)
            }
        };
        self.ledger.push(Entry::parse(&value).expect("one was written"));
    }

    fn commit(&mut self, offsets: Range<i64>) -> Tally {
        let mut tally = Tally::default();
        for offset in offsets {
            let (outcome, one) = (
                self.outcome(offset, offset < self.read),
                &self.raw[offset as usize],
            );
            match outcome {
                Outcome::Clean => self.clean.push(Some(one.event)),
                Outcome::Duplicate => {}
                Outcome::Rejected(_) => self.dead.push((offset, outcome)),
            }
            let received = Received {
                partition: 0,
                offset,
                appended_ms: appended_ms(offset),
                key: None,
                value: &one.value,
                signature: SignatureHeaders::default(),
            };
            tally.add(&received, outcome);
        }
        tally
    }

    fn outcome(&self, offset: i64, again: bool) -> Outcome {
        let one = &self.raw[offset as usize];
        let [fault, later] = one.faults;
        if let Some(reason) = fault.or(later.filter(|_| again)) {
            return Outcome::Rejected(reason);
        }
        let same = |other: &Sent| other.number == one.number && other.faults[0].is_none();
        match self.raw[..offset as usize].iter().position(same) {
            None => Outcome::Clean,
            Some(first) if offset - first as i64 <= REPEAT_RECORDS => Outcome::Duplicate,
            Some(_) => Outcome::Rejected(Reason::Stale),
        }
    }

    /// Verifies the window, with the first `logged` ledger records in the log.
    fn verify(&self, window: Window, logged: usize) -> Recomputed {
        let (mut accounts, mut pending) = (Accounts::new(window, REPEAT_RECORDS * STEP_MS), 0);
        for (number, entry) in (0..).zip(&self.ledger) {
            if (number as usize) < logged {
                accounts.take(number, entry).expect("few");
            } else {
                accounts.cover(entry.first..entry.next);
                pending += entry.outcomes.get("clean").copied().unwrap_or(0);
            }
        }
        let pending = Pending {
            records: pending,
            before: self.clean.len() as i64,
        };
        let job = Job {
            lane: LANE,
            partition: 0,
            topics: TopicNames {
                raw: "raw",
                clean: "clean",
                deadletter: "deadletter",
            },
            pending_clean: Some(pending).filter(|_| !accounts.ended),
            from: accounts.from,
            accounts: accounts.accounts,
            covers: accounts.covers,
            until_ms: accounts.until_ms,
            repeat_ms: REPEAT_RECORDS * STEP_MS,
            raw: true,
            clean: true,
        };
        let (mut dead, mut clean) = (Dead::default(), Clean::default());
        for ((origin, outcome), at) in self.dead.iter().zip(0..) {
            dead.add(*origin, *outcome, at);
        }
        for (event, at) in self.clean.iter().zip(0..) {
            clean.add(at, *event);
        }
        clean.sort();
        let Some(read) = job.offsets() else {
            return Recomputed::default();
        };
        let mut pass = Pass::new(&job, read.clone(), read.start == 0, dead, clean);
        for offset in read {
            let one = &self.raw[offset as usize];
            pass.take(&Record {
                offset,
                appended_ms: appended_ms(offset),
                value: &one.value,
                event: pass.needs_event(offset).then_some(one.event),
            });
        }
        pass.finish()
    }

    /// Verifies everything.
    fn verify_all(&self) -> Recomputed {
        self.verify(Window::default(), self.ledger.len())
    }
}

const STAMP: Stamp<'static> = Stamp {
    worker: "gate-0",
    schema_rev: "0011223344556677",
    key_rev: 3,
};

fn appended_ms(offset: i64) -> i64 {
    1_700_000_000_000 + offset * STEP_MS
}

fn kinds(found: &Recomputed) -> Vec<Kind> {
    found.problems.iter().map(|problem| problem.kind).collect()
}

/// Number 1, its repeat, and the same event signed again with number 2.
#[test]
fn a_device_may_sign_an_event_more_than_once() {
    let raw = vec![sent(9, 1), sent(9, 1), sent(9, 2), sent(8, 3)];
    for steps in [
        &[][..],
        &[Step::Commit(1)],
        &[Step::Commit(2)],
        &[Step::Commit(1), Step::Commit(1), Step::Commit(1)],
    ] {
        let lab = Lab::new(raw.clone(), steps);
        let found = lab.verify_all();
        assert_eq!((kinds(&found), found.unknown), (vec![], 0), "{steps:?}");
        assert_eq!(found.ranges, steps.len() as u64 + 1);
    }
}

/// The event's first record repeats another event's number.
#[test]
fn a_device_may_sign_several_events_with_one_number() {
    let raw = vec![sent(9, 1), sent(8, 1), sent(8, 2)];
    for steps in [&[][..], &[Step::Commit(1)], &[Step::Commit(2)]] {
        let found = Lab::new(raw.clone(), steps).verify_all();
        assert_eq!((kinds(&found), found.unknown), (vec![], 0), "{steps:?}");
    }
}

#[test]
fn too_many_choices_to_try_are_not_a_finding() {
    let raw = (0..40).map(|number| sent(9, number / 2)).collect();
    let found = Lab::new(raw, &[Step::Commit(20), Step::Commit(20)]).verify_all();
    assert_eq!((kinds(&found), found.ranges, found.unknown), (vec![], 0, 2));
}

#[test]
fn a_missing_clean_record_is_found_however_many_choices_there_are() {
    let mut raw: Vec<Sent> = (0..40).map(|number| sent(9, number / 2)).collect();
    raw[3] = sent(8, 99);
    let gone = raw[3].event;
    let mut lab = Lab::new(raw, &[Step::Commit(20), Step::Commit(20)]);
    assert_eq!(kinds(&lab.verify_all()), []);
    lab.clean.retain(|event| *event != Some(gone));
    assert_eq!(kinds(&lab.verify_all()), [Kind::CleanMissing]);
}

#[test]
fn offsets_covered_again_have_their_records_again() {
    let mut raw: Vec<Sent> = (0..12).map(|number| sent(number, number)).collect();
    raw[2].faults = [Some(Reason::BadSignature); 2];
    raw[4].faults = [None, Some(Reason::KeyNotActive)];
    let once = [Step::Commit(6), Step::Rewind(5), Step::Commit(2)];
    let thrice = [once.as_slice(), &[Step::Rewind(3), Step::Rewind(0)], &once].concat();
    for steps in [once.to_vec(), thrice] {
        let lab = Lab::new(raw.clone(), &steps);
        let found = lab.verify_all();
        assert_eq!(kinds(&found), [], "{steps:?}");
        assert!(found.unknown > 0, "{steps:?}");
    }
}

fn raw_records() -> impl Strategy<Value = Vec<Sent>> {
    // Few events and numbers, so that they collide.
    let fault = || option::weighted(0.1, Just(Reason::BadSignature));
    vec((0..6_u8, 0..4_u8, fault(), fault()), 1..60).prop_map(|drawn| {
        let one = |(offset, (event, number, fault, later))| Sent {
            faults: [fault, later],
            value: vec![offset],
            ..sent(event, event * 4 + number)
        };
        (0..).zip(drawn).map(one).collect()
    })
}

fn steps(rewinds: u32) -> impl Strategy<Value = Vec<Step>> {
    let commit = (0..8_u8).prop_map(Step::Commit);
    let rewind = (0..20_u8).prop_map(Step::Rewind);
    vec(prop_oneof![6 => commit, rewinds => rewind], 0..20)
}

fn bound() -> impl Strategy<Value = Option<Bound>> {
    option::of((0..60_i64).prop_map(Bound::Offset))
}

proptest! {
    #[test]
    fn what_the_gate_wrote_agrees_in_any_window(
        raw in raw_records(),
        steps in steps(1),
        (from, to) in (bound(), bound()),
        logged in 0..20_usize,
    ) {
        let lab = Lab::new(raw, &steps);
        let found = lab.verify(Window { from, to }, logged);
        prop_assert_eq!(kinds(&found), []);
    }

    #[test]
    fn without_rewinds_every_range_is_known(raw in raw_records(), steps in steps(0)) {
        let lab = Lab::new(raw, &steps);
        let found = lab.verify_all();
        prop_assert_eq!((kinds(&found), found.unknown), (vec![], 0));
        prop_assert_eq!(found.ranges, lab.ledger.len() as u64);
    }

    #[test]
    fn tampering_with_the_topics_shows(raw in raw_records(), steps in steps(0), at: prop::sample::Index) {
        let lab = Lab::new(raw, &steps);
        let tampered = |tamper: &dyn Fn(&mut Lab)| {
            let mut lab = lab.clone();
            tamper(&mut lab);
            kinds(&lab.verify_all())
        };
        let inserted = |event| tampered(&|lab| lab.clean.insert(at.index(lab.clean.len() + 1), event));
        prop_assert!(inserted(None).contains(&Kind::CleanInserted));
        prop_assert!(inserted(Some(lab.raw[0].event)).contains(&Kind::CleanInserted));
        prop_assert!(!tampered(&|lab| at.get_mut(&mut lab.raw).value.push(0)).is_empty());
        let forged = (at.index(lab.raw.len()) as i64, Outcome::Rejected(Reason::TooLarge));
        prop_assert!(tampered(&|lab| lab.dead.push(forged)).contains(&Kind::DeadletterInserted));
        if !lab.clean.is_empty() {
            let removed = tampered(&|lab| {
                lab.clean.remove(at.index(lab.clean.len()));
            });
            prop_assert!(removed.contains(&Kind::CleanMissing), "{:?}", removed);
        }
        if !lab.dead.is_empty() {
            let removed = tampered(&|lab| {
                lab.dead.remove(at.index(lab.dead.len()));
            });
            prop_assert!(!removed.is_empty());
        }
    }
}
