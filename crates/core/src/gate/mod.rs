//! The pure core: decides the outcome of one record.
//!
//! ```text
//! received ─▶ verify ─▶ decode ─▶ bind ─▶ admit ─▶ seal ─▶ clean
//!               └─────────┴─────────┴───────┴▶ sealed as received ─▶ deadletter
//! ```
//!
//! Nothing below this module does I/O or reads a clock, the environment or global randomness: time, keys and random
//! bytes are arguments. [`Checker`] decides what depends on the record alone, [`admit`] decides what depends on the
//! lane's past, and [`seal`] makes the bytes that are produced.

pub mod admit;
pub mod clock;
pub mod keyring;
pub mod lane;
pub mod open;
pub mod seal;
pub mod verify;

use crate::event::{Arena, Catalog, Ids, Located, Plan, Violation, Walk};
use keyring::{Key, Keyring};
use pulsegate_ledger::outcome::Reason;
use pulsegate_ledger::record::Received;
use verify::{Bound, Budget, Rejection, Verified};

/// Keys, schemas and limits that the checks decide with: one snapshot for a whole batch.
#[derive(Clone, Copy)]
pub struct Rules<'k> {
    /// Device keys.
    pub keyring: &'k Keyring,
    /// Plans of the event types.
    pub catalog: &'k Catalog,
    /// The schema registry's verdicts so far; `None` without a configured registry.
    pub ids: Option<&'k Ids>,
    /// Expected audience, number of partitions, and limits.
    pub verify: &'k verify::Context,
}

/// A record that passed every check that depends on the record alone.
#[derive(Clone, Copy)]
pub struct Admissible<'k> {
    /// The signer, with proof that payload and record key name it.
    pub bound: Bound<'k>,
    /// Plan of the record's schema.
    pub plan: &'k Plan,
    /// Positions of the protected fields in the value.
    pub walk: Walk,
}

/// Result of the checks that depend on the record alone.
pub enum Checked<'k> {
    /// The record is valid and may be admitted.
    Admissible(Admissible<'k>),
    /// The record is invalid; with the signer's key if the signature was verified.
    Rejected(Reason, Option<Key<'k>>),
    /// The payload is not a valid event; with the signer's key. The violation is logged for the devices' operator.
    Violates(Violation, Key<'k>),
    /// Undecided: the schema id is unknown until the registry has been asked for it.
    NeedsSchema(u32),
}

/// Runs the checks, with buffers that are reused.
#[derive(Default)]
pub struct Checker {
    scratch: verify::Scratch,
    arena: Arena,
    no_ids: Ids,
}

impl Checker {
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
    ///
    /// # Errors
    ///
    /// The first check that failed.
    pub fn verify<'k>(
        &mut self,
        record: &Received<'_>,
        rules: &Rules<'k>,
        budget: &mut Budget,
    ) -> Result<Verified<'k>, Rejection<'k>> {
        verify::verify(record, rules.keyring, rules.verify, &mut self.scratch, budget)
    }

    /// Finds the schema of a verified record, validates it, and binds it to its signer.
    pub fn decode<'k>(
        &mut self,
        record: &Received<'_>,
        verified: Verified<'k>,
        rules: &Rules<'k>,
    ) -> Checked<'k> {
        let rejected = |reason| Checked::Rejected(reason, Some(verified.key));
        let (plan, format, datum_start) = match rules
            .catalog
            .locate(record.value, rules.ids.unwrap_or(&self.no_ids))
        {
            Located::Plan {
                plan,
                format,
                datum_start,
            } => (plan, format, datum_start),
            Located::NeedsSchema(id) if rules.ids.is_some() => return Checked::NeedsSchema(id),
            Located::NeedsSchema(_) | Located::UnknownSchema => return rejected(Reason::UnknownSchema),
            Located::Undecodable => return rejected(Reason::Undecodable),
        };
        let walk = match plan.walk(format, record.value, datum_start, &mut self.arena) {
            Ok(walk) => walk,
            Err(violation) => return Checked::Violates(violation, verified.key),
        };
        match verified.bind(record.key, walk.device.of(record.value, &self.arena)) {
            Ok(bound) => Checked::Admissible(Admissible { bound, plan, walk }),
            Err(reason) => rejected(reason),
        }
    }
}
