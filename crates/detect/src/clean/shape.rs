//! The positions of the roles in an event, and the single pass that extracts their values.

use std::borrow::Cow;
use std::fmt;

use apache_avro::Schema;
use apache_avro::types::Value;
use jiff::Timestamp;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::event::{Event, Measured, READINGS_MAX, Undecodable};
use crate::reading::Token;

/// The field of a reading that is found by name because it has no role: milliseconds after the event's time.
const OFFSET_MS: &str = "offset_ms";

/// The parts to extract from a value of the schema.
#[derive(Clone)]
pub(super) enum Shape {
    /// The value is skipped.
    Skip,
    /// A record with these fields, in the order of the schema.
    Record(Box<[(Box<str>, Shape)]>),
    /// An array whose items are readings.
    Readings(Box<Shape>),
    /// The value itself is extracted.
    Leaf(Leaf),
}

/// The role of an extracted value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    Device,
    RecordedAt,
    Firmware,
    Model,
    Metric,
    Value,
    Unit,
    Quality,
    OffsetMs,
}

impl Leaf {
    fn of(role: &str) -> Option<Self> {
        Some(match role {
            "device" => Self::Device,
            "recorded-at" => Self::RecordedAt,
            "firmware" => Self::Firmware,
            "model" => Self::Model,
            "metric" => Self::Metric,
            "value" => Self::Value,
            "unit" => Self::Unit,
            "quality" => Self::Quality,
            _ => return None,
        })
    }
}

impl Shape {
    /// Compiles the roles of a clean schema; the error says which required role is missing.
    pub fn compile(schema: &Schema) -> Result<Self, &'static str> {
        let mut found = Vec::new();
        let shape = Self::of(schema, &mut found, false);
        for (leaf, without) in [
            (Leaf::Device, "no field has the role `device`"),
            (Leaf::Metric, "no field has the role `metric`"),
            (Leaf::Value, "no field has the role `value`"),
        ] {
            if !found.contains(&leaf) {
                return Err(without);
            }
        }
        Ok(shape)
    }

    fn of(schema: &Schema, found: &mut Vec<Leaf>, in_reading: bool) -> Self {
        let record = match schema {
            Schema::Record(record) => record,
            Schema::Union(union) => {
                let mut branches = union
                    .variants()
                    .iter()
                    .filter(|branch| !matches!(branch, Schema::Null));
                return branches
                    .next()
                    .map_or(Self::Skip, |branch| Self::of(branch, found, in_reading));
            }
            _ => return Self::Skip,
        };
        let fields = record.fields.iter().map(|field| {
            let role = field
                .custom_attributes
                .get("pulsegate:role")
                .and_then(|role| role.as_str());
            let shape = match (role, items(&field.schema)) {
                (Some("readings"), Some(item)) => Self::Readings(Box::new(Self::of(item, found, true))),
                (Some(role), _) => Leaf::of(role).map_or(Self::Skip, Self::Leaf),
                (None, _) if in_reading && field.name == OFFSET_MS => Self::Leaf(Leaf::OffsetMs),
                (None, _) => Self::of(&field.schema, found, in_reading),
            };
            if let Self::Leaf(leaf) = shape {
                found.push(leaf);
            }
            (field.name.as_str().into(), shape)
        });
        let fields: Box<[_]> = fields.collect();
        if fields.iter().all(|(_, shape)| matches!(shape, Self::Skip)) {
            return Self::Skip;
        }
        Self::Record(fields)
    }
}

/// The item schema of an array or an optional array.
fn items(schema: &Schema) -> Option<&Schema> {
    match schema {
        Schema::Array(array) => Some(&array.items),
        Schema::Union(union) => union.variants().iter().find_map(items),
        _ => None,
    }
}

/// An event under construction.
#[derive(Default)]
pub(super) struct Building<'v> {
    device: Option<Token>,
    recorded_at_ms: Option<i64>,
    firmware: Cow<'v, str>,
    model: Cow<'v, str>,
    readings: Vec<Measured<'v>>,
    reading: Reading<'v>,
    trouble: Option<Undecodable>,
}

/// A reading under construction.
#[derive(Default)]
struct Reading<'v> {
    metric: Option<Cow<'v, str>>,
    value: Option<f64>,
    unit: Option<Cow<'v, str>>,
    quality: Option<Cow<'v, str>>,
    offset_ms: i64,
}

impl<'v> Building<'v> {
    /// The first problem found so far: a part that is missing, invalid or in excess.
    pub fn trouble(&self) -> Result<(), Undecodable> {
        self.trouble.map_or(Ok(()), Err)
    }

    pub fn finish(mut self) -> Result<Event<'v>, Undecodable> {
        // An event without an array of readings is a single reading itself.
        if self.reading.metric.is_some() || self.reading.value.is_some() {
            self.end_reading();
        }
        self.trouble()?;
        Ok(Event {
            device: self.device.ok_or(Undecodable::NoDevice)?,
            recorded_at_ms: self.recorded_at_ms,
            firmware: self.firmware,
            model: self.model,
            readings: self.readings,
        })
    }

    fn end_reading(&mut self) {
        let reading = std::mem::take(&mut self.reading);
        match (reading.metric, reading.value) {
            _ if self.readings.len() >= READINGS_MAX => self.trouble = Some(Undecodable::TooMany),
            (Some(metric), Some(value)) if value.is_finite() => self.readings.push(Measured {
                metric,
                value,
                unit: reading.unit,
                quality: reading.quality,
                offset_ms: reading.offset_ms,
            }),
            _ => self.trouble = Some(Undecodable::NoReading),
        }
    }

    /// Takes a text and returns false if the leaf cannot hold it.
    fn text(&mut self, leaf: Leaf, text: Cow<'v, str>) -> bool {
        match leaf {
            Leaf::Device => match Token::new(text.as_bytes()) {
                Some(device) => self.device = Some(device),
                None => self.trouble = Some(Undecodable::NoDevice),
            },
            Leaf::RecordedAt => match text.parse::<Timestamp>() {
                Ok(at) => self.recorded_at_ms = Some(at.as_millisecond()),
                Err(_) => return false,
            },
            Leaf::Firmware => self.firmware = text,
            Leaf::Model => self.model = text,
            Leaf::Metric => self.reading.metric = Some(text),
            Leaf::Unit => self.reading.unit = Some(text),
            Leaf::Quality => self.reading.quality = Some(text),
            Leaf::Value | Leaf::OffsetMs => return false,
        }
        true
    }

    fn integer(&mut self, leaf: Leaf, number: i64) -> bool {
        match leaf {
            Leaf::OffsetMs => self.reading.offset_ms = number,
            Leaf::Value => self.reading.value = Some(number as f64),
            _ => return false,
        }
        true
    }

    fn number(&mut self, leaf: Leaf, number: f64) -> bool {
        if leaf == Leaf::Value {
            self.reading.value = Some(number);
        }
        leaf == Leaf::Value
    }

    /// Extracts the roles from an Avro value, whose records have all fields of the schema, in its order.
    pub fn take_avro(&mut self, shape: &Shape, value: Value) {
        match (shape, value) {
            (Shape::Skip, _) | (_, Value::Null) => {}
            (shape, Value::Union(_, value)) => self.take_avro(shape, *value),
            (Shape::Record(shapes), Value::Record(fields)) => {
                for ((_, shape), (_, value)) in shapes.iter().zip(fields) {
                    self.take_avro(shape, value);
                }
            }
            (Shape::Readings(item), Value::Array(values)) => {
                for value in values {
                    self.take_avro(item, value);
                    self.end_reading();
                }
            }
            (Shape::Leaf(leaf), value) => {
                if !self.take_avro_leaf(*leaf, value) {
                    self.trouble = Some(Undecodable::Malformed);
                }
            }
            _ => self.trouble = Some(Undecodable::Malformed),
        }
    }

    fn take_avro_leaf(&mut self, leaf: Leaf, value: Value) -> bool {
        let milliseconds = match value {
            Value::String(text) | Value::Enum(_, text) => return self.text(leaf, text.into()),
            Value::Int(number) => return self.integer(leaf, number.into()),
            Value::Long(number) => return self.integer(leaf, number),
            Value::Float(number) => return self.number(leaf, number.into()),
            Value::Double(number) => return self.number(leaf, number),
            Value::TimestampMillis(at) => at,
            Value::TimestampMicros(at) => at.div_euclid(1_000),
            Value::TimestampNanos(at) => at.div_euclid(1_000_000),
            _ => return false,
        };
        self.recorded_at_ms = Some(milliseconds);
        leaf == Leaf::RecordedAt
    }
}

/// Reads one value of a JSON event according to its shape.
pub(super) struct Seed<'s, 'b, 'v> {
    pub shape: &'s Shape,
    pub building: &'b mut Building<'v>,
}

impl<'v> DeserializeSeed<'v> for Seed<'_, '_, 'v> {
    type Value = ();

    fn deserialize<D: Deserializer<'v>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.shape {
            Shape::Skip => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'v> Visitor<'v> for Seed<'_, '_, 'v> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.shape {
            Shape::Skip => "anything",
            Shape::Record(_) => "an object",
            Shape::Readings(_) => "an array",
            Shape::Leaf(_) => "a value that fits its role",
        })
    }

    fn visit_map<M: MapAccess<'v>>(self, mut map: M) -> Result<(), M::Error> {
        let Shape::Record(fields) = self.shape else {
            return Err(M::Error::custom("unexpected object"));
        };
        let mut hint = 0;
        while let Some(found) = map.next_key_seed(Key { fields, hint })? {
            let Some(index) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            hint = index + 1;
            map.next_value_seed(Seed {
                shape: &fields[index].1,
                building: &mut *self.building,
            })?;
        }
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'v>>(self, mut items: S) -> Result<(), S::Error> {
        let Shape::Readings(item) = self.shape else {
            return Err(S::Error::custom("unexpected array"));
        };
        while items
            .next_element_seed(Seed {
                shape: item,
                building: &mut *self.building,
            })?
            .is_some()
        {
            self.building.end_reading();
            if self.building.trouble.is_some() {
                return Err(S::Error::custom("invalid reading"));
            }
        }
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'v str) -> Result<(), E> {
        self.leaf(|building, leaf| building.text(leaf, Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.leaf(|building, leaf| building.text(leaf, Cow::Owned(text.to_owned())))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.leaf(|building, leaf| building.integer(leaf, number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.leaf(|building, leaf| match i64::try_from(number) {
            Ok(number) => building.integer(leaf, number),
            Err(_) => building.number(leaf, number as f64),
        })
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.leaf(|building, leaf| building.number(leaf, number))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

impl<'v> Seed<'_, '_, 'v> {
    fn leaf<E: Error>(self, take: impl FnOnce(&mut Building<'v>, Leaf) -> bool) -> Result<(), E> {
        match self.shape {
            Shape::Leaf(leaf) if take(self.building, *leaf) => Ok(()),
            _ => Err(E::custom("a value that does not fit its role")),
        }
    }
}

/// Finds the field of a key. Producers keep the order of fields, so the search continues after the last field found.
struct Key<'s> {
    fields: &'s [(Box<str>, Shape)],
    hint: usize,
}

impl<'v> DeserializeSeed<'v> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'v>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let (before, after) = self.fields.split_at(self.hint.min(self.fields.len()));
        let position = |fields: &[(Box<str>, Shape)]| fields.iter().position(|(field, _)| **field == *name);
        Ok(position(after)
            .map(|index| before.len() + index)
            .or_else(|| position(before)))
    }
}
