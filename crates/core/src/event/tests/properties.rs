//! Random events of a schema with every type, in JSON and in Avro: the clean event, read by independent libraries
//! under the clean schema, is the expected one.

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
use proptest::prelude::*;

use super::*;
use crate::event::plan::{Field, Kind, Node};

const EVERYTHING: &str = include_str!("everything.avsc");

/// A random value of a node.
fn value_of(node: &Node) -> BoxedStrategy<Value> {
    let present = match &node.kind {
        Kind::Boolean => any::<bool>().prop_map(Value::from).boxed(),
        Kind::Int => any::<i32>().prop_map(Value::from).boxed(),
        Kind::Long => any::<i64>().prop_map(Value::from).boxed(),
        // Multiples of a quarter have the same value as a float and as a double.
        Kind::Float => any::<i16>()
            .prop_map(|number| Value::from(f64::from(number) / 4.0))
            .boxed(),
        Kind::Double => (any::<f64>().prop_filter("finite", |number| number.is_finite()))
            .prop_map(Value::from)
            .boxed(),
        Kind::String if matches!(node.role, Some(Role::Device | Role::Subject)) => {
            "[ -~é😀]{1,20}".prop_map(Value::from).boxed()
        }
        Kind::String => "\\PC{0,30}|[\\x00-\\x1f\"\\\\/é😀]{0,8}"
            .prop_map(Value::from)
            .boxed(),
        Kind::Uuid => any::<u128>()
            .prop_map(|bits| Value::from(uuid::Uuid::from_u128(bits).to_string()))
            .boxed(),
        Kind::Date => (-719_528..=2_932_896_i32)
            .prop_map(|days| Value::from(scalar::date_from_days(days).expect("in range").to_string()))
            .boxed(),
        Kind::Timestamp(_) => (-9_000_000_000_000_i64..=9_000_000_000_000)
            .prop_map(|ms| jiff::Timestamp::from_millisecond(ms).expect("in range"))
            .prop_map(|at| Value::from(at.to_string()))
            .boxed(),
        Kind::Enum(symbols) => {
            let symbols: Vec<_> = symbols.iter().map(|symbol| Value::from(&**symbol)).collect();
            prop::sample::select(symbols).boxed()
        }
        Kind::Record(fields) => record_of(fields),
        Kind::Array(item) => prop::collection::vec(value_of(item), 0..4)
            .prop_map(Value::from)
            .boxed(),
        Kind::Map(entry) => prop::collection::btree_map("[a-z.\\[é]{0,6}", value_of(entry), 0..4)
            .prop_map(|entries| Value::Object(entries.into_iter().collect()))
            .boxed(),
    };
    if node.null_branch.is_some() {
        prop_oneof![1 => Just(Value::Null), 3 => present].boxed()
    } else {
        present
    }
}

fn record_of(fields: &[Field]) -> BoxedStrategy<Value> {
    let mut record = Just(serde_json::Map::new()).boxed();
    for field in fields {
        let name = field.name.to_string();
        let optional = field.optional;
        record = (record, value_of(&field.node), any::<bool>())
            .prop_map(move |(mut members, value, absent)| {
                if !(optional && absent) {
                    members.insert(name.clone(), value);
                }
                members
            })
            .boxed();
    }
    record.prop_map(Value::Object).boxed()
}

/// Writes JSON in the strangest valid form: members in any order, any whitespace, any escape.
fn write_json(value: &Value, random: &mut impl FnMut(usize) -> usize, out: &mut String) {
    let space = |out: &mut String, random: &mut dyn FnMut(usize) -> usize| {
        out.push_str(["", "", "", " ", "\n\t"][random(5)]);
    };
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            for index in (1..members.len()).rev() {
                members.swap(index, random(index + 1));
            }
            out.push('{');
            space(out, random);
            for (index, (key, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                    space(out, random);
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                space(out, random);
                out.push(':');
                space(out, random);
                write_json(value, random, out);
                space(out, random);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                space(out, random);
                write_json(item, random, out);
                space(out, random);
            }
            out.push(']');
        }
        Value::String(text) if random(3) == 0 => {
            out.push('"');
            for unit in text.encode_utf16() {
                out.push_str(&format!("\\u{unit:04x}"));
            }
            out.push('"');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// The datum of an event, encoded by apache-avro.
pub(super) fn avro_datum(plan: &Plan, event: &Value) -> Vec<u8> {
    let schema = Schema::parse(plan.schema()).expect("the source is a schema");
    let value = to_avro(&plan.root, Some(event));
    let writer = apache_avro::writer::datum::GenericDatumWriter::builder(&schema)
        .build()
        .expect("a schema");
    writer
        .write_value_to_vec(value)
        .expect("the value is of the schema")
}

fn to_avro(node: &Node, value: Option<&Value>) -> Avro {
    let value = match (value.filter(|value| !value.is_null()), node.null_branch) {
        (None, Some(null)) => return Avro::Union(u32::from(null), Box::new(Avro::Null)),
        (Some(value), Some(null)) => {
            return Avro::Union(1 - u32::from(null), Box::new(to_avro_present(node, value)));
        }
        (value, None) => value.expect("a required member"),
    };
    to_avro_present(node, value)
}

#[expect(clippy::cast_possible_truncation, reason = "the values were made to fit")]
fn to_avro_present(node: &Node, value: &Value) -> Avro {
    let text = || value.as_str().expect("a string").to_owned();
    let at = || {
        value
            .as_str()
            .expect("a string")
            .parse::<jiff::Timestamp>()
            .expect("a date-time")
    };
    match &node.kind {
        Kind::Boolean => Avro::Boolean(value.as_bool().expect("a boolean")),
        Kind::Int => Avro::Int(value.as_i64().expect("an integer") as i32),
        Kind::Long => Avro::Long(value.as_i64().expect("an integer")),
        Kind::Float => Avro::Float(value.as_f64().expect("a number") as f32),
        Kind::Double => Avro::Double(value.as_f64().expect("a number")),
        Kind::String => Avro::String(text()),
        Kind::Uuid => Avro::Uuid(text().parse().expect("a UUID")),
        Kind::Date => Avro::Date(scalar::days_from_date(text().parse().expect("a date"))),
        Kind::Timestamp(crate::event::tags::TimeUnit::Milliseconds) => {
            Avro::TimestampMillis(at().as_millisecond())
        }
        Kind::Timestamp(crate::event::tags::TimeUnit::Microseconds) => {
            Avro::TimestampMicros(at().as_microsecond())
        }
        Kind::Timestamp(crate::event::tags::TimeUnit::Nanoseconds) => {
            Avro::TimestampNanos(at().as_nanosecond().try_into().expect("in range"))
        }
        Kind::Enum(symbols) => {
            let index = symbols
                .iter()
                .position(|symbol| **symbol == *text())
                .expect("a symbol");
            Avro::Enum(index as u32, text())
        }
        Kind::Record(fields) => Avro::Record(
            fields
                .iter()
                .map(|field| {
                    let member = value.get(&*field.name).or(field.default.as_ref());
                    (field.name.to_string(), to_avro(&field.node, member))
                })
                .collect(),
        ),
        Kind::Array(item) => Avro::Array(
            value
                .as_array()
                .expect("an array")
                .iter()
                .map(|value| to_avro(item, Some(value)))
                .collect(),
        ),
        Kind::Map(entry) => {
            let members = value.as_object().expect("an object").iter();
            Avro::Map(
                members
                    .map(|(key, value)| (key.clone(), to_avro(entry, Some(value))))
                    .collect(),
            )
        }
    }
}

/// JSON of a value that apache-avro read under the clean schema.
fn from_avro(value: Avro) -> Value {
    match value {
        Avro::Null => Value::Null,
        Avro::Boolean(truth) => Value::from(truth),
        Avro::Int(number) => Value::from(number),
        Avro::Long(number) => Value::from(number),
        Avro::Float(number) => Value::from(number),
        Avro::Double(number) => Value::from(number),
        Avro::Bytes(bytes) => Value::from(base64_simd::STANDARD.encode_to_string(bytes)),
        Avro::String(text) | Avro::Enum(_, text) => Value::from(text),
        Avro::Uuid(uuid) => Value::from(uuid.to_string()),
        Avro::Date(days) => Value::from(scalar::date_from_days(days).expect("in range").to_string()),
        Avro::TimestampMillis(units) => Value::from(
            jiff::Timestamp::from_millisecond(units)
                .expect("in range")
                .to_string(),
        ),
        Avro::TimestampMicros(units) => Value::from(
            jiff::Timestamp::from_microsecond(units)
                .expect("in range")
                .to_string(),
        ),
        Avro::TimestampNanos(units) => Value::from(
            jiff::Timestamp::from_nanosecond(units.into())
                .expect("in range")
                .to_string(),
        ),
        Avro::Union(_, inner) => from_avro(*inner),
        Avro::Array(items) => items.into_iter().map(from_avro).collect(),
        Avro::Map(entries) => Value::Object(
            entries
                .into_iter()
                .map(|(key, value)| (key, from_avro(value)))
                .collect(),
        ),
        Avro::Record(members) => Value::Object(
            members
                .into_iter()
                .map(|(name, value)| (name, from_avro(value)))
                .collect(),
        ),
        other => panic!("the schema has no {other:?}"),
    }
}

/// The expected clean event. With `filled`, absent members have their default, as in Avro.
fn expected(node: &Node, path: &str, value: &Value, filled: bool) -> Value {
    let sealed = |seal: Seal| {
        let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let text = format!("{seal:?}({path}={plain})");
        let alphabet = if seal == Seal::Encrypt {
            base64_simd::STANDARD
        } else {
            base64_simd::URL_SAFE_NO_PAD
        };
        Value::from(alphabet.encode_to_string(text))
    };
    match (&node.kind, node.protect, value) {
        (_, _, Value::Null) => Value::Null,
        (Kind::Record(fields), ..) => {
            let mut members = serde_json::Map::new();
            for field in fields
                .iter()
                .filter(|field| field.node.protect != Some(Protect::Drop))
            {
                let default = field.default.clone().unwrap_or_default();
                let Some(member) = value.get(&*field.name).or(filled.then_some(&default)) else {
                    continue;
                };
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{}", field.name);
                members.insert(
                    field.name.to_string(),
                    expected(&field.node, &path, member, filled),
                );
            }
            Value::Object(members)
        }
        (Kind::Array(item), _, Value::Array(items)) => {
            let item = |(index, value)| expected(item, &format!("{path}[{index}]"), value, filled);
            items.iter().enumerate().map(item).collect()
        }
        (Kind::Map(entry), _, Value::Object(entries)) => {
            let entry = |(key, value): (&String, &Value)| {
                (
                    key.clone(),
                    expected(
                        entry,
                        &format!("{path}[{}]", Value::from(key.as_str())),
                        value,
                        filled,
                    ),
                )
            };
            Value::Object(entries.iter().map(entry).collect())
        }
        (_, Some(Protect::Encrypt), _) => sealed(Seal::Encrypt),
        (_, Some(Protect::Token), _) if node.role == Some(Role::Device) => sealed(Seal::DeviceToken),
        (_, Some(Protect::Token), _) if node.role == Some(Role::Subject) => sealed(Seal::SubjectToken),
        (_, Some(Protect::Token), _) => sealed(Seal::Token),
        (_, Some(Protect::Year), _) => Value::from(&value.as_str().expect("a date")[..4]),
        _ => value.clone(),
    }
}

/// Rewrites a value with a catalog and reads the result with serde_json or apache-avro.
fn rewritten(catalog: &Catalog, value: &[u8]) -> Value {
    let out = rewrite(catalog, value).unwrap_or_else(|reason| panic!("{}", reason.as_str()));
    let plan = &catalog.plans()[0];
    match plan.clean_format() {
        Format::Json => serde_json::from_slice(&out).expect("JSON"),
        Format::Avro => {
            let schema = Schema::parse(plan.clean_schema()).expect("the clean schema is a schema");
            let mut datum = &out[10..];
            let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema)
                .build()
                .expect("a schema");
            let value = reader
                .read_value(&mut datum)
                .expect("a datum of the clean schema");
            assert!(datum.is_empty());
            from_avro(value)
        }
    }
}

/// A schema's catalogs with JSON and with Avro as the clean format.
type Catalogs = LazyLock<[Catalog; 2]>;

static OF_DEFAULT: Catalogs =
    LazyLock::new(|| [Format::Json, Format::Avro].map(|format| catalog(DEFAULT, format)));
static OF_EVERYTHING: Catalogs =
    LazyLock::new(|| [Format::Json, Format::Avro].map(|format| catalog(EVERYTHING, format)));

fn check([json, avro]: &[Catalog; 2], event: &Value, seed: u64) {
    let mut state = seed | 1;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let plan = &json.plans()[0];
    let mut text = String::new();
    write_json(event, &mut random, &mut text);
    let datum = [&[0xc3, 0x01], &plan.fingerprint[..], &avro_datum(plan, event)].concat();

    let sparse = expected(&plan.root, "", event, false);
    let filled = expected(&plan.root, "", event, true);
    assert_eq!(rewritten(json, text.as_bytes()), sparse, "JSON to JSON");
    assert_eq!(rewritten(avro, text.as_bytes()), filled, "JSON to Avro");
    assert_eq!(rewritten(json, &datum), filled, "Avro to JSON");
    assert_eq!(rewritten(avro, &datum), filled, "Avro to Avro");
}

/// Random events of a schema.
fn events([json, _]: &[Catalog; 2]) -> BoxedStrategy<Value> {
    value_of(&json.plans()[0].root)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn events_of_the_default_schema_are_rewritten(event in events(&OF_DEFAULT), seed: u64) {
        check(&OF_DEFAULT, &event, seed);
    }

    #[test]
    fn events_of_a_schema_with_every_type_are_rewritten(event in events(&OF_EVERYTHING), seed: u64) {
        check(&OF_EVERYTHING, &event, seed);
    }

    #[test]
    fn any_bytes_have_an_outcome(bytes: Vec<u8>) {
        let catalog = default_plan();
        let _ = rewrite(catalog, &bytes);
        let _ = rewrite(catalog, &[&[0xc3, 0x01], &catalog.plans()[0].fingerprint[..], &bytes].concat());
    }

    #[test]
    fn a_changed_byte_never_yields_json_that_serde_refuses(event in events(&OF_DEFAULT), at: prop::sample::Index, byte: u8) {
        let mut value = event.to_string().into_bytes();
        let at = at.index(value.len());
        value[at] = byte;
        if let Ok(clean) = rewrite(default_plan(), &value) {
            serde_json::from_slice::<Value>(&value).expect("an accepted value is JSON");
            serde_json::from_slice::<Value>(&clean).expect("a clean event is JSON");
        }
    }
}
