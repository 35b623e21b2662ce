//! Topics, databases and roles as declared in `topology/`, applied to the live services and checked against them.
//!
//! The declarations are embedded in the binary, so what a version of Pulsegate expects can't drift from the version.
//! Everything is compared as a list of [`Item`]s: `show` prints all of them, `check` those that disagree, and `apply`
//! makes them agree where that loses nothing.

pub mod access;
mod admin;
mod config;
pub mod databases;
mod fault;
mod item;
pub mod topics;

pub use self::config::{Config, Settings};
pub use self::fault::Fault;
pub use self::item::{Item, Kind, Report};

/// Makes the live topology agree with the declared one, where that loses nothing; idempotent. A change that needs a
/// decision of the operator (a new partition count moves devices) stays in the report as a difference.
///
/// # Errors
/// [`Fault`] where a service does not answer or refuses.
pub async fn apply(settings: &Settings) -> Result<Report, Fault> {
    let mut report = Report::default();
    topics::apply(settings, &mut report.changes).await?;
    databases::apply(settings, &mut report.changes).await?;
    report.items = inspect(settings).await?;
    Ok(report)
}

/// Compares the live topology with the declared one and changes nothing.
///
/// # Errors
/// [`Fault`] where a service does not answer or refuses.
pub async fn inspect(settings: &Settings) -> Result<Vec<Item>, Fault> {
    let mut items = topics::inspect(settings).await?;
    items.extend(databases::inspect(settings).await?);
    Ok(items)
}
