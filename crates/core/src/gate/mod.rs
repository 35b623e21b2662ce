//! The pure core: decides the outcome of one record.
//!
//! ```text
//! received ─▶ verify ─▶ decode ─▶ bind ─▶ admit ─▶ seal ─▶ clean
//!               └─────────┴─────────┴───────┴▶ sealed as received ─▶ deadletter
//! ```
//!
//! Nothing below this module does I/O or reads a clock, the environment or global randomness: time, keys and random
//! bytes are arguments. [`pipeline`] is the list of verbs above, each in a module of its own: [`verify`] and
//! [`crate::event`] decide what depends on the record alone, [`admit`] what depends on the lane's past, and [`seal`]
//! makes the bytes that are produced.

pub mod admit;
pub mod clock;
pub mod keyring;
pub mod lane;
pub mod open;
pub mod pipeline;
pub mod seal;
pub mod verify;

use crate::event::{Catalog, Ids};
use keyring::Keyring;

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
