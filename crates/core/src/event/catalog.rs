//! All plans of a gate, and the lookup of a plan by the first bytes of a value.

use std::collections::HashMap;

use super::compile::{self, PlanError};
use super::config::{Config, Format};
use super::plan::Plan;
use super::tags::{self, Fingerprint};
use super::wire::{CONFLUENT, SINGLE_OBJECT};

/// Largest schema id. Registries assign signed 32-bit ids, and some do not answer for any other: Confluent's returns
/// a plain 404 of its web server, which is no verdict on the id, so a lane that asked would wait forever.
const ID_MAX: u32 = i32::MAX as u32;

/// Name and text of one schema.
#[derive(Clone, Debug)]
pub struct Source {
    /// Event type: the file name without `.avsc`.
    pub name: String,
    /// The Avro schema in JSON.
    pub text: String,
}

/// All plans, one of which is the default for plain JSON.
#[derive(Debug)]
pub struct Catalog {
    plans: Vec<Plan>,
    default: usize,
}

/// Why a set of schemas is not a valid catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// One of the schemas does not compile.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Two schemas have the same fingerprint, so their records cannot be told apart.
    #[error("schemas `{0}` and `{1}` have the same canonical form; remove one")]
    Twins(String, String),
    /// The default event is not among the schemas.
    #[error("`event.default_event` names the unknown schema `{0}`; the event types are: {1}")]
    NoDefault(String, String),
    /// There are more schemas than a gate supports.
    #[error("too many schemas: a gate supports at most 1000")]
    TooMany,
}

/// The registry's verdicts on schema ids, as one immutable snapshot.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    verdicts: HashMap<u32, Verdict, foldhash::fast::FixedState>,
}

/// Verdict on one schema id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The id's schema has the canonical form of this local plan, whose tags apply.
    Plan(u16),
    /// The registry does not have it, or no local plan protects it.
    Denied,
}

/// Result of a lookup by the first bytes of a value.
#[derive(Clone, Copy, Debug)]
pub enum Located<'c> {
    /// The plan is known.
    Plan {
        /// Plan to walk the value with.
        plan: &'c Plan,
        /// Format of the value.
        format: Format,
        /// Offset of the event in the value, after the framing.
        datum_start: usize,
    },
    /// The schema id is unknown: the caller asks the registry and holds the partition meanwhile.
    NeedsSchema(u32),
    /// The registry does not have the schema or cannot have it, or no local plan protects it.
    UnknownSchema,
    /// The framing is unknown or incomplete.
    Undecodable,
}

impl Catalog {
    /// Compiles all schemas.
    ///
    /// # Errors
    /// The first schema that does not compile, or an unknown default event.
    pub fn compile(sources: &[Source], config: &Config) -> Result<Self, CatalogError> {
        let mut plans: Vec<Plan> = Vec::with_capacity(sources.len());
        for source in sources {
            let index = u16::try_from(plans.len())
                .ok()
                .filter(|index| *index < 1_000)
                .ok_or(CatalogError::TooMany)?;
            let plan = compile::compile(&source.name, &source.text, index, config)?;
            if let Some(twin) = plans.iter().find(|twin| twin.fingerprint == plan.fingerprint) {
                return Err(CatalogError::Twins(twin.name.clone(), plan.name));
            }
            plans.push(plan);
        }
        let Some(default) = plans.iter().position(|plan| plan.name == config.default_event) else {
            let names: Vec<_> = plans.iter().map(Plan::name).collect();
            return Err(CatalogError::NoDefault(
                config.default_event.clone(),
                names.join(", "),
            ));
        };
        Ok(Self { plans, default })
    }

    /// Finds the plan of a raw value. A value without an Avro header is left to the default event's JSON walk.
    #[must_use]
    pub fn locate(&self, value: &[u8], ids: &Ids) -> Located<'_> {
        let avro = |plan, datum_start| Located::Plan {
            plan,
            format: Format::Avro,
            datum_start,
        };
        match *value {
            [CONFLUENT, a, b, c, d, ..] => {
                let id = u32::from_be_bytes([a, b, c, d]);
                match ids.verdicts.get(&id) {
                    Some(Verdict::Plan(index)) => self
                        .plans
                        .get(usize::from(*index))
                        .map_or(Located::UnknownSchema, |plan| avro(plan, 5)),
                    Some(Verdict::Denied) => Located::UnknownSchema,
                    None if id > ID_MAX => Located::UnknownSchema,
                    None => Located::NeedsSchema(id),
                }
            }
            [0xc3, 0x01, a, b, c, d, e, f, g, h, ..] => self
                .by_fingerprint([a, b, c, d, e, f, g, h])
                .map_or(Located::UnknownSchema, |plan| avro(plan, 10)),
            [] | [CONFLUENT, ..] | [0xc3, ..] => Located::Undecodable,
            _ => Located::Plan {
                plan: &self.plans[self.default],
                format: Format::Json,
                datum_start: 0,
            },
        }
    }

    /// Finds the plan of a clean value. `ids` are the registry's verdicts on clean schemas.
    #[must_use]
    pub fn locate_clean(&self, value: &[u8], ids: &Ids) -> Located<'_> {
        match self.locate(value, ids) {
            Located::UnknownSchema if value.starts_with(&SINGLE_OBJECT) => {
                let fingerprint = value.get(2..10).unwrap_or_default();
                let plan = self
                    .plans
                    .iter()
                    .find(|plan| plan.clean.fingerprint == *fingerprint);
                plan.map_or(Located::UnknownSchema, |plan| Located::Plan {
                    plan,
                    format: Format::Avro,
                    datum_start: 10,
                })
            }
            located => located,
        }
    }

    /// All plans, by index.
    #[must_use]
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// Plan of an event type; `None` if the type is unknown.
    #[must_use]
    pub fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.name == name)
    }

    /// Judges a schema of the registry: only a local plan with the same canonical form may read its records, since a
    /// schema that was registered without tags must not let PHI through.
    #[must_use]
    pub fn judge(&self, schema: &str) -> Verdict {
        apache_avro::Schema::parse_str(schema)
            .ok()
            .and_then(|schema| self.by_fingerprint(tags::fingerprint(&schema)))
            .map_or(Verdict::Denied, |plan| Verdict::Plan(plan.index))
    }

    /// Judges a clean schema of the registry.
    #[must_use]
    pub fn judge_clean(&self, schema: &str) -> Verdict {
        let fingerprint = apache_avro::Schema::parse_str(schema)
            .ok()
            .map(|schema| tags::fingerprint(&schema));
        let plan = self
            .plans
            .iter()
            .find(|plan| Some(plan.clean.fingerprint) == fingerprint);
        plan.map_or(Verdict::Denied, |plan| Verdict::Plan(plan.index))
    }

    /// Frames the clean Avro values of an event type with the registry's id of its clean schema.
    pub fn frame_clean(&mut self, name: &str, id: u32) {
        if let Some(plan) = self.plans.iter_mut().find(|plan| plan.name == name) {
            plan.clean.frame(id);
        }
    }

    fn by_fingerprint(&self, fingerprint: Fingerprint) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.fingerprint == fingerprint)
    }
}

impl Ids {
    /// Returns the snapshot with one more verdict.
    #[must_use]
    pub fn with(&self, id: u32, verdict: Verdict) -> Self {
        let mut ids = self.clone();
        ids.verdicts.insert(id, verdict);
        ids
    }

    /// Returns the snapshot without one verdict.
    #[must_use]
    pub fn without(&self, id: u32) -> Self {
        let mut ids = self.clone();
        ids.verdicts.remove(&id);
        ids
    }

    /// Verdict on an id; `None` if it is unknown.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<Verdict> {
        self.verdicts.get(&id).copied()
    }

    /// Number of ids with a verdict.
    #[must_use]
    pub fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Whether no id has a verdict.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }
}
