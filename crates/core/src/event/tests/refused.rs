//! Invalid input: each value has one outcome, and none affects the next walk.

use super::*;

fn outcome(value: &[u8]) -> &'static str {
    rewrite(default_plan(), value).map_or_else(Reason::as_str, |_| "clean")
}

/// The full event with the text of one member replaced.
fn with(member: &str, text: &str) -> Vec<u8> {
    let mut event = full();
    let placeholder = "\u{1}placeholder";
    *event.pointer_mut(member).expect("the member is there") = json!(placeholder);
    let text = event.to_string().replace(&json!(placeholder).to_string(), text);
    text.into_bytes()
}

#[test]
fn invalid_json_events_are_refused() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    for (member, text, expected) in [
        ("/readings/0/value", "9223372036854775808", "clean"),
        ("/readings/0/value", "1e308", "clean"),
        ("/readings/0/value", "-0.0", "clean"),
        ("/readings/0/value", "1e309", "schema_violation"),
        ("/readings/0/value", "NaN", "undecodable"),
        ("/readings/0/value", "Infinity", "undecodable"),
        ("/readings/0/value", "-Infinity", "undecodable"),
        ("/readings/0/value", "0x10", "undecodable"),
        ("/readings/0/value", "01", "undecodable"),
        ("/readings/0/value", "1.", "undecodable"),
        ("/readings/0/value", ".5", "undecodable"),
        ("/readings/0/value", "+1", "undecodable"),
        ("/readings/0/value", "", "undecodable"),
        ("/readings/0/value", "true", "schema_violation"),
        ("/readings/0/value", "null", "schema_violation"),
        ("/readings/0/value", "\"71\"", "schema_violation"),
        ("/readings/0/value", &deep("[", "]"), "schema_violation"),
        ("/readings/0/value", &deep("[", ""), "undecodable"),
        ("/readings/0/value", &deep("{\"a\":", "}"), "undecodable"),
        ("/readings/0/offset_ms", "9223372036854775807", "clean"),
        ("/readings/0/offset_ms", "-9223372036854775808", "clean"),
        ("/readings/0/offset_ms", "9223372036854775808", "schema_violation"),
        ("/readings/0/offset_ms", "0", "clean"),
        ("/readings/0/offset_ms", "-0", "schema_violation"),
        ("/readings/0/offset_ms", "1.0", "schema_violation"),
        ("/readings/0/offset_ms", "1e3", "schema_violation"),
        ("/readings/0/quality", "\"excellent\"", "schema_violation"),
        ("/readings/0/metric", "null", "schema_violation"),
        ("/readings", "{}", "schema_violation"),
        ("/readings", "[]", "clean"),
        ("/readings", "[{}]", "schema_violation"),
        ("/readings", "[,]", "undecodable"),
        ("/location", "null", "clean"),
        ("/location", "{\"latitude\":1}", "schema_violation"),
        ("/note", "\"\\ud800\"", "schema_violation"),
        ("/note", "\"\\udc00\\ud800\"", "schema_violation"),
        ("/note", "\"\\ud83d\\ude00\"", "clean"),
        ("/note", "\"\\u00zz\"", "undecodable"),
        ("/note", "\"\\x\"", "undecodable"),
        ("/note", "\"a\nb\"", "undecodable"),
        ("/note", "\"\\u0000\"", "clean"),
        ("/note", "\"\"", "clean"),
        ("/firmware", "\"\\ud800\"", "schema_violation"),
        ("/subject/id", "\"\"", "schema_violation"),
        ("/subject/id", "\"a\\u0000b\"", "schema_violation"),
        ("/subject/id", "\"a\\nb\"", "schema_violation"),
        ("/subject/id", "null", "schema_violation"),
        ("/subject", "null", "schema_violation"),
        ("/subject", "{\"id\":\"a\",\"id\":\"b\"}", "schema_violation"),
        (
            "/subject",
            "{\"id\":\"a\",\"\\u0069d\":\"b\"}",
            "schema_violation",
        ),
        ("/subject", "{\"\\u0069d\":\"a\"}", "schema_violation"),
        (
            "/subject",
            "{\"id\":\"a\",\"name\":null,\"name\":\"b\"}",
            "schema_violation",
        ),
        ("/subject", "{\"id\":\"a\",}", "undecodable"),
        ("/subject", "{\"id\" \"a\"}", "undecodable"),
        ("/subject", "{id:\"a\"}", "undecodable"),
        (
            "/event_id",
            "\"0192f0c12f5e7c119f3a0242ac120002\"",
            "schema_violation",
        ),
        (
            "/event_id",
            "\"{0192f0c1-2f5e-7c11-9f3a-0242ac120002}\"",
            "schema_violation",
        ),
        (
            "/event_id",
            "\"0192f0c1-2f5e-7c11-9f3a-0242ac12000g\"",
            "schema_violation",
        ),
        ("/event_id", "\"0192F0C1-2F5E-7C11-9F3A-0242AC120002\"", "clean"),
    ] {
        assert_eq!(
            outcome(&with(member, text)),
            expected,
            "{member} = {}",
            &text[..text.len().min(60)]
        );
    }
}

#[test]
fn dates_are_those_of_rfc_3339() {
    for (text, good) in [
        ("2026-11-22T16:44:01Z", true),
        ("2026-11-22t16:44:01z", true),
        ("2026-11-22T16:44:01.123456789+05:30", true),
        ("2024-02-29T23:59:60Z", true),
        ("0000-01-01T00:00:00Z", true),
        ("2026-11-22 16:44:01Z", false),
        ("2026-11-22T16:44:01", false),
        ("2026-11-22T16:44:01+0530", false),
        ("2026-11-22T16:44:01+05", false),
        ("2026-11-22T16:44:01.Z", false),
        ("2026-11-22T16:44:01,5Z", false),
        ("2026-11-22T16:44:01.1234567890Z", false),
        ("2026-11-22T16:44Z", false),
        ("20261122T164401Z", false),
        ("2026-11-22T16:44:01Z[Europe/Stockholm]", false),
        ("2026-11-22T16:44:01+01:00[Europe/Stockholm]", false),
        ("-002026-11-22T16:44:01Z", false),
        ("2026-02-30T16:44:01Z", false),
        ("2026-11-22T24:00:00Z", false),
        ("2026-11-22T16:60:00Z", false),
        ("today", false),
        ("", false),
    ] {
        let expected = if good { "clean" } else { "schema_violation" };
        assert_eq!(
            outcome(&with("/recorded_at", &format!("\"{text}\""))),
            expected,
            "{text}"
        );
    }
    for (text, good) in [
        ("1984-05-02", true),
        ("2024-02-29", true),
        ("2023-02-29", false),
        ("1984-5-2", false),
        ("19840502", false),
        ("1984-W18-3", false),
        ("1984-05-02T00:00:00Z", false),
        ("", false),
    ] {
        let expected = if good { "clean" } else { "schema_violation" };
        assert_eq!(
            outcome(&with("/subject/birth_date", &format!("\"{text}\""))),
            expected,
            "{text}"
        );
    }
}

#[test]
fn bytes_that_are_not_json_are_undecodable() {
    let whole = full().to_string();
    for end in 0..whole.len() {
        assert_eq!(outcome(&whole.as_bytes()[..end]), "undecodable", "cut at {end}");
    }
    for (value, expected) in [
        (&b""[..], "undecodable"),
        (b"\xef\xbb\xbf{}", "undecodable"),
        (b"\xff", "undecodable"),
        (b"hello", "undecodable"),
        (b"{}{}", "undecodable"),
        (b"{\"note\":\"\xff\"}", "undecodable"),
        (b"{\"\xff\":1}", "undecodable"),
        (b"{}", "schema_violation"),
        (b"[]", "schema_violation"),
        (b"null", "schema_violation"),
        (b"1", "schema_violation"),
    ] {
        assert_eq!(outcome(value), expected, "{value:?}");
    }
    let trailing = format!("{whole} x");
    assert_eq!(outcome(trailing.as_bytes()), "undecodable");
    let spaced = format!("\t\r\n {whole} \n");
    assert_eq!(outcome(spaced.as_bytes()), "clean");
}

#[test]
fn limits_hold_at_their_boundary() {
    let limits = Config::default();
    let text = |bytes: u32| format!("\"{}\"", "x".repeat(bytes as usize));
    assert_eq!(
        outcome(&with("/firmware", &text(limits.string_bytes_max))),
        "clean"
    );
    assert_eq!(
        outcome(&with("/firmware", &text(limits.string_bytes_max + 1))),
        "schema_violation"
    );
    assert_eq!(
        outcome(&with("/subject/id", &text(limits.identity_bytes_max))),
        "clean"
    );
    assert_eq!(
        outcome(&with("/subject/id", &text(limits.identity_bytes_max + 1))),
        "schema_violation"
    );
    let readings = |count: u32| {
        let items = vec![r#"{"metric":"spo2","value":97}"#; count as usize];
        with("/readings", &format!("[{}]", items.join(",")))
    };
    assert_eq!(outcome(&readings(limits.items_max)), "clean");
    assert_eq!(outcome(&readings(limits.items_max + 1)), "schema_violation");
}

/// The full event as a single object.
fn avro() -> Vec<u8> {
    let catalog = default_plan();
    let plan = &catalog.plans()[0];
    let datum = properties::avro_datum(plan, &full());
    [&[0xc3, 0x01], &plan.fingerprint[..], &datum].concat()
}

#[test]
fn avro_that_is_not_a_datum_is_undecodable() {
    let whole = avro();
    assert_eq!(outcome(&whole), "clean");
    for end in 0..whole.len() {
        assert_eq!(outcome(&whole[..end]), "undecodable", "cut at {end}");
    }
    assert_eq!(outcome(&[&whole[..], &[0]].concat()), "undecodable");
    for index in 10..whole.len() {
        for byte in 0..=255 {
            let mut changed = whole.clone();
            changed[index] = byte;
            // It must not panic; the outcome depends on the place.
            outcome(&changed);
        }
    }
}

#[test]
fn hostile_lengths_in_avro_are_refused_without_allocating() {
    let whole = avro();
    let head = &whole[..10];
    let long = |number: i64| {
        let mut out = Vec::new();
        crate::event::wire::write_avro_long(number, &mut out);
        out
    };
    for length in [-1, i64::MIN, i64::MAX, 1 << 31, 1 << 40] {
        assert_eq!(
            outcome(&[head, &long(length)].concat()),
            "undecodable",
            "a string of {length}"
        );
    }
    let unending = [0xff; 11];
    assert_eq!(outcome(&[head, &unending[..]].concat()), "undecodable");
}

#[test]
fn blocks_of_avro_arrays_are_rewritten() {
    let catalog = catalog(
        &DEFAULT.replace(
            r#""name": "firmware", "type": "string", "pulsegate:role": "firmware""#,
            FIRMWARES,
        ),
        Format::Json,
    );
    let plan = &catalog.plans()[0];
    let mut event = full();
    event["firmware"] = json!([]);
    let datum = properties::avro_datum(plan, &event);
    let at = datum
        .windows(6)
        .position(|window| window == b"\0\x0cband")
        .expect("the empty array before the model");
    let outcome = |blocks: &[u8]| {
        let value = [
            &[0xc3, 1],
            &plan.fingerprint[..],
            &datum[..at],
            blocks,
            &datum[at + 1..],
        ]
        .concat();
        rewrite(&catalog, &value).map_or_else(
            |reason| reason.as_str().to_owned(),
            |clean| {
                let clean: Value = serde_json::from_slice(&clean).expect("is JSON");
                clean["firmware"]
                    .as_array()
                    .expect("an array")
                    .iter()
                    .map(unsealed)
                    .collect::<Vec<_>>()
                    .join(" ")
            },
        )
    };
    assert_eq!(outcome(b"\x02\x02a\0"), "Encrypt(firmware[0]=a)");
    assert_eq!(
        outcome(b"\x02\x02a\x02\x02b\0"),
        "Encrypt(firmware[0]=a) Encrypt(firmware[1]=b)"
    );
    assert_eq!(
        outcome(b"\x03\x08\x02a\x02b\0"),
        "Encrypt(firmware[0]=a) Encrypt(firmware[1]=b)"
    );
    assert_eq!(
        outcome(b"\x01\x04\x02a\x02\x02b\0"),
        "Encrypt(firmware[0]=a) Encrypt(firmware[1]=b)"
    );
    assert_eq!(outcome(b"\x01\x06\x02a\0"), "undecodable");
    assert_eq!(outcome(b"\x01\x01\x02a\0"), "undecodable");
    assert_eq!(
        outcome(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x04\x02a\0"),
        "undecodable"
    );
    assert_eq!(
        outcome(b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02a\0"),
        "undecodable"
    );
}

const FIRMWARES: &str =
    r#""name": "firmware", "type": {"type": "array", "items": "string"}, "confluent:tags": ["PHI"]"#;
