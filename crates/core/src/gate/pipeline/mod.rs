//! What becomes of a record, from its received bytes to its outcome, as a list of verbs:
//!
//! ```text
//! verify ─▶ decode ─▶ key ─▶ cut ─▶ admit ─▶ seal ─▶ account
//! ```
//!
//! Each verb takes records one at a time, so the shell runs a verb over a whole chunk before the next one, and measures
//! between them. Nothing here asks for anything: where a piece is missing (the key of a subject, the registry's answer
//! about a schema) the record is [`Step::Waiting`] for it, and the shell finds the piece or [cuts](cut) the lane there.
//! Up to [`admit`] every change can be undone: only a lane's budget changes, and a cut restores it.
//!
//! A lane that is rebuilt from its log takes the same path without keys and sealing: see [`Past::replay`].

mod output;
mod past;

pub use output::{Output, OutputError, Sealed, TenantKeys};
pub use past::Past;

use super::Rules;
use super::admit::Admission;
use super::keyring::Key;
use super::verify::{self, Bound, Budget, Rejection, Verified};
use crate::event::{Arena, Ids, Located, Plan, Violation, Walk};
use pulsegate_ledger::outcome::{Outcome, Reason};
use pulsegate_ledger::record::Received;

/// A record on its way through the pipeline, with the result of the last verb.
#[derive(Clone)]
pub struct Item<'r, 'k, T> {
    /// The record as received.
    pub record: Received<'r>,
    /// The lane's budget before this record, restored if the lane is cut here.
    budget: Budget,
    /// Result of the last verb.
    pub step: Step<'k, T>,
}

/// Result of a verb for one record.
#[derive(Clone)]
pub enum Step<'k, T> {
    /// The record passed every check so far.
    Passed(T),
    /// The record is at fault.
    Rejected(Rejected<'k>),
    /// Undecided: a piece is missing that only the shell can find. The record is not at fault.
    Waiting(Missing),
}

/// A piece without which a record cannot be decided or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The key of the record's subject.
    SubjectKeys,
    /// The registry's answer about this schema id.
    Schema(u32),
}

/// Why a record is rejected, and for whom.
#[derive(Clone, Debug)]
pub struct Rejected<'k> {
    /// Reason that the failed check gives.
    pub reason: Reason,
    /// Key that signed the record, if the signature was verified.
    pub signer: Option<Key<'k>>,
    /// What is wrong with the payload of a verified record, for the log.
    pub violation: Option<Violation>,
}

/// A record that passed every check that depends on the record alone; `S` is the key of its subject once it is known.
#[derive(Clone)]
pub struct Admissible<'k, S = ()> {
    /// The signer, with proof that payload and record key name it.
    pub bound: Bound<'k>,
    /// Plan of the record's schema.
    pub plan: &'k Plan,
    /// Positions of the protected fields in the value.
    pub walk: Walk,
    /// Key of the event's subject.
    pub subject: S,
}

/// The decision about a record.
pub enum Verdict<'k, S> {
    /// New, and within the device's rate.
    Admitted(Admissible<'k, S>),
    /// A replay.
    Duplicate,
    /// The record is at fault.
    Rejected(Rejected<'k>),
}

/// A lane's part of a chunk ends before its first record that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Partition of the raw topic.
    pub partition: i32,
    /// What the record waits for.
    pub missing: Missing,
}

/// The verbs that need buffers, which are reused.
#[derive(Default)]
pub struct Pipeline {
    scratch: verify::Scratch,
    arena: Arena,
    no_ids: Ids,
}

impl Pipeline {
    /// Forgets the walks of the last chunk.
    pub fn clear(&mut self) {
        self.arena.clear();
    }

    /// The arena that the walks since the last clear point into.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Runs the checks over the received bytes, before the payload is parsed.
    pub fn verify<'r, 'k>(
        &mut self,
        record: Received<'r>,
        rules: &Rules<'k>,
        budget: &mut Budget,
    ) -> Item<'r, 'k, Verified<'k>> {
        let before = *budget;
        let verified = verify::verify(&record, rules.keyring, rules.verify, &mut self.scratch, budget);
        Item {
            record,
            budget: before,
            step: verified.map_or_else(|rejection| Step::Rejected(rejection.into()), Step::Passed),
        }
    }

    /// Finds the schema of a verified record, validates the payload, and binds it to its signer.
    pub fn decode<'r, 'k>(
        &mut self,
        item: Item<'r, 'k, Verified<'k>>,
        rules: &Rules<'k>,
    ) -> Item<'r, 'k, Admissible<'k>> {
        item.and_then(|record, verified| self.decode_verified(record, verified, rules))
    }

    fn decode_verified<'k>(
        &mut self,
        record: &Received<'_>,
        verified: Verified<'k>,
        rules: &Rules<'k>,
    ) -> Step<'k, Admissible<'k>> {
        let rejected = |reason, violation| {
            Step::Rejected(Rejected {
                reason,
                signer: Some(verified.key),
                violation,
            })
        };
        let (plan, format, datum_start) = match rules
            .catalog
            .locate(record.value, rules.ids.unwrap_or(&self.no_ids))
        {
            Located::Plan {
                plan,
                format,
                datum_start,
            } => (plan, format, datum_start),
            Located::NeedsSchema(id) if rules.ids.is_some() => return Step::Waiting(Missing::Schema(id)),
            Located::NeedsSchema(_) | Located::UnknownSchema => return rejected(Reason::UnknownSchema, None),
            Located::Undecodable => return rejected(Reason::Undecodable, None),
        };
        let walk = match plan.walk(format, record.value, datum_start, &mut self.arena) {
            Ok(walk) => walk,
            Err(violation) => return rejected(reason(&violation), Some(violation)),
        };
        match verified.bind(record.key, walk.device.of(record.value, &self.arena)) {
            Ok(bound) => Step::Passed(Admissible {
                bound,
                plan,
                walk,
                subject: (),
            }),
            Err(reason) => rejected(reason, None),
        }
    }

    /// Tenant and id of a decoded record's subject, whose key it needs; `None` if the record goes no further.
    #[must_use]
    pub fn subject<'a>(&'a self, item: &'a Item<'_, '_, Admissible<'_>>) -> Option<(u16, &'a [u8])> {
        match &item.step {
            Step::Passed(found) => Some((
                found.bound.key.tenant,
                found.walk.subject.of(item.record.value, &self.arena),
            )),
            Step::Rejected(_) | Step::Waiting(_) => None,
        }
    }

    /// Gives a decoded record the key of its subject, or has it wait for that. `find` is asked only if the record needs
    /// a key.
    pub fn key<'r, 'k, S>(
        &self,
        item: Item<'r, 'k, Admissible<'k>>,
        find: impl FnOnce(u16, &[u8]) -> Option<S>,
    ) -> Item<'r, 'k, Admissible<'k, S>> {
        item.and_then(|record, found| {
            let id = found.walk.subject.of(record.value, &self.arena);
            let waiting = Step::Waiting(Missing::SubjectKeys);
            find(found.bound.key.tenant, id).map_or(waiting, |key| Step::Passed(found.with(key)))
        })
    }
}

/// Ends each lane's part of a chunk before its first record that waits, and has `restore` give the lane back the budget
/// that this record and those behind it have spent. Returns the records that go on.
pub fn cut<'r, 'k, T>(
    items: Vec<Item<'r, 'k, T>>,
    cuts: &mut Vec<Cut>,
    mut restore: impl FnMut(i32, Budget),
) -> Vec<Item<'r, 'k, T>> {
    let mut ready = Vec::with_capacity(items.len());
    for item in items {
        let partition = item.record.partition;
        if cuts.iter().any(|cut| cut.partition == partition) {
            continue;
        }
        let Step::Waiting(missing) = item.step else {
            ready.push(item);
            continue;
        };
        restore(partition, item.budget);
        cuts.push(Cut { partition, missing });
    }
    ready
}

/// Decides replay and rate, which depend on the lane's past, of the next record of its log. `None` if the record waits:
/// the lane must be cut before it.
pub fn admit<'r, 'k, S>(
    item: Item<'r, 'k, Admissible<'k, S>>,
    admission: &mut Admission,
) -> Option<(Received<'r>, Verdict<'k, S>)> {
    let record = item.record;
    let verdict = match item.step {
        Step::Passed(found) => {
            let (key, sequence) = (found.bound.key, found.bound.sequence);
            match admission.admit(key.slot, key.class, sequence, record.appended_ms) {
                Ok(_) => Verdict::Admitted(found),
                Err(Outcome::Rejected(reason)) => Verdict::Rejected(Rejected {
                    reason,
                    signer: Some(key),
                    violation: None,
                }),
                Err(Outcome::Duplicate | Outcome::Clean) => Verdict::Duplicate,
            }
        }
        Step::Rejected(rejected) => Verdict::Rejected(rejected),
        Step::Waiting(_) => return None,
    };
    Some((record, verdict))
}

/// The reason that an event with this violation is rejected with.
#[must_use]
pub fn reason(violation: &Violation) -> Reason {
    match violation {
        Violation::Undecodable => Reason::Undecodable,
        Violation::Schema { .. } => Reason::SchemaViolation,
    }
}

impl<'r, 'k, T> Item<'r, 'k, T> {
    /// What the record waits for.
    #[must_use]
    pub fn missing(&self) -> Option<Missing> {
        match self.step {
            Step::Waiting(missing) => Some(missing),
            Step::Passed(_) | Step::Rejected(_) => None,
        }
    }

    /// What is wrong with the payload of a verified record.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        match &self.step {
            Step::Rejected(rejected) => rejected.violation.as_ref(),
            Step::Passed(_) | Step::Waiting(_) => None,
        }
    }

    fn and_then<U>(self, next: impl FnOnce(&Received<'r>, T) -> Step<'k, U>) -> Item<'r, 'k, U> {
        Item {
            step: match self.step {
                Step::Passed(passed) => next(&self.record, passed),
                Step::Rejected(rejected) => Step::Rejected(rejected),
                Step::Waiting(missing) => Step::Waiting(missing),
            },
            record: self.record,
            budget: self.budget,
        }
    }
}

impl<'k> Admissible<'k> {
    fn with<S>(self, subject: S) -> Admissible<'k, S> {
        let Self {
            bound, plan, walk, ..
        } = self;
        Admissible {
            bound,
            plan,
            walk,
            subject,
        }
    }
}

impl<S> Verdict<'_, S> {
    /// The outcome, unless sealing finds the record at fault.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Admitted(_) => Outcome::Clean,
            Self::Duplicate => Outcome::Duplicate,
            Self::Rejected(rejected) => rejected.reason.into(),
        }
    }
}

impl<'k> From<Rejection<'k>> for Rejected<'k> {
    fn from(Rejection { reason, signer }: Rejection<'k>) -> Self {
        Self {
            reason,
            signer,
            violation: None,
        }
    }
}
