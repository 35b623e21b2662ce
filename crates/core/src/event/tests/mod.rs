//! Walks and rewrites: the clean form of valid events, the reasons for invalid ones, and the errors of schemas.

mod compiling;
mod examples;
mod properties;
mod refused;

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::*;
use pulsegate_ledger::outcome::Reason;

const DEFAULT: &str = include_str!("../../../../../schemas/biometric_event.avsc");

fn catalog(schema: &str, clean_format: Format) -> Catalog {
    let config = Config {
        clean_format,
        default_event: "event".to_owned(),
        ..Config::default()
    };
    let source = Source {
        name: "event".to_owned(),
        text: schema.to_owned(),
    };
    Catalog::compile(&[source], &config).expect("the schema compiles")
}

/// The default event, compiled once for all tests.
fn default_plan() -> &'static Catalog {
    static CATALOG: LazyLock<Catalog> = LazyLock::new(|| catalog(DEFAULT, Format::Json));
    &CATALOG
}

/// An event with every field.
fn full() -> Value {
    json!({
        "event_id": "0192f0c1-2f5e-7c11-9f3a-0242ac120002",
        "device_id": "d-17",
        "subject": {"id": "s-4", "name": "Ada \"L\" Löv", "mrn": null, "birth_date": "1984-05-02", "email": "ada@example.org"},
        "recorded_at": "2026-11-22T16:44:01.250Z",
        "firmware": "2.1.0",
        "model": "band-3",
        "location": {"latitude": 59.33, "longitude": 18.06},
        "readings": [
            {"metric": "heart_rate", "value": 71, "unit": "/min", "quality": "good", "offset_ms": 250},
            {"metric": "spo2", "value": 97.5}
        ],
        "note": "slept badly"
    })
}

/// A replacement that states its kind, path and plaintext. Tokens are base64url, as in production.
fn seal(seal: Seal, plain: &[u8], path: &str, out: &mut Vec<u8>) {
    let text = [format!("{seal:?}({path}=").as_bytes(), plain, b")"].concat();
    match seal {
        Seal::Encrypt => out.extend_from_slice(&text),
        Seal::Token | Seal::SubjectToken | Seal::DeviceToken => {
            base64_simd::URL_SAFE_NO_PAD.encode_append(&text, out)
        }
    }
}

fn rewrite(catalog: &Catalog, value: &[u8]) -> Result<Vec<u8>, Reason> {
    let mut arena = Arena::default();
    let (plan, format, datum_start) = match catalog.locate(value, &Ids::default()) {
        Located::Plan {
            plan,
            format,
            datum_start,
        } => (plan, format, datum_start),
        Located::NeedsSchema(_) | Located::UnknownSchema => return Err(Reason::UnknownSchema),
        Located::Undecodable => return Err(Reason::Undecodable),
    };
    let walk = plan
        .walk(format, value, datum_start, &mut arena)
        .map_err(|violation| crate::gate::pipeline::reason(&violation))?;
    let mut out = Vec::new();
    Rewriter::default()
        .rewrite(plan, value, &walk, &arena, &mut out, seal)
        .expect("a walked value can be written");
    Ok(out)
}

/// The text that `seal` wrote into a leaf of a clean event in JSON.
fn unsealed(value: &Value) -> String {
    let text = value.as_str().expect("a string");
    let bytes = base64_simd::STANDARD
        .decode_to_vec(text)
        .or_else(|_| base64_simd::URL_SAFE_NO_PAD.decode_to_vec(text))
        .expect("base64");
    String::from_utf8(bytes).expect("text")
}

#[test]
fn json_is_rewritten_in_place() {
    let value = serde_json::to_vec_pretty(&full()).expect("serializes");
    let clean = rewrite(default_plan(), &value).expect("is an event");
    let mut clean: Value = serde_json::from_slice(&clean).expect("is JSON");
    assert_eq!(unsealed(&clean["device_id"]), "DeviceToken(device_id=d-17)");
    assert_eq!(unsealed(&clean["subject"]["id"]), "SubjectToken(subject.id=s-4)");
    assert_eq!(clean["subject"]["birth_date"], "1984");
    assert_eq!(
        unsealed(&clean["subject"]["name"]),
        "Encrypt(subject.name=Ada \"L\" Löv)"
    );
    assert_eq!(
        unsealed(&clean["location"]["latitude"]),
        "Encrypt(location.latitude=59.33)"
    );
    assert_eq!(unsealed(&clean["note"]), "Encrypt(note=slept badly)");
    for same in ["event_id", "recorded_at", "firmware", "model", "readings"] {
        assert_eq!(clean[same], full()[same], "{same}");
    }
    let mut paths = Vec::new();
    default_plan().plans()[0].visit_sealed(&mut clean, |sealed| paths.push(sealed.path.to_owned()));
    assert_eq!(
        paths,
        [
            "device_id",
            "subject.id",
            "subject.name",
            "subject.birth_date",
            "subject.email",
            "location.latitude",
            "location.longitude",
            "note"
        ]
    );
}

#[test]
fn the_walk_finds_event_device_and_subject() {
    let catalog = default_plan();
    let mut arena = Arena::default();
    let value = br#" {"subject":{"id":"s-\u0034"},"event_id":"0192f0c1-2f5e-7c11-9f3a-0242ac120002","device_id":"d-17",
        "recorded_at":"2026-11-22T16:44:01Z","firmware":"1","model":"m","readings":[]}"#;
    let walk = catalog.plans()[0]
        .walk(Format::Json, value, 0, &mut arena)
        .expect("is an event");
    assert_eq!(
        walk.event_id.of(value, &arena),
        b"0192f0c1-2f5e-7c11-9f3a-0242ac120002"
    );
    assert_eq!(walk.device.of(value, &arena), b"d-17");
    assert_eq!(walk.subject.of(value, &arena), b"s-4");
    let actions: Vec<_> = arena.edits(&walk).iter().map(|edit| edit.action).collect();
    assert_eq!(actions, [Seal::SubjectToken, Seal::DeviceToken].map(Action::Seal));
}

#[test]
fn a_violation_leaves_the_arena_unchanged() {
    let catalog = default_plan();
    let plan = &catalog.plans()[0];
    let mut arena = Arena::default();
    let good = serde_json::to_vec(&full()).expect("serializes");
    let walk = plan
        .walk(Format::Json, &good, 0, &mut arena)
        .expect("is an event");
    let before = (arena.edits.len(), arena.scratch.clone(), arena.paths.clone());
    let mut bad = full();
    bad["note"] = json!(7);
    let bad = serde_json::to_vec(&bad).expect("serializes");
    let violation = plan
        .walk(Format::Json, &bad, 0, &mut arena)
        .expect_err("a note is not a number");
    assert_eq!(
        violation.to_string(),
        "`note` does not have the type that the schema requires"
    );
    assert_eq!(
        (arena.edits.len(), arena.scratch.clone(), arena.paths.clone()),
        before
    );
    assert_eq!(walk.device.of(&good, &arena), b"d-17");
}

#[test]
fn a_violation_names_its_place_but_never_the_senders_words() {
    let place = |edit: &dyn Fn(&mut Value)| {
        let mut event = full();
        edit(&mut event);
        let value = serde_json::to_vec(&event).expect("serializes");
        let catalog = default_plan();
        let violation = catalog.plans()[0].walk(Format::Json, &value, 0, &mut Arena::default());
        violation.expect_err("is not an event").to_string()
    };
    assert_eq!(
        place(&|event| event["readings"][1]["value"] = json!("97")),
        "`readings[1].value` does not have the type that the schema requires"
    );
    assert_eq!(
        place(&|event| event["subject"]["Ada Lovelace"] = json!(1)),
        "`subject` has a member that is not in the schema"
    );
    assert_eq!(
        place(&|event| event["secret"] = json!(1)),
        "the event has a member that is not in the schema"
    );
    assert_eq!(
        place(&|event| event["event_id"] = json!("x")),
        "`event_id` is not a UUID"
    );
}

#[test]
fn avro_is_framed_as_a_single_object_or_with_the_registrys_id() {
    let mut catalog = catalog(DEFAULT, Format::Avro);
    let value = serde_json::to_vec(&full()).expect("serializes");
    let single = rewrite(&catalog, &value).expect("is an event");
    assert_eq!(single[..2], [0xc3, 0x01]);
    let Located::Plan {
        plan,
        datum_start: 10,
        ..
    } = catalog.locate_clean(&single, &Ids::default())
    else {
        panic!("the fingerprint of the clean schema is known");
    };
    let from_single = plan
        .clean_json(Format::Avro, &single[10..])
        .expect("is a clean event");
    catalog.frame_clean("event", 0x0102_0304);
    let framed = rewrite(&catalog, &value).expect("is an event");
    assert_eq!(framed[..5], [0, 1, 2, 3, 4]);
    assert_eq!(
        catalog.plans()[0]
            .clean_json(Format::Avro, &framed[5..])
            .expect("is a clean event"),
        from_single
    );
    assert_eq!(from_single["subject"]["birth_date"], "1984");
}

#[test]
fn a_header_leads_to_a_plan_or_to_the_registry() {
    let catalog = default_plan();
    let plan = &catalog.plans()[0];
    let fingerprint = plan.fingerprint;
    let locate = |value: &[u8], ids: &Ids| match catalog.locate(value, ids) {
        Located::Plan {
            format, datum_start, ..
        } => format!("{format:?} from {datum_start}"),
        other => format!("{other:?}"),
    };
    let ids = Ids::default()
        .with(7, catalog.judge(DEFAULT))
        .with(8, Verdict::Denied);
    assert_eq!(locate(b"{}", &ids), "Json from 0");
    assert_eq!(locate(b" \n{}", &ids), "Json from 0");
    assert_eq!(locate(&[0, 0, 0, 0, 7], &ids), "Avro from 5");
    assert_eq!(locate(&[0, 0, 0, 0, 8, 1], &ids), "UnknownSchema");
    assert_eq!(locate(&[0, 0, 0, 0, 9, 1], &ids), "NeedsSchema(9)");
    let largest = format!("NeedsSchema({})", i32::MAX);
    assert_eq!(locate(&[0, 0x7f, 0xff, 0xff, 0xff, 1], &ids), largest);
    for impossible in [[0, 0x80, 0, 0, 0, 1], [0, 0xff, 0xff, 0xff, 0xff, 1]] {
        assert_eq!(locate(&impossible, &ids), "UnknownSchema", "{impossible:?}");
    }
    assert_eq!(locate(&[0xc3, 1, 0, 0, 0, 0, 0, 0, 0, 0], &ids), "UnknownSchema");
    assert_eq!(
        locate(&[&[0xc3, 1], &fingerprint[..]].concat(), &ids),
        "Avro from 10"
    );
    for short in [
        &[][..],
        &[0, 0, 0],
        &[0xc3],
        &[0xc3, 1, 2],
        &[0xc3, 2, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(locate(short, &ids), "Undecodable", "{short:?}");
    }
    assert_eq!(catalog.judge(r#""string""#), Verdict::Denied);
    assert_eq!(catalog.judge("no schema"), Verdict::Denied);
}

#[test]
fn a_schema_that_was_registered_without_tags_reads_as_the_local_one() {
    let stripped = DEFAULT.replace(r#""confluent:tags": ["PHI"]"#, r#""doc": "nothing to see""#);
    let stripped: Value = serde_json::from_str(&stripped.replace("pulsegate:protect", "x")).expect("is JSON");
    assert_eq!(default_plan().judge(&stripped.to_string()), Verdict::Plan(0));
}

/// Computed with fastavro 1.13: `fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")`.
#[test]
fn fingerprints_agree_with_another_implementation() {
    let hex: String = default_plan().plans()[0]
        .fingerprint
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, "f5d806eaea200c6c");
}
