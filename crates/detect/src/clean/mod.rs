//! The clean event as the watch reads it: the device, the time and the readings.
//!
//! The roles in the clean schema say which field holds what; the gate derives the clean schema from the raw one and
//! keeps the roles. JSON values carry no schema, so their fields are found by name: an older event may lack optional
//! fields, a newer one may have additional fields. Avro values name the schema that wrote them and are read with it.

mod shape;

use std::borrow::Cow;
use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use serde::de::DeserializeSeed;

use self::shape::{Building, Seed, Shape};
use super::reading::Token;

/// Maximum number of readings in one event; the index of a reading is part of its origin.
pub const READINGS_MAX: usize = u16::MAX as usize;

/// The first byte of the Confluent wire format; a schema id of four bytes follows, big endian.
const CONFLUENT: u8 = 0;
/// The first two bytes of an Avro single object; a fingerprint of eight bytes follows (Avro 1.12).
const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];

/// A clean event, borrowed from its record where possible.
#[derive(Debug, PartialEq)]
pub struct Event<'v> {
    /// The device's token.
    pub device: Token,
    /// When the device took the readings, by its own clock, in ms since the Unix epoch; `None` if the event has no such
    /// field.
    pub recorded_at_ms: Option<i64>,
    /// The firmware version; empty when unknown.
    pub firmware: Cow<'v, str>,
    /// The device model; empty when unknown.
    pub model: Cow<'v, str>,
    /// The readings, in the order of the event.
    pub readings: Vec<Measured<'v>>,
}

/// One reading as the device sent it.
#[derive(Debug, PartialEq)]
pub struct Measured<'v> {
    /// The name of the metric.
    pub metric: Cow<'v, str>,
    /// The value, in `unit`; always finite.
    pub value: f64,
    /// The UCUM unit; `None` means the metric's own.
    pub unit: Option<Cow<'v, str>>,
    /// The quality that the device reports, such as `good`; `None` if it reports none.
    pub quality: Option<Cow<'v, str>>,
    /// Milliseconds after `recorded_at_ms`.
    pub offset_ms: i64,
}

/// Why a clean record cannot be read. The texts quote nothing from the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// This schema id is not known yet: ask the registry, and pause the partition until it answers.
    #[error("schema id {0} is not known yet")]
    NeedsSchema(u32),
    /// No local schema has this fingerprint, or the registry does not have the id.
    #[error("its schema is unknown")]
    UnknownSchema,
    /// The bytes are not a valid value of the schema.
    #[error("it does not match any clean schema")]
    Malformed,
    /// The device token is missing or invalid.
    #[error("its device token is missing or invalid")]
    NoDevice,
    /// A reading lacks its metric or its value.
    #[error("it has a reading without a metric or without a finite value")]
    NoReading,
    /// The event has more than [`READINGS_MAX`] readings.
    #[error("it has more readings than one event may have")]
    TooMany,
}

/// Why the watch cannot use a clean schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the clean schema cannot be used: {0}")]
pub struct SchemaError(String);

/// One clean schema.
#[derive(Clone)]
struct Clean {
    shape: Shape,
    schema: Schema,
}

/// Decodes clean records of every known schema.
#[derive(Clone)]
pub struct Decoder {
    schemas: Vec<Clean>,
    fingerprints: HashMap<[u8; 8], usize>,
    ids: HashMap<u32, Option<usize>>,
    default: usize,
}

impl Decoder {
    /// Compiles the local schemas, each given with the fingerprint of its canonical form (CRC-64-AVRO, little endian).
    /// Plain JSON is tried with the schema at index `default` first, then with the others.
    ///
    /// # Errors
    ///
    /// [`SchemaError`] of the first schema that is not Avro, or has no field for the device, the metric or the value.
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

    /// Stores the registry's answer for an id: its schema, or `None` if the id does not exist. A schema that the watch
    /// cannot use counts as missing.
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

    /// Forgets the registry's answer for an id, so that it is requested again.
    pub fn forget(&mut self, id: u32) {
        self.ids.remove(&id);
    }

    /// Whether the registry's answer for a schema id is known.
    #[must_use]
    pub fn knows(&self, id: u32) -> bool {
        self.ids.contains_key(&id)
    }

    /// Decodes the value of a clean record.
    ///
    /// # Errors
    ///
    /// [`Undecodable`]; only [`Undecodable::NeedsSchema`] can be retried.
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

    /// JSON does not name its schema. If the default schema does not match, the others are tried; if none matches, the
    /// error is that of the default schema.
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
        // A missing or excess part of the event is a more precise error than a JSON syntax error.
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
