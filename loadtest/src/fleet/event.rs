//! The default event as a device would write it: plain JSON, or Avro in either framing.

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::writer::datum::GenericDatumWriter;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// One upload of one device. Field order and names follow `biometric_event.avsc`.
#[derive(Serialize)]
pub struct BiometricEvent<'a> {
    /// Permanent, unique id of the event.
    #[serde(serialize_with = "uuid_text")]
    pub event_id: Uuid,
    /// Device id.
    pub device_id: &'a str,
    /// Wearer.
    pub subject: Subject<'a>,
    /// Time of the readings.
    #[serde(serialize_with = "time")]
    pub recorded_at: Timestamp,
    /// Firmware version.
    pub firmware: &'a str,
    /// Device model.
    pub model: &'a str,
    /// Location of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Measured values.
    pub readings: &'a [Reading],
    /// Free text (PHI).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'a str>,
}

/// The wearer. Every field is PHI (and synthetic).
#[derive(Serialize)]
pub struct Subject<'a> {
    /// Subject id.
    pub id: &'a str,
    /// Full name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// Medical record number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mrn: Option<&'a str>,
    /// Date of birth.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "date")]
    pub birth_date: Option<jiff::civil::Date>,
    /// E-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<&'a str>,
    /// Telephone number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<&'a str>,
}

/// Position in degrees (WGS 84).
#[derive(Clone, Copy, Serialize)]
pub struct Location {
    /// Degrees north of the equator.
    pub latitude: f64,
    /// Degrees east of Greenwich.
    pub longitude: f64,
}

/// One measured value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// Metric name, as in `metrics.toml`.
    pub metric: &'static str,
    /// Value in the metric's unit.
    pub value: f64,
    /// Unit in UCUM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'static str>,
    /// The device's own quality estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Milliseconds after `recorded_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_ms: Option<i64>,
}

/// A device's own estimate of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Trustworthy.
    Good,
    /// Questionable, for instance because it was taken in motion.
    Uncertain,
    /// Unusable.
    Bad,
}

fn uuid_text<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

fn time<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.collect_str(at)
    } else {
        serializer.serialize_i64(at.as_microsecond())
    }
}

fn date<S: Serializer>(date: &Option<jiff::civil::Date>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(date) = date else {
        return serializer.serialize_none();
    };
    if serializer.is_human_readable() {
        serializer.collect_str(date)
    } else {
        let days = (*date - jiff::civil::date(1970, 1, 1)).get_days();
        serializer.serialize_some(&days)
    }
}

/// CRC-64-AVRO fingerprint of a schema. apache-avro 0.22 leaves logical types in the form `{"type":"string"}`, where
/// the specification's canonical form has `"string"`; applying the canonical form twice gives that too.
#[must_use]
pub fn fingerprint(schema: &Schema) -> Vec<u8> {
    let again = Schema::parse_str(&schema.canonical_form());
    again.as_ref().unwrap_or(schema).fingerprint::<Rabin>().bytes
}

/// Encoding of events.
#[derive(Clone)]
pub enum Format {
    /// Plain JSON.
    Json,
    /// Avro with the Confluent header: `0x00`, the registry's id in big endian, the datum.
    AvroConfluent {
        /// Schema; must be that of the default event.
        schema: Arc<Schema>,
        /// Id that the registry assigned to the schema.
        id: u32,
    },
    /// Avro single-object encoding: `0xC3 0x01`, the schema's Rabin fingerprint in little endian, the datum.
    AvroSingleObject {
        /// Schema; must be that of the default event.
        schema: Arc<Schema>,
    },
}

impl Format {
    /// Writes the event into `out`, which is cleared first.
    ///
    /// # Errors
    /// When the schema does not fit the default event.
    pub fn write(&self, event: &BiometricEvent<'_>, out: &mut Vec<u8>) -> anyhow::Result<()> {
        out.clear();
        let schema = match self {
            Self::Json => return Ok(serde_json::to_writer(out, event)?),
            Self::AvroConfluent { schema, id } => {
                out.push(0);
                out.extend_from_slice(&id.to_be_bytes());
                schema
            }
            Self::AvroSingleObject { schema } => {
                out.extend_from_slice(&[0xC3, 0x01]);
                out.extend_from_slice(&fingerprint(schema));
                schema
            }
        };
        let writer = GenericDatumWriter::builder(schema)
            .human_readable(false)
            .build()?;
        writer.write_ser(out, event)?;
        Ok(())
    }
}
