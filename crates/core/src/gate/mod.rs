//! The pure core: what becomes of one record.
//!
//! ```text
//! received ─▶ verify ─▶ decode ─▶ bind ─▶ admit ─▶ seal ─▶ clean
//!               └─────────┴─────────┴───────┴▶ sealed as received ─▶ deadletter
//! ```
//!
//! Nothing below this module does I/O or reads a clock, the environment or global randomness: time, keys and random
//! bytes are arguments. [`Checker`] decides what depends on the record alone, [`admit`] what depends on the lane's past,
//! and [`seal`] makes the bytes that leave.

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

/// What the gate knows while it decides: one snapshot for a whole batch.
#[derive(Clone, Copy)]
pub struct Rules<'k> {
    /// The device keys.
    pub keyring: &'k Keyring,
    /// The event types.
    pub catalog: &'k Catalog,
    /// What the schema registry has said; none when there is none to ask.
    pub ids: Option<&'k Ids>,
    /// Where this is, and the limits.
    pub verify: &'k verify::Context,
}

/// A record that passed every check that needs no past.
#[derive(Clone, Copy)]
pub struct Admissible<'k> {
    /// Who signed it, and that payload and record key agree.
    pub bound: Bound<'k>,
    /// Its schema.
    pub plan: &'k Plan,
    /// Where in it the protected fields stand.
    pub walk: Walk,
}

/// What the checks say.
pub enum Checked<'k> {
    /// It may be admitted.
    Admissible(Admissible<'k>),
    /// It is the message's fault; and who signed it, if that was found.
    Rejected(Reason, Option<Key<'k>>),
    /// It is no event, and who signed it. Where and why is for the log of whoever runs the devices.
    Violates(Violation, Key<'k>),
    /// Nobody knows yet: the registry has to be asked for this schema id.
    NeedsSchema(u32),
}

/// The checks, with the buffers that they reuse.
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

    /// What the walks since the last clear refer to.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Everything that is decided over the received bytes, before any of them is parsed.
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
