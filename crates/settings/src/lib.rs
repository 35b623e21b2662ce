//! What every section of the configuration needs: a way to report problems without knowing the whole, and a type for
//! values that must not be printed.
//!
//! A section names only its own members. Where it stands in the configuration is said by whoever composes it, with
//! [`Check::section`], so a section keeps its settings' names when it moves or is used alone.

mod check;
mod secret;

pub use check::{Check, Invalid, LOCAL, Problem};
pub use secret::{REDACTED, Secret};
