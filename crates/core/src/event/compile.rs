//! Compiles an `.avsc` to a [`Plan`]. Everything that could make a plan protect less than its author meant is an error.

use std::collections::BTreeSet;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::schema::{RecordField, RecordSchema, UnionSchema};
use serde_json::Value;

use super::clean;
use super::config::Config;
use super::plan::{FIELDS_MAX, Field, Kind, Limits, Node, Plan};
use super::tags::{Protect, Role, TimeUnit, fingerprint};

/// Why a schema does not compile, and at which path.
#[derive(Debug, thiserror::Error)]
#[error("schema `{schema}`{}: {problem}", if path.is_empty() { String::new() } else { format!(", `{path}`") })]
pub struct PlanError {
    schema: String,
    path: String,
    problem: Problem,
}

/// What is wrong with a schema, and how to fix it.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("not JSON: {0}")]
    Json(Arc<serde_json::Error>),
    #[error("not an Avro schema: {0}")]
    Avro(String),
    #[error("the schema of an event must be a record")]
    NotARecord,
    #[error(
        "`{0}` is not supported; use boolean, int, long, float, double, string, uuid, date, timestamp-*, enum, record, array or map"
    )]
    Unsupported(String),
    #[error("a union must be of `null` and one other type")]
    Union,
    #[error(
        "a named type that is used more than once must not be protected; define a separate type for each use"
    )]
    Reused,
    #[error("a type must not contain itself; unfold it to the depth that is needed")]
    Recursive,
    #[error("a record must have at least one field")]
    Empty,
    #[error("more than {0}; split the event")]
    TooLarge(&'static str),
    #[error("`{0}` is set on a type; set it on the field, where parsers keep it")]
    Misplaced(String),
    #[error("unknown attribute `{0}`; use `pulsegate:protect` or `pulsegate:role`")]
    UnknownAttribute(String),
    #[error("`confluent:tags` must be a list, and `PHI` is the only supported tag")]
    Tags,
    #[error("`pulsegate:protect` must be encrypt, token, year or drop")]
    UnknownProtect,
    #[error(
        "`pulsegate:protect` without `confluent:tags` [\"PHI\"]; add the tag, so that other tools see it too"
    )]
    Untagged,
    #[error("`{0}` needs {1}")]
    WrongLeaf(&'static str, &'static str),
    #[error("a protected field must not have a default other than null; remove the default")]
    Default,
    #[error(
        "`pulsegate:role` must be one of event-id, device, subject, recorded-at, readings, metric, value, unit, quality, firmware, model"
    )]
    UnknownRole,
    #[error("the role `{0}` is assigned twice; assign it to one field")]
    RoleTwice(&'static str),
    #[error("no field has the role `{0}`; the gate requires it, assign it to a field")]
    RoleMissing(&'static str),
    #[error("the role `{0}` needs {1}")]
    RoleMisfit(&'static str, &'static str),
}

/// Maximum nesting depth of records, arrays and maps.
const DEPTH_MAX: usize = 16;
/// Maximum number of nodes in a plan.
const NODES_MAX: usize = 4_096;

/// Compiles one schema. `name` is the event type, `index` its index in the catalog.
pub(super) fn compile(name: &str, text: &str, index: u16, config: &Config) -> Result<Plan, PlanError> {
    let fail = |problem| PlanError {
        schema: name.to_owned(),
        path: String::new(),
        problem,
    };
    let source: Value = serde_json::from_str(text).map_err(|error| fail(Problem::Json(Arc::new(error))))?;
    check_attributes(&source, false).map_err(fail)?;
    let schema = Schema::parse(&source).map_err(|error| fail(Problem::Avro(error.to_string())))?;
    let Schema::Record(record) = &schema else {
        return Err(fail(Problem::NotARecord));
    };

    let mut compiler = Compiler::default();
    let root = compiler.run(record).map_err(|(path, problem)| PlanError {
        schema: name.to_owned(),
        path,
        problem,
    })?;
    let clean =
        clean::derive(&source, &root, config.clean_format).map_err(|error| fail(Problem::Avro(error)))?;
    Ok(Plan {
        name: name.to_owned(),
        full_name: record.name.fullname(None),
        fingerprint: fingerprint(&schema),
        source,
        root,
        limits: Limits::of(config),
        clean,
        index,
    })
}

/// Our attributes are only valid on a field: the parser keeps those and drops others, and a dropped tag leaks PHI.
fn check_attributes(value: &Value, is_field: bool) -> Result<(), Problem> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| check_attributes(item, false)),
        Value::Object(members) => members
            .iter()
            .try_for_each(|(key, value)| match (key.as_str(), value) {
                ("default", _) => Ok(()),
                ("confluent:tags" | "pulsegate:protect" | "pulsegate:role", _) if is_field => Ok(()),
                ("confluent:tags" | "pulsegate:protect" | "pulsegate:role", _) => {
                    Err(Problem::Misplaced(key.clone()))
                }
                ("fields", Value::Array(fields)) => {
                    fields.iter().try_for_each(|field| check_attributes(field, true))
                }
                (other, _) if other.starts_with("pulsegate:") => {
                    Err(Problem::UnknownAttribute(other.to_owned()))
                }
                (_, value) => check_attributes(value, false),
            }),
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Compiler<'s> {
    /// Definitions that a reference can name.
    defined: std::collections::BTreeMap<String, &'s Schema>,
    /// Named types that are being defined, outermost first.
    open: Vec<String>,
    /// Named types that contain a protected leaf.
    protected: BTreeSet<String>,
    /// Named types that are used more than once.
    reused: BTreeSet<String>,
    roles: Vec<Role>,
    nodes: usize,
}

/// State that a field passes to everything below it.
#[derive(Clone, Copy)]
struct Context {
    protect: Option<Protect>,
    /// Whether every step from the event to here is a required record.
    fixed: bool,
    depth: usize,
}

type Found<T> = Result<T, (String, Problem)>;

impl<'s> Compiler<'s> {
    fn run(&mut self, record: &'s RecordSchema) -> Found<Node> {
        let context = Context {
            protect: None,
            fixed: true,
            depth: 0,
        };
        let name = record.name.fullname(None);
        self.open.push(name);
        let kind = self.record(record, "", context)?;
        if let Some(name) = self.protected.intersection(&self.reused).next() {
            return Err((name.clone(), Problem::Reused));
        }
        for role in [Role::EventId, Role::Device, Role::Subject] {
            if !self.roles.contains(&role) {
                return Err((String::new(), Problem::RoleMissing(role.as_str())));
            }
        }
        Ok(Node {
            kind,
            null_branch: None,
            protect: None,
            role: None,
            path: "".into(),
        })
    }

    fn record(&mut self, record: &'s RecordSchema, path: &str, context: Context) -> Found<Kind> {
        if record.fields.len() > FIELDS_MAX {
            return Err((path.to_owned(), Problem::TooLarge("64 fields in one record")));
        }
        if record.fields.is_empty() {
            return Err((path.to_owned(), Problem::Empty));
        }
        let fields = record
            .fields
            .iter()
            .map(|field| self.field(field, path, context))
            .collect::<Found<_>>()?;
        Ok(Kind::Record(fields))
    }

    fn field(&mut self, field: &'s RecordField, parent: &str, context: Context) -> Found<Field> {
        let path = if parent.is_empty() {
            field.name.clone()
        } else {
            format!("{parent}.{}", field.name)
        };
        let at = |problem| (path.clone(), problem);
        let own = own_protect(field, context.protect).map_err(at)?;
        let role = own_role(field).map_err(at)?;
        let mut node = self.node(
            &field.schema,
            &path,
            Context {
                protect: own.or(context.protect),
                ..context
            },
        )?;
        if let Some(role) = role {
            if self.roles.contains(&role) {
                return Err(at(Problem::RoleTwice(role.as_str())));
            }
            self.roles.push(role);
            check_role(role, &node, context.fixed).map_err(at)?;
            node.role = Some(role);
        }
        if own == Some(Protect::Drop) {
            node.protect = own;
        }
        let default = field.default.clone();
        if node.protect.is_some() && default.as_ref().is_some_and(|default| !default.is_null()) {
            return Err(at(Problem::Default));
        }
        let optional = node.null_branch.is_some() || default.is_some();
        Ok(Field {
            name: field.name.as_str().into(),
            optional,
            default,
            node,
        })
    }

    fn node(&mut self, schema: &'s Schema, path: &str, context: Context) -> Found<Node> {
        let at = |problem| (path.to_owned(), problem);
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(at(Problem::TooLarge("4096 nodes")));
        }
        if context.depth > DEPTH_MAX {
            return Err(at(Problem::TooLarge("16 levels")));
        }
        let (schema, null_branch) = match schema {
            Schema::Union(union) => {
                let (schema, null_branch) = nullable(union).map_err(at)?;
                (schema, Some(null_branch))
            }
            other => (other, None),
        };
        let below = Context {
            fixed: context.fixed && null_branch.is_none() && matches!(schema, Schema::Record(_)),
            depth: context.depth + 1,
            ..context
        };
        let kind = self.kind(schema, path, below)?;
        let node = Node {
            kind,
            null_branch,
            protect: context.protect,
            role: None,
            path: path.into(),
        };
        if !node.is_leaf() {
            return Ok(Node {
                protect: context.protect.filter(|protect| *protect == Protect::Drop),
                ..node
            });
        }
        if let Some(protect) = context.protect {
            self.protected.extend(self.open.iter().cloned());
            check_leaf(protect, &node.kind).map_err(at)?;
        }
        Ok(node)
    }

    fn kind(&mut self, schema: &'s Schema, path: &str, context: Context) -> Found<Kind> {
        let at = |problem| (path.to_owned(), problem);
        Ok(match schema {
            Schema::Boolean => Kind::Boolean,
            Schema::Int => Kind::Int,
            Schema::Long => Kind::Long,
            Schema::Float => Kind::Float,
            Schema::Double => Kind::Double,
            Schema::String => Kind::String,
            Schema::Uuid(apache_avro::schema::UuidSchema::String) => Kind::Uuid,
            Schema::Date => Kind::Date,
            Schema::TimestampMillis => Kind::Timestamp(TimeUnit::Milliseconds),
            Schema::TimestampMicros => Kind::Timestamp(TimeUnit::Microseconds),
            Schema::TimestampNanos => Kind::Timestamp(TimeUnit::Nanoseconds),
            Schema::Array(array) => Kind::Array(Box::new(self.node(
                &array.items,
                &format!("{path}[]"),
                context,
            )?)),
            Schema::Map(map) => Kind::Map(Box::new(self.node(&map.types, &format!("{path}[]"), context)?)),
            Schema::Enum(symbols) => {
                let name = symbols.name.fullname(None);
                if context.protect.is_some() {
                    self.protected.insert(name.clone());
                }
                self.defined.insert(name, schema);
                Kind::Enum(
                    symbols
                        .symbols
                        .iter()
                        .map(|symbol| symbol.as_str().into())
                        .collect(),
                )
            }
            Schema::Record(record) => {
                let name = record.name.fullname(None);
                self.defined.insert(name.clone(), schema);
                self.open.push(name);
                let kind = self.record(record, path, context)?;
                self.open.pop();
                kind
            }
            Schema::Ref { name } => {
                let name = name.fullname(None);
                if self.open.contains(&name) {
                    return Err(at(Problem::Recursive));
                }
                let defined = *self
                    .defined
                    .get(&name)
                    .ok_or_else(|| at(Problem::Avro(format!("unknown type `{name}`"))))?;
                self.reused.insert(name);
                self.kind(defined, path, context)?
            }
            other => return Err(at(Problem::Unsupported(other.to_string()))),
        })
    }
}

fn nullable(union: &UnionSchema) -> Result<(&Schema, u8), Problem> {
    match union.variants() {
        [Schema::Null, Schema::Null] => Err(Problem::Union),
        [Schema::Null, other] => Ok((other, 0)),
        [other, Schema::Null] => Ok((other, 1)),
        _ => Err(Problem::Union),
    }
}

/// The field's own protection. A tag without `pulsegate:protect` inherits, or encrypts; below a drop all is dropped.
fn own_protect(field: &RecordField, inherited: Option<Protect>) -> Result<Option<Protect>, Problem> {
    let tagged = match field.custom_attributes.get("confluent:tags") {
        None => false,
        Some(Value::Array(tags)) if tags.iter().all(|tag| tag == "PHI") => !tags.is_empty(),
        Some(_) => return Err(Problem::Tags),
    };
    match field.custom_attributes.get("pulsegate:protect") {
        _ if inherited == Some(Protect::Drop) => Ok(inherited),
        None if tagged => Ok(Some(inherited.unwrap_or(Protect::Encrypt))),
        None => Ok(None),
        Some(_) if !tagged => Err(Problem::Untagged),
        Some(name) => name
            .as_str()
            .and_then(Protect::parse)
            .map(Some)
            .ok_or(Problem::UnknownProtect),
    }
}

fn own_role(field: &RecordField) -> Result<Option<Role>, Problem> {
    let Some(name) = field.custom_attributes.get("pulsegate:role") else {
        return Ok(None);
    };
    name.as_str()
        .and_then(Role::parse)
        .map(Some)
        .ok_or(Problem::UnknownRole)
}

fn check_leaf(protect: Protect, kind: &Kind) -> Result<(), Problem> {
    match (protect, kind) {
        (Protect::Encrypt | Protect::Drop, _)
        | (Protect::Token, Kind::String | Kind::Uuid)
        | (Protect::Year, Kind::Date | Kind::Timestamp(_)) => Ok(()),
        (Protect::Token, _) => Err(Problem::WrongLeaf("token", "a string")),
        (Protect::Year, _) => Err(Problem::WrongLeaf("year", "a date or a timestamp")),
    }
}

/// `fixed` means that the field occurs exactly once in every event.
fn check_role(role: Role, node: &Node, fixed: bool) -> Result<(), Problem> {
    let once = fixed && node.null_branch.is_none();
    let (fits, needs) = match role {
        Role::EventId => (
            once && matches!(node.kind, Kind::Uuid) && node.protect.is_none(),
            "an unprotected, required uuid outside arrays and maps",
        ),
        Role::Device | Role::Subject => (
            once && matches!(node.kind, Kind::String) && node.protect == Some(Protect::Token),
            "a required string outside arrays and maps, tagged PHI and protected by token",
        ),
        Role::RecordedAt => (matches!(node.kind, Kind::Timestamp(_)), "a timestamp"),
        Role::Readings => (matches!(node.kind, Kind::Array(_)), "an array"),
        Role::Value => (
            matches!(node.kind, Kind::Int | Kind::Long | Kind::Float | Kind::Double),
            "a number",
        ),
        Role::Metric | Role::Unit | Role::Quality => (
            matches!(node.kind, Kind::String | Kind::Enum(_)),
            "a string or an enum",
        ),
        Role::Firmware | Role::Model => (matches!(node.kind, Kind::String), "a string"),
    };
    if fits {
        Ok(())
    } else {
        Err(Problem::RoleMisfit(role.as_str(), needs))
    }
}
