//! All the plans of a gate, and how the first bytes of a value find one.

use std::collections::HashMap;

use super::compile::{self, PlanError};
use super::plan::{Fingerprint, Plan};
use super::{Config, Format};

/// The first byte of the Confluent wire format; a schema id of four bytes follows, big endian.
pub(super) const CONFLUENT: u8 = 0;
/// The first two bytes of an Avro single object; a fingerprint of eight bytes follows (Avro 1.12, "Single-object
/// encoding").
pub(super) const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];
/// The largest schema id. Registries give out signed 32-bit ids, and some take no other as a question: Confluent's answers
/// a plain 404 of its web server, which denies nothing, so a lane that asked would wait for ever.
const ID_MAX: u32 = i32::MAX as u32;

/// The text of one schema.
#[derive(Clone, Debug)]
pub struct Source {
    /// The event type: the file name without `.avsc`.
    pub name: String,
    /// The Avro schema in JSON.
    pub text: String,
}

/// All the plans, and the one for plain JSON.
#[derive(Debug)]
pub struct Catalog {
    plans: Vec<Plan>,
    default: usize,
}

/// Why schemas are not a catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// One of the schemas is not a plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Two schemas cannot be told apart by what is on the wire.
    #[error("schemas `{0}` and `{1}` have the same canonical form; remove one")]
    Twins(String, String),
    /// The default event is not among the schemas.
    #[error("no schema is called `{0}`, which `event.default_event` names; the event types are: {1}")]
    NoDefault(String, String),
    /// More plans than a gate needs.
    #[error("more than 1000 schemas")]
    TooMany,
}

/// What the registry says of schema ids, as one immutable snapshot.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    verdicts: HashMap<u32, Verdict, foldhash::fast::FixedState>,
}

/// What is known of one schema id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The id's schema has the canonical form of a local plan, whose tags hold.
    Plan(u16),
    /// The registry does not have it, or no local plan protects it.
    Denied,
}

/// Where the first bytes of a value lead.
#[derive(Clone, Copy, Debug)]
pub enum Located<'c> {
    /// To a plan.
    Plan {
        /// The plan to walk with.
        plan: &'c Plan,
        /// The format of the value.
        format: Format,
        /// Where the event begins in the value.
        datum_start: usize,
    },
    /// To a schema id of which nothing is known yet: ask the registry, and hold the partition meanwhile.
    NeedsSchema(u32),
    /// To a schema that the registry denies or cannot have, or that no local plan protects.
    UnknownSchema,
    /// Nowhere.
    Undecodable,
}

impl Catalog {
    /// Compiles all the schemas.
    ///
    /// # Errors
    /// The first schema that is not a plan, or a default event that is not there.
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

    /// Finds the plan of a raw value. Whatever has no Avro header is for the default event's JSON walk to judge.
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

    /// Finds the plan of a clean value. `ids` are the registry's ids of clean schemas.
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

    /// All the plans.
    #[must_use]
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// The plan of an event type.
    #[must_use]
    pub fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.name == name)
    }

    /// What to hold of a schema that the registry has: only a local plan of the same canonical form may read it, since
    /// a schema that was registered without tags must not let PHI through.
    #[must_use]
    pub fn judge(&self, schema: &str) -> Verdict {
        apache_avro::Schema::parse_str(schema)
            .ok()
            .and_then(|schema| self.by_fingerprint(compile::fingerprint(&schema)))
            .map_or(Verdict::Denied, |plan| Verdict::Plan(plan.index))
    }

    /// What to hold of a clean schema that the registry has.
    #[must_use]
    pub fn judge_clean(&self, schema: &str) -> Verdict {
        let fingerprint = apache_avro::Schema::parse_str(schema)
            .ok()
            .map(|schema| compile::fingerprint(&schema));
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
    /// The snapshot with one more verdict.
    #[must_use]
    pub fn with(&self, id: u32, verdict: Verdict) -> Self {
        let mut ids = self.clone();
        ids.verdicts.insert(id, verdict);
        ids
    }

    /// The snapshot without one verdict.
    #[must_use]
    pub fn without(&self, id: u32) -> Self {
        let mut ids = self.clone();
        ids.verdicts.remove(&id);
        ids
    }

    /// What is known of an id.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<Verdict> {
        self.verdicts.get(&id).copied()
    }

    /// How many ids are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Whether nothing is known yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }
}
