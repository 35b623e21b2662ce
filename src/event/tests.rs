//! Walks and rewrites of hand-written events: one outcome for every input.

use serde_json::{Value, json};

use super::*;
use crate::gate::outcome::Reason;

const DEFAULT: &str = include_str!("../../schemas/biometric_event.avsc");

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

fn default_plan() -> Catalog {
    catalog(DEFAULT, Format::Json)
}

/// An event with everything in it.
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

/// Makes every replacement readable: what was to be made, of what, where.
fn seal(seal: Seal, plain: &[u8], path: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{seal:?}({path}=").as_bytes());
    out.extend_from_slice(plain);
    out.push(b')');
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
        .map_err(|violation| violation.reason())?;
    let mut out = Vec::new();
    Rewriter::default()
        .rewrite(plan, value, &walk, &arena, &mut out, seal)
        .expect("a walked value can be written");
    Ok(out)
}

/// What `seal` leaves of a ciphertext in JSON.
fn unbase64(value: &Value) -> String {
    let bytes = base64_simd::STANDARD
        .decode_to_vec(value.as_str().expect("a string"))
        .expect("base64");
    String::from_utf8(bytes).expect("text")
}

#[test]
fn json_is_rewritten_in_place() {
    let value = serde_json::to_vec_pretty(&full()).expect("serializes");
    let clean = rewrite(&default_plan(), &value).expect("is an event");
    let mut clean: Value = serde_json::from_slice(&clean).expect("is JSON");
    assert_eq!(clean["device_id"], "DeviceToken(device_id=d-17)");
    assert_eq!(clean["subject"]["id"], "SubjectToken(subject.id=s-4)");
    assert_eq!(clean["subject"]["birth_date"], "1984");
    assert_eq!(
        unbase64(&clean["subject"]["name"]),
        "Encrypt(subject.name=Ada \"L\" Löv)"
    );
    assert_eq!(
        unbase64(&clean["location"]["latitude"]),
        "Encrypt(location.latitude=59.33)"
    );
    assert_eq!(unbase64(&clean["note"]), "Encrypt(note=slept badly)");
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
