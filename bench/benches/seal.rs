//! The cost of sealing: `cargo bench --bench seal`. The target is 600 ns for an event of 280 bytes with three PHI
//! fields.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pulsegate_core::crypto::envelope::{Context, FieldKey, Nonce};
use pulsegate_core::crypto::kek::Kek;
use pulsegate_core::crypto::keys::{Key32, SubjectKey, Tenant};
use pulsegate_core::event::{self, Arena, Catalog, Format, Source, Walk};
use pulsegate_core::gate::seal::{Event, Keys, Nonces, SealedBatch, Sealer, Topics};
use pulsegate_ledger::merkle::{MerkleRoot, record_leaf};
use pulsegate_ledger::record::{Received, SignatureHeaders};

/// An event of 280 bytes, of which three fields are encrypted and two become tokens.
const EVENT: &str = concat!(
    r#"{"event_id":"0192f0c1-2345-7abc-8def-0123456789ab","device_id":"d-17","subject":{"id":"s-4","#,
    r#""name":"Jane Q. Roe","mrn":"MRN-00012345"},"recorded_at":"2026-11-22T16:44:01.250Z","firmware":"2.1.0","#,
    r#""model":"band-3","readings":[{"metric":"heart_rate","value":71.5}],"note":"slept well"}"#,
);
const SUBJECTS: usize = 10_000;
const DEVICE_TOKEN: &[u8; 22] = b"ZGV2aWNlLXRva2VuLTAwMQ";

/// Visits the subjects in an order that no prefetcher can predict.
fn scattered(index: u64) -> usize {
    let index = (index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize;
    index % SUBJECTS
}

fn key(index: usize) -> Key32 {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&index.to_be_bytes());
    Key32::random(bytes)
}

fn nonce(index: u64, field: u8) -> Nonce {
    let mut bytes = [field; 12];
    bytes[..8].copy_from_slice(&index.to_be_bytes());
    Nonce::from_random(bytes)
}

fn tenant() -> Tenant {
    let kek = Kek::from_bytes(&[0xA5; 32]).expect("32 bytes");
    let nonce = Nonce::from_random([1; 12]);
    let branch = Tenant::wrap_branch(&kek, "acme", &Key32::random([6; 32]), nonce).expect("short");
    Tenant::open(&kek, "acme", &branch).expect("just wrapped")
}

fn catalog() -> Catalog {
    let text = include_str!("../../schemas/biometric_event.avsc").to_owned();
    let config = event::Config::default();
    Catalog::compile(
        &[Source {
            name: config.default_event.clone(),
            text,
        }],
        &config,
    )
    .expect("compiles")
}

fn record() -> Received<'static> {
    Received {
        partition: 0,
        offset: 0,
        appended_ms: 0,
        key: Some(b"d-17"),
        value: EVENT.as_bytes(),
        signature: SignatureHeaders::default(),
    }
}

/// Measures the whole stage, as the gate runs it.
fn stage(criterion: &mut Criterion) {
    assert!((270..=290).contains(&EVENT.len()), "{} bytes", EVENT.len());
    let (tenant, catalog, record) = (tenant(), catalog(), record());
    let plan = &catalog.plans()[0];
    let subjects: Vec<SubjectKey> = (0..SUBJECTS)
        .map(|index| {
            let field_key = FieldKey::new(1, key(index));
            tenant
                .subject_key(&index.to_be_bytes(), [4; 16], field_key)
                .expect("short")
        })
        .collect();
    let mut sealer = Sealer::new(
        "local",
        Topics {
            raw: "raw",
            clean: "biometrics.clean",
            deadletter: "dead",
        },
    )
    .expect("short");
    let (mut arena, mut batch, mut nonces) = (Arena::default(), SealedBatch::default(), Nonces::new());
    let walk = plan
        .walk(Format::Json, record.value, 0, &mut arena)
        .expect("valid");

    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Elements(1));
    let mut index = 0;
    let mut seal = |walk: &Walk, arena: &Arena| {
        if nonces.left() < 3 {
            batch.clear();
            nonces.refill(3 * 4_096, getrandom::fill).expect("random bytes");
        }
        index += 1;
        let keys = Keys {
            tenant: &tenant,
            subject: &subjects[scattered(index)],
            device_token: DEVICE_TOKEN,
        };
        sealer
            .seal_clean(
                &record,
                Event { plan, walk, arena },
                keys,
                &mut nonces,
                &mut batch,
            )
            .expect("sealed");
    };
    group.bench_function("event of 280 bytes, random bytes included", |bencher| {
        bencher.iter(|| seal(&walk, &arena));
    });
    let mut scratch = Arena::default();
    group.bench_function("event of 280 bytes, walk included", |bencher| {
        bencher.iter(|| {
            scratch.clear();
            let walk = plan
                .walk(Format::Json, record.value, 0, &mut scratch)
                .expect("valid");
            seal(&walk, &scratch);
        });
    });
    group.finish();
}

/// Compares keys kept expanded with keys expanded for each event; see `FieldKey`.
fn expansion(criterion: &mut Criterion) {
    let keys: Vec<FieldKey> = (0..SUBJECTS).map(|index| FieldKey::new(1, key(index))).collect();
    let expanded: Vec<_> = keys.iter().map(FieldKey::expand).collect();
    let fields: [(&[u8], &[u8]); 3] = [
        (b"subject.name", b"Jane Q. Roe"),
        (b"subject.mrn", b"MRN-00012345"),
        (b"note", b"slept well"),
    ];
    let mut context = Context::new("local", "biometrics.clean").expect("short");
    let (mut out, mut index) = (Vec::new(), 0);
    let mut seal = |key: &pulsegate_core::crypto::envelope::Expanded<'_>, index: u64| {
        let mut place = context
            .begin(b"0192f0c1-2345-7abc-8def-0123456789ab", DEVICE_TOKEN)
            .expect("short");
        out.clear();
        for (number, (path, plain)) in (0..).zip(fields) {
            let aad = place.at(path).expect("short");
            key.seal_into(nonce(index, number), aad, plain, &mut out)
                .expect("fresh");
        }
        black_box(&out);
    };
    let mut group = criterion.benchmark_group("three fields");
    group.bench_function("one key, kept expanded", |bencher| {
        bencher.iter(|| {
            index += 1;
            seal(&expanded[0], index);
        });
    });
    group.bench_function("10,000 keys, kept expanded", |bencher| {
        bencher.iter(|| {
            index += 1;
            seal(&expanded[scattered(index)], index);
        });
    });
    group.bench_function("10,000 keys, expanded per event", |bencher| {
        bencher.iter(|| {
            index += 1;
            seal(&keys[scattered(index)].expand(), index);
        });
    });
    group.finish();
}

/// Measures the ledger's root per record, and one lookup of a subject's token.
fn hashing(criterion: &mut Criterion) {
    let tenant = tenant();
    criterion.bench_function("Merkle leaf and its share of the nodes", |bencher| {
        bencher.iter_batched_ref(
            MerkleRoot::new,
            |root| (0..1_000).for_each(|offset| root.push(record_leaf(offset, "clean", &[5; 32]))),
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("subject lookup", |bencher| {
        bencher.iter(|| tenant.lookup(black_box(b"s-4")))
    });
}

criterion_group!(benches, stage, expansion, hashing);
criterion_main!(benches);
