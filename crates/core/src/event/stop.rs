//! Why a walk stopped: the inner form of a violation, without its path.

use super::arena::Arena;
use super::plan::Node;
use super::violation::{Kind, Violation};

/// Why a walk stopped, and at which node. Fits two registers, since every step of a walk returns it.
pub(super) enum Stop<'p> {
    Undecodable,
    Schema(&'p Node, Kind),
}

impl Stop<'_> {
    /// Renders the path. The steps of the walk must still be in the arena.
    #[cold]
    pub fn violation(&self, arena: &Arena) -> Violation {
        let Self::Schema(at, kind) = self else {
            return Violation::Undecodable;
        };
        let mut path = String::new();
        arena.render(at, None, &mut path);
        Violation::Schema {
            path: path.into(),
            kind: *kind,
        }
    }
}
