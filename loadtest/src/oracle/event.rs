//! Decides whether a value is a valid default event: a strict parser from serde's derived code, which shares nothing
//! with the gate's walkers.

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use crate::outcome::{Outcome, Outcomes};

/// Limits of the gate's `event` configuration, which the oracle must know.
#[derive(Clone, Copy, Debug)]
pub struct EventLimits {
    /// `event.string_bytes_max`, in bytes.
    pub string_bytes_max: usize,
    /// `event.items_max`, a number of items.
    pub items_max: usize,
    /// `event.identity_bytes_max`, in bytes.
    pub identity_bytes_max: usize,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self {
            string_bytes_max: 16_384,
            items_max: 1_024,
            identity_bytes_max: 256,
        }
    }
}

/// Avro schemas of events, if raw records may be Avro.
#[derive(Clone, Debug, Default)]
pub struct AvroSchemas {
    /// Schema of the default event, found by its fingerprint.
    pub event: Option<Arc<Schema>>,
    /// Registry ids of that schema.
    pub ids: Vec<u32>,
}

/// The part of an event that the oracle uses.
pub(super) struct Event {
    /// 128 bits of the event id's digest.
    pub id: u128,
    pub device: String,
}

/// 128 bits of the event id's SHA-256.
pub(super) fn digest_id(id: &str) -> u128 {
    let digest = Sha256::digest(id.as_bytes());
    digest[..16]
        .iter()
        .fold(0, |half, byte| half << 8 | u128::from(*byte))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BiometricEvent {
    event_id: String,
    device_id: String,
    subject: Subject,
    recorded_at: String,
    firmware: String,
    model: String,
    location: Option<Location>,
    readings: Vec<Reading>,
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    id: String,
    name: Option<String>,
    mrn: Option<String>,
    birth_date: Option<String>,
    email: Option<String>,
    phone: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Location {
    latitude: f64,
    longitude: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reading {
    metric: String,
    value: f64,
    unit: Option<String>,
    quality: Option<String>,
    #[serde(rename = "offset_ms")]
    _offset_ms: Option<i64>,
}

/// Parses an event, or returns the outcomes that its failure may have.
pub(super) fn read(value: &[u8], avro: &AvroSchemas, limits: &EventLimits) -> Result<Event, Outcomes> {
    match value {
        [0, id0, id1, id2, id3, datum @ ..] => {
            let id = u32::from_be_bytes([*id0, *id1, *id2, *id3]);
            let schema = avro.event.as_ref().filter(|_| avro.ids.contains(&id));
            read_avro(
                datum,
                schema.ok_or(Outcomes::from(Outcome::UnknownSchema))?,
                limits,
            )
        }
        [0xC3, 0x01, rest @ ..] if rest.len() >= 8 => {
            let (fingerprint, datum) = rest.split_at(8);
            let known = |schema: &&Arc<Schema>| crate::fleet::event::fingerprint(schema) == fingerprint;
            read_avro(
                datum,
                avro.event
                    .as_ref()
                    .filter(known)
                    .ok_or(Outcomes::from(Outcome::UnknownSchema))?,
                limits,
            )
        }
        _ => read_json(value, limits),
    }
}

fn read_json(value: &[u8], limits: &EventLimits) -> Result<Event, Outcomes> {
    let well_formed = std::str::from_utf8(value)
        .ok()
        .filter(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    let Some(text) = well_formed else {
        return Err(Outcome::Undecodable.into());
    };
    if !text.trim_ascii_start().starts_with('{') {
        // JSON, but the contract defines no format for such a value.
        return Err(Outcomes::of(&[Outcome::Undecodable, Outcome::SchemaViolation]));
    }
    match serde_json::from_str::<BiometricEvent>(text) {
        Ok(event) if event.is_valid(limits) => Ok(Event {
            id: digest_id(&event.event_id),
            device: event.device_id,
        }),
        _ => Err(Outcome::SchemaViolation.into()),
    }
}

impl BiometricEvent {
    fn is_valid(&self, limits: &EventLimits) -> bool {
        let Self {
            event_id,
            device_id,
            subject,
            recorded_at,
            firmware,
            model,
            location,
            readings,
            note,
        } = self;
        let identity = |id: &str| {
            (1..=limits.identity_bytes_max).contains(&id.len())
                && !id.contains(|c: char| c.is_ascii_control())
        };
        let short = |text: &str| text.len() <= limits.string_bytes_max;
        let Subject {
            id,
            name,
            mrn,
            birth_date,
            email,
            phone,
        } = subject;
        let optional = [name, mrn, email, phone, note].into_iter().flatten();
        let finite = |at: &Location| at.latitude.is_finite() && at.longitude.is_finite();
        event_id.len() == 36
            && uuid::Uuid::try_parse(event_id).is_ok()
            && identity(device_id)
            && identity(id)
            && is_date_time(recorded_at)
            && birth_date.as_deref().is_none_or(is_date)
            && [firmware, model]
                .into_iter()
                .chain(optional)
                .all(|text| short(text))
            && location.as_ref().is_none_or(finite)
            && readings.len() <= limits.items_max
            && readings.iter().all(|reading| reading.is_valid(limits))
    }
}

impl Reading {
    fn is_valid(&self, limits: &EventLimits) -> bool {
        let short = |text: &String| text.len() <= limits.string_bytes_max;
        let quality = |quality: &str| ["good", "uncertain", "bad"].contains(&quality);
        self.value.is_finite()
            && short(&self.metric)
            && self.unit.as_ref().is_none_or(short)
            && self.quality.as_deref().is_none_or(quality)
    }
}

/// Checks for a full-date of RFC 3339.
fn is_date(text: &str) -> bool {
    matches_shape(text, "dddd-dd-dd") && text.parse::<jiff::civil::Date>().is_ok()
}

/// Checks for a date-time of RFC 3339; further forms of ISO 8601 are invalid.
fn is_date_time(text: &str) -> bool {
    let Some((head, tail)) = text.split_at_checked(19) else {
        return false;
    };
    let digits = tail
        .strip_prefix('.')
        .map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let fraction = if digits > 0 { digits + 1 } else { 0 };
    let zone = &tail[fraction..];
    let zoned =
        zone.eq_ignore_ascii_case("Z") || matches_shape(zone, "+dd:dd") || matches_shape(zone, "-dd:dd");
    let shaped = matches_shape(&head.to_ascii_uppercase(), "dddd-dd-ddTdd:dd:dd");
    shaped && zoned && digits <= 9 && text.parse::<jiff::Timestamp>().is_ok()
}

/// Whether a text matches a shape in which `d` stands for a digit.
fn matches_shape(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape.bytes()).all(|(byte, shape)| {
            if shape == b'd' {
                byte.is_ascii_digit()
            } else {
                byte == shape
            }
        })
}

fn read_avro(mut datum: &[u8], schema: &Schema, limits: &EventLimits) -> Result<Event, Outcomes> {
    let reader = GenericDatumReader::builder(schema).build();
    let read = reader.and_then(|reader| reader.read_value(&mut datum));
    let Ok(Value::Record(fields)) = read else {
        // Whether a datum that does not fit its schema fails in decoding or in validation depends on the decoder.
        return Err(Outcomes::of(&[Outcome::Undecodable, Outcome::SchemaViolation]));
    };
    if !datum.is_empty() {
        return Err(Outcomes::of(&[Outcome::Undecodable, Outcome::SchemaViolation]));
    }
    let text = |name: &str| {
        fields
            .iter()
            .find(|(field, _)| field == name)
            .and_then(|(_, value)| as_text(value))
    };
    match (text("event_id"), text("device_id")) {
        (Some(id), Some(device)) if fields.iter().all(|(_, value)| is_valid_value(value, limits)) => {
            Ok(Event {
                id: digest_id(&id),
                device,
            })
        }
        _ => Err(Outcome::SchemaViolation.into()),
    }
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Uuid(id) => Some(id.as_hyphenated().to_string()),
        _ => None,
    }
}

fn is_valid_value(value: &Value, limits: &EventLimits) -> bool {
    match value {
        Value::Double(number) => number.is_finite(),
        Value::String(text) => text.len() <= limits.string_bytes_max,
        Value::Union(_, inner) => is_valid_value(inner, limits),
        Value::Array(items) => {
            items.len() <= limits.items_max && items.iter().all(|item| is_valid_value(item, limits))
        }
        Value::Record(fields) => fields.iter().all(|(_, field)| is_valid_value(field, limits)),
        _ => true,
    }
}

/// The event id of a clean record. `event_id` is in clear; the other fields are not read.
pub(super) fn clean_id(value: &[u8], clean: Option<&Schema>) -> Option<u128> {
    #[derive(Deserialize)]
    struct Clean<'a> {
        #[serde(borrow)]
        event_id: std::borrow::Cow<'a, str>,
    }
    let datum = match value {
        [0, _, _, _, _, datum @ ..] => datum,
        [0xC3, 0x01, rest @ ..] => rest.get(8..)?,
        json => {
            return serde_json::from_slice::<Clean<'_>>(json)
                .ok()
                .map(|clean| digest_id(&clean.event_id));
        }
    };
    let reader = GenericDatumReader::builder(clean?).build().ok()?;
    let Value::Record(fields) = reader.read_value(&mut { datum }).ok()? else {
        return None;
    };
    fields
        .iter()
        .find(|(name, _)| name == "event_id")
        .and_then(|(_, value)| as_text(value))
        .map(|id| digest_id(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"event_id":"018f2d1e-6c3a-7b3e-9c3e-0a1b2c3d4e5f","device_id":"d1","subject":{"id":"s1","name":null},
        "recorded_at":"2026-11-22T10:00:00.5+01:00","firmware":"1","model":"m","readings":[{"metric":"heart_rate","value":61}]}"#;

    fn judge(value: &str) -> Outcomes {
        let read = read(value.as_bytes(), &AvroSchemas::default(), &EventLimits::default());
        read.map_or_else(|outcomes| outcomes, |_| Outcome::Clean.into())
    }

    #[test]
    fn one_good_event_is_valid_and_every_way_to_spoil_it_has_its_outcome() {
        assert_eq!(judge(GOOD), Outcome::Clean.into());
        let spoiled = [
            ("\"d1\"", "\"\"", Outcome::SchemaViolation),
            ("\"d1\"", "\"d\\u0007\"", Outcome::SchemaViolation),
            ("\"d1\"", "7", Outcome::SchemaViolation),
            ("018f2d1e-6c3a", "018f2d1e6c3a-", Outcome::SchemaViolation),
            ("2026-11-22T10", "2026-11-31T10", Outcome::SchemaViolation),
            (".5+01:00", ".+01:00", Outcome::SchemaViolation),
            (".5+01:00", "", Outcome::SchemaViolation),
            ("\"value\":61", "\"value\":1e999", Outcome::SchemaViolation),
            ("\"value\":61", "\"value\":NaN", Outcome::Undecodable),
            (
                "\"value\":61",
                "\"value\":61,\"quality\":\"poor\"",
                Outcome::SchemaViolation,
            ),
            (
                "\"model\":\"m\"",
                "\"model\":\"m\",\"model\":\"m\"",
                Outcome::SchemaViolation,
            ),
            (
                "\"model\":\"m\"",
                "\"model\":\"\\ud800\"",
                Outcome::SchemaViolation,
            ),
            ("\"model\":\"m\"", "\"modell\":\"m\"", Outcome::SchemaViolation),
            ("\"model\":\"m\",", "", Outcome::SchemaViolation),
            ("}]}", "}]", Outcome::Undecodable),
            ("}]}", "}]}{}", Outcome::Undecodable),
        ];
        for (from, to, expected) in spoiled {
            assert!(GOOD.contains(from), "{from}");
            assert_eq!(
                judge(&GOOD.replacen(from, to, 1)),
                expected.into(),
                "{from} -> {to}"
            );
        }
        assert_eq!(judge(""), Outcome::Undecodable.into());
        let deep = format!("{{\"note\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(judge(&deep), Outcome::SchemaViolation.into());
    }
}
