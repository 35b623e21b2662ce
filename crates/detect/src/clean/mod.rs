//! The clean event as the watch reads it: the device, the time and the readings.
//!
//! The roles in the clean schema say which field holds what; the gate derives the clean schema from the raw one and
//! keeps the roles. JSON values carry no schema, so their fields are found by name: an older event may lack optional
//! fields, a newer one may have additional fields. Avro values name the schema that wrote them and are read with it.

mod event;
mod shape;

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use serde::de::DeserializeSeed;

pub use self::event::{Event, Measured, READINGS_MAX, Undecodable};
use self::shape::{Building, Seed, Shape};

/// The first byte of the Confluent wire format; a schema id of four bytes follows, big endian.
const CONFLUENT: u8 = 0;
/// The first two bytes of an Avro single object; a fingerprint of eight bytes follows (Avro 1.12).
const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];

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
