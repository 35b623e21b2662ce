//! Events: schemas compiled to plans, walkers over JSON and Avro, and the rewriting of protected fields.
//!
//! A record is processed in three steps. [`Catalog::locate`] finds the plan and the format from the first bytes of
//! the value. [`Plan::walk`] reads the value once, validates it strictly, finds the event id, the device and the
//! subject, and records every span to be replaced. [`Rewriter::rewrite`] copies the untouched spans and writes the
//! replacements in the format of the clean topic; the caller provides the replacement values.
//!
//! Nothing here does I/O or allocates per record: everything that a batch needs is in one [`Arena`].

mod arena;
mod avro;
mod catalog;
mod clean;
mod compile;
mod config;
mod json;
mod plan;
mod rewrite;
mod scalar;
mod sealed;
mod stop;
mod tags;
mod violation;
mod walk;
mod wire;

use arena::POSITIONS;
pub use arena::{Action, Arena, Edit, Seal, Text, Walk};
pub use catalog::{Catalog, CatalogError, Ids, Located, Source, Verdict};
pub use compile::PlanError;
pub use config::{Config, Format};
pub use plan::Plan;
pub use rewrite::Rewriter;
pub use sealed::{Sealed, Untranscodable};
pub use tags::{Protect, Role};
pub use violation::{Kind as ViolationKind, Violation};

impl Plan {
    /// Reads a value once: validates it, finds event id, device and subject, and records in the arena the spans to be
    /// replaced. `datum_start` is the offset of the event from [`Located`].
    ///
    /// # Errors
    /// [`Violation`] if the value is not a valid event; the arena is then unchanged.
    ///
    /// # Panics
    /// If the arena holds a gigabyte: batches are bounded far below it, and a wrong position would not fail closed.
    pub fn walk(
        &self,
        format: Format,
        value: &[u8],
        datum_start: usize,
        arena: &mut Arena,
    ) -> Result<Walk, Violation> {
        assert!(arena.has_room(), "the arena was not cleared after the batch");
        if value.len() >= POSITIONS {
            return Err(Violation::Schema {
                path: "".into(),
                kind: ViolationKind::TooLong,
            });
        }
        match format {
            Format::Json => json::walk(self, value, arena),
            Format::Avro => avro::walk(self, value, datum_start, arena),
        }
    }
}

#[cfg(test)]
mod tests;
