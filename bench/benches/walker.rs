//! The cost of walking one event, and of copying the event with its edits.
//!
//! Run `cargo bench --bench walker`. On the development machine (2 shared cores, best of many short runs), for the 294
//! bytes below, in nanoseconds: the JSON walk 630, with the rewrite 720; the Avro walk 230. Other libraries need, for
//! the same bytes but without the plan, the checks of dates and ids, and the spans:
//!
//! | | ns |
//! |---|---|
//! | serde_json, only well-formed (`IgnoredAny`) | 200 |
//! | jiter, only well-formed (`next_skip`), the tokenizer that the walk uses | 290 |
//! | sonic-rs into a struct | 340 |
//! | serde_json into a struct | 570 |
//! | serde_json into a `Value` | 1,030 |
//! | apache-avro into a `Value` | 1,690 |
//!
//! The same plan driven through serde's visitors takes 630 over serde_json and 415 over sonic-rs. That would save 0.2
//! µs, but much `unsafe` code would read untrusted input, and escaped strings and numbers would have no span. Of the
//! walk, a date-time costs 45 (jiff) and a UUID 17.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pulsegate_core::event::{Arena, Catalog, Config, Format, Ids, Located, Rewriter, Seal, Source};

const EVENT: &str = r#"{"event_id":"0192f0c1-2f5e-7c11-9f3a-0242ac120002","device_id":"d-000017","subject":{"id":"s-000004","name":"Ada Lovelace","mrn":"MRN-0001234","phone":"+46701234567"},"recorded_at":"2026-11-22T16:44:01.250Z","firmware":"2.1.0","model":"band-3","readings":[{"metric":"heart_rate","value":71.5}]}"#;

fn catalog(clean_format: Format) -> Catalog {
    let text = include_str!("../../schemas/biometric_event.avsc").to_owned();
    let source = Source {
        name: "biometric_event".to_owned(),
        text,
    };
    Catalog::compile(
        &[source],
        &Config {
            clean_format,
            ..Config::default()
        },
    )
    .expect("the default event compiles")
}

/// Writes as many bytes as a ciphertext or a token has.
fn seal(seal: Seal, plain: &[u8], _path: &str, out: &mut Vec<u8>) {
    match seal {
        Seal::Encrypt => {
            out.extend_from_slice(&[7; 33]);
            out.extend_from_slice(plain);
        }
        Seal::Token | Seal::SubjectToken | Seal::DeviceToken => out.extend_from_slice(&[b'A'; 22]),
    }
}

/// The event as an Avro datum, written by an independent encoder.
fn avro() -> Vec<u8> {
    use apache_avro::types::Value as Avro;
    let text = |text: &str| Avro::String(text.to_owned());
    let some = |value: Avro| Avro::Union(1, Box::new(value));
    let none = || Avro::Union(0, Box::new(Avro::Null));
    let record = |members: Vec<(&str, Avro)>| {
        Avro::Record(
            members
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    };
    let subject = record(vec![
        ("id", text("s-000004")),
        ("name", some(text("Ada Lovelace"))),
        ("mrn", some(text("MRN-0001234"))),
        ("birth_date", none()),
        ("email", none()),
        ("phone", some(text("+46701234567"))),
    ]);
    let reading = record(vec![
        ("metric", text("heart_rate")),
        ("value", Avro::Double(71.5)),
        ("unit", none()),
        ("quality", none()),
        ("offset_ms", none()),
    ]);
    let event = record(vec![
        (
            "event_id",
            Avro::Uuid("0192f0c1-2f5e-7c11-9f3a-0242ac120002".parse().expect("a UUID")),
        ),
        ("device_id", text("d-000017")),
        ("subject", subject),
        ("recorded_at", Avro::TimestampMicros(1_795_365_841_250_000)),
        ("firmware", text("2.1.0")),
        ("model", text("band-3")),
        ("location", none()),
        ("readings", Avro::Array(vec![reading])),
        ("note", none()),
    ]);
    let catalog = catalog(Format::Avro);
    let schema = apache_avro::Schema::parse(catalog.plans()[0].schema()).expect("a schema");
    let writer = apache_avro::writer::datum::GenericDatumWriter::builder(&schema)
        .build()
        .expect("a writer");
    writer.write_value_to_vec(event).expect("of the schema")
}

fn walker(c: &mut Criterion) {
    let mut arena = Arena::default();
    let mut rewriter = Rewriter::default();
    let mut out = Vec::new();
    let datum = avro();
    for (name, format, value) in [
        ("json", Format::Json, EVENT.as_bytes()),
        ("avro", Format::Avro, &datum),
    ] {
        let catalog = catalog(format);
        let plan = &catalog.plans()[0];
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(value.len() as u64));
        group.bench_function("walk", |b| {
            b.iter(|| {
                arena.clear();
                plan.walk(format, black_box(value), 0, &mut arena)
                    .map(black_box)
                    .is_ok()
            });
        });
        group.bench_function("walk and rewrite", |b| {
            b.iter(|| {
                arena.clear();
                out.clear();
                let walk = plan
                    .walk(format, black_box(value), 0, &mut arena)
                    .expect("an event");
                rewriter
                    .rewrite(plan, value, &walk, &arena, &mut out, seal)
                    .expect("written");
                black_box(out.len())
            });
        });
        group.finish();
    }

    let catalog = catalog(Format::Json);
    let ids = Ids::default();
    c.bench_function("locate", |b| {
        b.iter(|| {
            matches!(
                catalog.locate(black_box(EVENT.as_bytes()), &ids),
                Located::Plan { .. }
            )
        });
    });
    c.bench_function("json, only well-formed (serde_json)", |b| {
        b.iter(|| serde_json::from_slice::<serde::de::IgnoredAny>(black_box(EVENT.as_bytes())).is_ok());
    });
}

criterion_group!(benches, walker);
criterion_main!(benches);
