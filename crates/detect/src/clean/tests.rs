use apache_avro::types::{Record, Value as Avro};
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const DEVICE: &str = "AAECAwQFBgcICQoLDA0ODw";

/// The clean schema of the default event, reduced to the fields that the watch reads and some that it skips.
fn schema() -> Value {
    json!({"type": "record", "name": "CleanBiometricEvent", "namespace": "pulsegate", "fields": [
        {"name": "event_id", "type": {"type": "string", "logicalType": "uuid"}, "pulsegate:role": "event-id"},
        {"name": "device_id", "type": "string", "pulsegate:role": "device", "pulsegate:sealed": "token"},
        {"name": "subject", "type": {"type": "record", "name": "Subject", "fields": [
            {"name": "id", "type": "string", "pulsegate:role": "subject", "pulsegate:sealed": "token"}]}},
        {"name": "recorded_at", "type": {"type": "long", "logicalType": "timestamp-micros"},
         "pulsegate:role": "recorded-at"},
        {"name": "firmware", "type": "string", "pulsegate:role": "firmware"},
        {"name": "model", "type": "string", "pulsegate:role": "model"},
        {"name": "readings", "pulsegate:role": "readings", "type": {"type": "array", "items":
            {"type": "record", "name": "Reading", "fields": [
                {"name": "metric", "type": "string", "pulsegate:role": "metric"},
                {"name": "value", "type": "double", "pulsegate:role": "value"},
                {"name": "unit", "type": ["null", "string"], "default": null, "pulsegate:role": "unit"},
                {"name": "quality", "type": ["null", {"type": "enum", "name": "Quality",
                    "symbols": ["good", "uncertain", "bad"]}], "default": null, "pulsegate:role": "quality"},
                {"name": "offset_ms", "type": ["null", "long"], "default": null}]}}},
        {"name": "note", "type": ["null", "bytes"], "default": null, "pulsegate:sealed": "encrypt"}]})
}

const FINGERPRINT: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

fn decoder() -> Decoder {
    Decoder::new([(&schema(), FINGERPRINT)], 0).expect("a clean schema")
}

fn event() -> Value {
    json!({
    "event_id": "6f2f9f4e-6a52-4c39-8f53-1d7b61a6c001", "device_id": DEVICE, "subject": {"id": DEVICE},
    "recorded_at": "2026-11-22T10:00:00.250Z", "firmware": "2.1.0", "model": "band \"x\"",
    "readings": [
        {"metric": "heart_rate", "value": 61, "unit": "/min", "offset_ms": 1500},
        {"metric": "spo2", "value": 97.5, "unit": null, "quality": "bad"},
    ]})
}

fn decode(event: &Value) -> Result<Event<'static>, Undecodable> {
    let text = serde_json::to_vec(event).expect("JSON");
    decoder().decode(&text.clone().leak()[..])
}

#[test]
fn fields_with_roles_are_extracted_and_the_rest_is_skipped() {
    let found = decode(&event()).expect("an event");
    assert_eq!(found.device.as_str(), DEVICE);
    assert_eq!(found.recorded_at_ms, Some(1_795_341_600_250));
    assert_eq!((&*found.firmware, &*found.model), ("2.1.0", "band \"x\""));
    let [heart, oxygen] = &found.readings[..] else {
        panic!("two readings")
    };
    assert_eq!(
        (&*heart.metric, heart.value, heart.offset_ms),
        ("heart_rate", 61.0, 1_500)
    );
    assert_eq!(
        (heart.unit.as_deref(), heart.quality.as_deref()),
        (Some("/min"), None)
    );
    assert_eq!(
        (&*oxygen.metric, oxygen.value, oxygen.offset_ms),
        ("spo2", 97.5, 0)
    );
    assert_eq!(
        (oxygen.unit.as_deref(), oxygen.quality.as_deref()),
        (None, Some("bad"))
    );
}

#[test]
fn an_older_event_may_lack_fields_and_a_newer_one_may_have_more() {
    let mut older = event();
    for name in ["firmware", "model", "recorded_at"] {
        older.as_object_mut().expect("an object").remove(name);
    }
    let found = decode(&older).expect("an older event");
    assert_eq!((found.recorded_at_ms, &*found.firmware), (None, ""));
    let mut newer = event();
    newer["posture"] = json!({"angles": [1, 2, {"deep": null}], "device_id": "no"});
    newer["readings"][0]["confidence"] = json!(0.9);
    assert_eq!(decode(&newer), decode(&event()));
}

#[test]
fn unreadable_records_have_a_closed_reason() {
    let without = |pointer: &str, value: Value| {
        let mut event = event();
        *event.pointer_mut(pointer).expect("there") = value;
        decode(&event).expect_err("unreadable")
    };
    assert_eq!(without("/device_id", json!("short")), Undecodable::NoDevice);
    assert_eq!(
        without("/device_id", json!("ÄAECAwQFBgcICQoLDA0OD")),
        Undecodable::NoDevice
    );
    assert_eq!(without("/device_id", Value::Null), Undecodable::NoDevice);
    assert_eq!(
        without("/readings/0", json!({"metric": "x"})),
        Undecodable::NoReading
    );
    assert_eq!(without("/readings/0/value", json!("61")), Undecodable::Malformed);
    assert_eq!(
        without("/recorded_at", json!("yesterday")),
        Undecodable::Malformed
    );
    assert_eq!(without("/readings", json!({})), Undecodable::Malformed);
    let decoder = decoder();
    let told = |bytes: &[u8]| decoder.decode(bytes).expect_err("unreadable");
    assert_eq!(told(b""), Undecodable::Malformed);
    assert_eq!(told(b"{}"), Undecodable::NoDevice);
    assert_eq!(told(b"\x00\x00\x00\x00\x07abc"), Undecodable::NeedsSchema(7));
    assert_eq!(
        told(b"\xc3\x01\x00\x00\x00\x00\x00\x00\x00\x00abc"),
        Undecodable::UnknownSchema
    );
    let text = serde_json::to_string(&event()).expect("JSON");
    assert_eq!(told(format!("{text}{text}").as_bytes()), Undecodable::Malformed);
    // A number beyond the range of an f64 is malformed.
    assert_eq!(
        told(text.replace("97.5", "1e400").as_bytes()),
        Undecodable::Malformed
    );
}

#[test]
fn values_at_the_limits_and_ten_thousand_readings_are_read() {
    let mut event = event();
    let limits = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, -0.0];
    event["readings"] = limits
        .iter()
        .map(|value| json!({"metric": "m", "value": value}))
        .collect();
    let read = decode(&event).expect("read");
    let bits = |value: f64| value.to_bits();
    assert!(
        read.readings
            .iter()
            .zip(limits)
            .all(|(reading, limit)| bits(reading.value) == bits(limit))
    );
    let many = |count: usize| Value::Array(vec![json!({"metric": "m", "value": 1}); count]);
    event["readings"] = many(10_000);
    assert_eq!(decode(&event).expect("read").readings.len(), 10_000);
    event["readings"] = many(READINGS_MAX + 1);
    assert_eq!(decode(&event), Err(Undecodable::TooMany));
}

fn avro(schema: &Value) -> Vec<u8> {
    let schema = Schema::parse(schema).expect("a schema");
    let reading = |metric: &str, value, unit: Option<&str>| {
        let optional = |value: Option<Avro>| match value {
            Some(value) => Avro::Union(1, Box::new(value)),
            None => Avro::Union(0, Box::new(Avro::Null)),
        };
        let fields = [
            ("metric", Avro::String(metric.to_owned())),
            ("value", Avro::Double(value)),
            ("unit", optional(unit.map(|unit| Avro::String(unit.to_owned())))),
            ("quality", optional(None)),
            ("offset_ms", optional(Some(Avro::Long(1_500)))),
        ];
        Avro::Record(fields.map(|(name, value)| (name.to_owned(), value)).to_vec())
    };
    let readings = vec![
        reading("heart_rate", 61.0, Some("/min")),
        reading("spo2", 97.5, None),
    ];
    let mut record = Record::new(&schema).expect("a record");
    record.put("event_id", Avro::Uuid(uuid::Uuid::nil()));
    record.put("device_id", DEVICE);
    record.put(
        "subject",
        Avro::Record(vec![("id".to_owned(), Avro::String(DEVICE.to_owned()))]),
    );
    record.put("recorded_at", Avro::TimestampMicros(1_795_341_600_250_999));
    record.put("firmware", "2.1.0");
    record.put("model", "band");
    record.put("readings", Avro::Array(readings));
    record.put("note", Avro::Union(0, Box::new(Avro::Null)));
    let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
    let mut datum = Vec::new();
    writer.write_value(&mut datum, record).expect("written");
    datum
}

#[test]
fn avro_is_read_by_the_schema_that_wrote_it_whichever_framing_names_it() {
    let datum = avro(&schema());
    let single = [&SINGLE_OBJECT[..], &FINGERPRINT, &datum].concat();
    let mut decoder = decoder();
    let found = decoder.decode(&single).expect("by fingerprint");
    assert_eq!(found.recorded_at_ms, Some(1_795_341_600_250));
    assert_eq!((&*found.firmware, found.readings.len()), ("2.1.0", 2));
    assert_eq!(
        (found.readings[0].value, found.readings[0].offset_ms),
        (61.0, 1_500)
    );
    assert_eq!(found.readings[0].unit.as_deref(), Some("/min"));

    let framed = [&[CONFLUENT, 0, 0, 0, 9][..], &datum].concat();
    decoder.learn(9, Some(&schema().to_string()));
    assert_eq!(decoder.decode(&framed), decoder.decode(&single));
    decoder.learn(9, None);
    assert_eq!(decoder.decode(&framed), Err(Undecodable::UnknownSchema));
    assert_eq!(
        decoder.decode(&[&single[..], &[0]].concat()),
        Err(Undecodable::Malformed)
    );
}

#[test]
fn a_schema_without_readings_is_rejected() {
    let mut bare = schema();
    bare["fields"]
        .as_array_mut()
        .expect("fields")
        .retain(|field| field["name"] != "readings");
    let error = Decoder::new([(&bare, FINGERPRINT)], 0).err().expect("rejected");
    assert!(error.to_string().contains("`metric`"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), framing in 0..3_usize) {
        let prefix: &[u8] = [&[][..], &[0xc3, 1, 1, 2, 3, 4, 5, 6, 7, 8], br#"{"device_id":""#][framing];
        let _ = decoder().decode(&[prefix, &bytes].concat());
    }

    #[test]
    fn a_damaged_event_does_not_panic(at in 0..300_usize, byte in any::<u8>()) {
        let mut text = serde_json::to_vec(&event()).expect("JSON");
        let length = text.len();
        text[at % length] = byte;
        let _ = decoder().decode(&text);
        let mut framed = [&SINGLE_OBJECT[..], &FINGERPRINT, &avro(&schema())].concat();
        let length = framed.len();
        framed[at % length] = byte;
        let _ = decoder().decode(&framed);
    }
}
