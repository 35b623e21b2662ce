//! Plans: schemas compiled for the walkers, as trees of nodes with names, types, roles and protections.

use serde_json::Value;

use super::config::{Config, Format};
use super::sealed::Clean;
use super::tags::{Fingerprint, Protect, Role, TimeUnit};

/// One event type: structure, roles and protections of its records.
pub struct Plan {
    pub(crate) name: String,
    pub(crate) full_name: String,
    pub(crate) source: Value,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) root: Node,
    pub(crate) limits: Limits,
    pub(crate) clean: Clean,
    /// Index of the plan in its catalog.
    pub(crate) index: u16,
}

/// Limits of `event::Config` that the walkers check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub string_bytes: usize,
    pub items: usize,
    pub identity_bytes: usize,
    pub protected: usize,
}

/// One value of the schema: a field of a record, an item of an array or an entry of a map.
pub(crate) struct Node {
    pub kind: Kind,
    /// Index of the null branch if the schema is a union of null and another type.
    pub null_branch: Option<u8>,
    /// Protection of the node. `Drop` is set on the dropped field and on everything below it.
    pub protect: Option<Protect>,
    pub role: Option<Role>,
    /// Path from the event, with `[]` for every step into an array or a map.
    pub path: Box<str>,
}

/// The type of a node.
pub(crate) enum Kind {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    String,
    Uuid,
    Date,
    Timestamp(TimeUnit),
    Enum(Box<[Box<str>]>),
    Record(Box<[Field]>),
    Array(Box<Node>),
    Map(Box<Node>),
}

/// A field of a record. A record has at most 64, so that a bit mask can note which were seen.
pub(crate) struct Field {
    pub name: Box<str>,
    /// Whether the field may be absent in JSON: it is nullable or has a default.
    pub optional: bool,
    pub default: Option<Value>,
    pub node: Node,
}

/// Maximum number of fields in one record.
pub(crate) const FIELDS_MAX: usize = 64;

impl Plan {
    /// Event type: the file name of the schema without its extension.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Full name of the Avro record, such as `pulsegate.BiometricEvent`.
    #[must_use]
    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    /// Source of the schema, unchanged.
    #[must_use]
    pub fn schema(&self) -> &Value {
        &self.source
    }

    /// Schema of the clean event, derived from the plan.
    #[must_use]
    pub fn clean_schema(&self) -> &Value {
        &self.clean.source
    }

    /// Fingerprint of the clean schema (CRC-64-AVRO, little endian), as in a single object's header.
    #[must_use]
    pub fn clean_fingerprint(&self) -> [u8; 8] {
        self.clean.fingerprint
    }

    /// Format of the clean event.
    #[must_use]
    pub fn clean_format(&self) -> Format {
        self.clean.format
    }

    /// Protected leaves with their paths (`[]` for a step into an array or a map), in the order of the schema.
    #[must_use]
    pub fn protected(&self) -> Vec<(&str, Protect)> {
        let mut found = Vec::new();
        self.root.visit(&mut |node| {
            if let (Some(protect), true) = (node.protect, node.is_leaf()) {
                found.push((&*node.path, protect));
            }
        });
        found
    }

    /// Path of the node with this role; `None` if the schema has none.
    #[must_use]
    pub fn role(&self, role: Role) -> Option<&str> {
        let mut found = None;
        self.root.visit(&mut |node| {
            if node.role == Some(role) {
                found = Some(&*node.path);
            }
        });
        found
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({})", self.name)
    }
}

impl Node {
    /// Visits the node and everything below it, in the order of the schema.
    pub fn visit<'n>(&'n self, visitor: &mut impl FnMut(&'n Node)) {
        visitor(self);
        match &self.kind {
            Kind::Record(fields) => {
                for field in fields {
                    field.node.visit(visitor);
                }
            }
            Kind::Array(item) | Kind::Map(item) => item.visit(visitor),
            _ => {}
        }
    }

    pub fn is_leaf(&self) -> bool {
        !matches!(self.kind, Kind::Record(_) | Kind::Array(_) | Kind::Map(_))
    }
}

impl Limits {
    pub fn of(config: &Config) -> Self {
        Self {
            string_bytes: config.string_bytes_max as usize,
            items: config.items_max as usize,
            identity_bytes: config.identity_bytes_max as usize,
            protected: config.protected_max as usize,
        }
    }
}
