//! The clean event as the watch reads it: which device, when, and what it measured.
//!
//! What is where in an event is said by the roles of its clean schema, which the gate derives from the raw one and which
//! keeps them. JSON values carry no schema, so fields are found by name: an older event may lack what is optional, a newer
//! one may have more. Avro values name the schema that wrote them, and are read by that one.

mod shape;

use std::borrow::Cow;
use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use serde::de::DeserializeSeed;

use self::shape::{Building, Seed, Shape};
use super::reading::Token;

/// The most readings of one event; their index is part of every reading's origin.
pub const READINGS_MAX: usize = u16::MAX as usize;

/// The first byte of the Confluent wire format; a schema id of four bytes follows, big endian.
const CONFLUENT: u8 = 0;
/// The first two bytes of an Avro single object; a fingerprint of eight bytes follows (Avro 1.12).
const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];

/// A clean event, borrowed from its record where that is possible.
#[derive(Debug, PartialEq)]
pub struct Event<'v> {
    /// The device's token.
    pub device: Token,
    /// When the device took the readings by its own clock, in ms since the Unix epoch; none where the schema has no such
    /// field.
    pub recorded_at_ms: Option<i64>,
    /// The firmware version; empty when unknown.
    pub firmware: Cow<'v, str>,
    /// The device model; empty when unknown.
    pub model: Cow<'v, str>,
    /// What was measured, in the order of the event.
    pub readings: Vec<Measured<'v>>,
}

/// One reading as the device sent it.
#[derive(Debug, PartialEq)]
pub struct Measured<'v> {
    /// What it measures.
    pub metric: Cow<'v, str>,
    /// The finite number, in `unit`.
    pub value: f64,
    /// UCUM; none means the metric's own.
    pub unit: Option<Cow<'v, str>>,
    /// What the device thinks of it: none, `good`, or something else.
    pub quality: Option<Cow<'v, str>>,
    /// Milliseconds after `recorded_at_ms`.
    pub offset_ms: i64,
}

/// Why a clean record cannot be read. The reasons quote nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Nothing is known yet of this schema id: ask the registry, and hold the partition meanwhile.
    #[error("the schema id {0} is not known yet")]
    NeedsSchema(u32),
    /// No local schema has this fingerprint, or the registry does not have the id.
    #[error("it names a schema that nobody has")]
    UnknownSchema,
    /// The bytes are no value of the schema.
    #[error("it is not as any clean schema has it")]
    Malformed,
    /// There is no device token, or one that is none.
    #[error("it names no device")]
    NoDevice,
    /// A reading lacks its metric or its value.
    #[error("it holds a reading without a metric or a finite value")]
    NoReading,
    /// More than [`READINGS_MAX`].
    #[error("it holds more readings than are taken from one event")]
    TooMany,
}

/// A schema that the watch cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("clean schema: {0}")]
pub struct SchemaError(String);

/// One clean schema.
#[derive(Clone)]
struct Clean {
    shape: Shape,
    schema: Schema,
}

/// Reads clean records of every schema that it knows.
#[derive(Clone)]
pub struct Decoder {
    schemas: Vec<Clean>,
    fingerprints: HashMap<[u8; 8], usize>,
    ids: HashMap<u32, Option<usize>>,
    default: usize,
}

impl Decoder {
    /// Compiles the local schemas: each with the fingerprint of its canonical form (CRC-64-AVRO, little endian). Plain JSON
    /// is first tried as the schema at `default`, then as the others.
    ///
    /// # Errors
    ///
    /// The first schema that is not Avro, or has no device, metric or value.
    pub fn new<'s>(
        local: impl IntoIterator<Item = (&'s serde_json::Value, [u8; 8])>,
        default: usize,
    ) -> Result<Self, SchemaError> {
        let mut decoder = Self {
            schemas: Vec::new(),
            fingerprints: HashMap::new(),
            ids: HashMap::new(),
            default,
        };
        for (schema, fingerprint) in local {
            let schema = Schema::parse(schema).map_err(|error| SchemaError(error.to_string()))?;
            decoder.fingerprints.insert(fingerprint, decoder.schemas.len());
            decoder.schemas.push(Clean::compile(schema)?);
        }
        Ok(decoder)
    }

    /// Remembers what the registry said of an id: its schema, or that there is none. A schema that has no readings for us
    /// is as good as none.
    pub fn learn(&mut self, id: u32, schema: Option<&str>) {
        let compiled = schema
            .and_then(|text| Schema::parse_str(text).ok())
            .and_then(|schema| Clean::compile(schema).ok());
        let index = compiled.map(|clean| {
            self.schemas.push(clean);
            self.schemas.len() - 1
        });
        self.ids.insert(id, index);
    }

    /// Forgets what the registry said of an id: it is to be asked again.
    pub fn forget(&mut self, id: u32) {
        self.ids.remove(&id);
    }

    /// Whether it was learnt what a schema id is.
    #[must_use]
    pub fn knows(&self, id: u32) -> bool {
        self.ids.contains_key(&id)
    }

    /// Reads the value of a clean record.
    ///
    /// # Errors
    ///
    /// [`Undecodable`]; only [`Undecodable::NeedsSchema`] may be tried again.
    pub fn decode<'v>(&self, value: &'v [u8]) -> Result<Event<'v>, Undecodable> {
        match *value {
            [CONFLUENT, a, b, c, d, ref datum @ ..] => {
                let id = u32::from_be_bytes([a, b, c, d]);
                let known = self.ids.get(&id).ok_or(Undecodable::NeedsSchema(id))?;
                self.schemas[known.ok_or(Undecodable::UnknownSchema)?].avro(datum)
            }
            [first, second, a, b, c, d, e, f, g, h, ref datum @ ..] if [first, second] == SINGLE_OBJECT => {
                let known = self.fingerprints.get(&[a, b, c, d, e, f, g, h]);
                self.schemas[*known.ok_or(Undecodable::UnknownSchema)?].avro(datum)
            }
            _ => self.json(value),
        }
    }

    /// JSON does not say what it is an event of. Where it is none of the default event, the other schemas are tried; what
    /// none of them reads is told as the default event's trouble.
    fn json<'v>(&self, value: &'v [u8]) -> Result<Event<'v>, Undecodable> {
        let first = self.schemas.get(self.default).ok_or(Undecodable::UnknownSchema)?;
        first.json(value).or_else(|trouble| {
            let local = self.fingerprints.values().filter(|index| **index != self.default);
            let mut others: Vec<_> = local.copied().collect();
            others.sort_unstable();
            others
                .into_iter()
                .find_map(|index| self.schemas[index].json(value).ok())
                .ok_or(trouble)
        })
    }
}

impl Clean {
    fn compile(schema: Schema) -> Result<Self, SchemaError> {
        let shape = Shape::compile(&schema).map_err(|what| SchemaError(what.to_owned()))?;
        Ok(Self { shape, schema })
    }

    fn json<'v>(&self, value: &'v [u8]) -> Result<Event<'v>, Undecodable> {
        let mut building = Building::default();
        let mut json = serde_json::Deserializer::from_slice(value);
        let seed = Seed {
            shape: &self.shape,
            building: &mut building,
        };
        let read = seed.deserialize(&mut json).and_then(|()| json.end());
        // What the event was missing says more than where the text stopped making sense.
        building.trouble()?;
        read.map_err(|_| Undecodable::Malformed)?;
        building.finish()
    }

    fn avro(&self, mut datum: &[u8]) -> Result<Event<'static>, Undecodable> {
        let reader = GenericDatumReader::builder(&self.schema)
            .build()
            .map_err(|_| Undecodable::UnknownSchema)?;
        let value = reader
            .read_value(&mut datum)
            .map_err(|_| Undecodable::Malformed)?;
        if !datum.is_empty() {
            return Err(Undecodable::Malformed);
        }
        let mut building = Building::default();
        building.take_avro(&self.shape, value);
        building.finish()
    }
}

#[cfg(test)]
mod tests;
