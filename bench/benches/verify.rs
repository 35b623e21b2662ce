//! The cost of verifying one record, by profile and algorithm (10,000 devices in turn, values of 280 bytes), and the
//! cost of changing one key among a million devices.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use pulsegate_core::gate::keyring::{Algorithm, KeyRow, KeyState, Keyring, KeyringBuilder, Profile};
use pulsegate_core::gate::verify::{Config, Context, Scratch, home_partition, verify};
use pulsegate_ledger::record::{Received, SignatureHeaders};
use sha2::Sha256;

const NOW_S: i64 = 1_800_000_000;
const VALUE: [u8; 280] = [b'x'; 280];

#[derive(Clone, Copy)]
enum Kind {
    JwsHmac,
    JwsEd25519,
    Webhook,
}

struct Signed {
    device: String,
    partition: i32,
    headers: Vec<(&'static str, String)>,
}

fn partitions() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(7)
}

fn hmac(secret: &[u8], input: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes any key");
    mac.chain_update(input).finalize().into_bytes().to_vec()
}

fn seed(number: u32) -> [u8; 32] {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    seed
}

fn keyring(devices: u32, kind: Kind) -> Keyring {
    let mut builder = KeyringBuilder::default();
    for number in 0..devices {
        let material = match kind {
            Kind::JwsEd25519 => SigningKey::from_bytes(&seed(number)).verifying_key().to_bytes(),
            _ => seed(number),
        };
        let (device, kid) = (format!("wearable-{number:06}"), format!("wearable-{number:06}-a"));
        let row = KeyRow {
            kid: &kid,
            device: &device,
            tenant: "acme",
            class: "wearable",
            profile: if matches!(kind, Kind::Webhook) {
                Profile::Webhook
            } else {
                Profile::Jws
            },
            algorithm: if matches!(kind, Kind::JwsEd25519) {
                Algorithm::Ed25519
            } else {
                Algorithm::HmacSha256
            },
            state: KeyState::Active,
            material: &material,
            device_token: b"AAAAAAAAAAAAAAAAAAAAAA",
        };
        builder.put(&row).expect("the row is valid");
    }
    builder.finish().expect("one key per device")
}

fn sign(number: u32, kind: Kind) -> Signed {
    let device = format!("wearable-{number:06}");
    let headers = if let Kind::Webhook = kind {
        let input = [format!("msg_{number}.{NOW_S}.").as_bytes(), &VALUE].concat();
        let signature = BASE64_STANDARD.encode(hmac(&seed(number), &input));
        vec![
            ("webhook-id", format!("msg_{number}")),
            ("webhook-timestamp", NOW_S.to_string()),
            ("webhook-signature", format!("v1,{signature}")),
        ]
    } else {
        let alg = if matches!(kind, Kind::JwsEd25519) {
            "Ed25519"
        } else {
            "HS256"
        };
        let protected = BASE64_URL_SAFE_NO_PAD.encode(format!(
            r#"{{"alg":"{alg}","kid":"{device}-a","typ":"bio+jws","aud":"local/biometrics.raw","iat":{NOW_S},"jti":"1-{number}"}}"#
        ));
        let input = format!("{protected}.{}", BASE64_URL_SAFE_NO_PAD.encode(VALUE));
        let signature = match kind {
            Kind::JwsEd25519 => SigningKey::from_bytes(&seed(number))
                .sign(input.as_bytes())
                .to_bytes()
                .to_vec(),
            _ => hmac(&seed(number), input.as_bytes()),
        };
        vec![(
            "x-jws-signature",
            format!("{protected}..{}", BASE64_URL_SAFE_NO_PAD.encode(signature)),
        )]
    };
    Signed {
        partition: home_partition(device.as_bytes(), partitions()),
        device,
        headers,
    }
}

fn received(signed: &Signed) -> Received<'_> {
    let mut signature = SignatureHeaders::default();
    for (name, value) in &signed.headers {
        signature.take(name.as_bytes(), Some(value.as_bytes()));
    }
    Received {
        partition: signed.partition,
        offset: 0,
        appended_ms: NOW_S * 1_000,
        key: Some(signed.device.as_bytes()),
        value: &VALUE,
        signature,
    }
}

fn verifying(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verify");
    group.throughput(Throughput::Elements(1));
    for (name, kind, devices) in [
        ("jws_hs256", Kind::JwsHmac, 10_000),
        ("webhook", Kind::Webhook, 10_000),
        ("jws_ed25519", Kind::JwsEd25519, 200),
    ] {
        let keyring = keyring(devices, kind);
        let records: Vec<_> = (0..devices).map(|number| sign(number, kind)).collect();
        let context = Context::new("local", "biometrics.raw", partitions(), Config::default());
        let (mut scratch, mut budget) = (Scratch::default(), context.budget());
        let mut turn = records.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let record = received(turn.next().expect("there are records"));
                verify(&record, &keyring, &context, &mut scratch, &mut budget).expect("the record is valid")
            });
        });
    }
    group.finish();
}

fn keys(criterion: &mut Criterion) {
    let keyring = keyring(1_000_000, Kind::JwsHmac);
    let secret = seed(500_000);
    let row = KeyRow {
        kid: "wearable-500000-a",
        device: "wearable-500000",
        tenant: "acme",
        class: "wearable",
        profile: Profile::Jws,
        algorithm: Algorithm::HmacSha256,
        state: KeyState::Revoked,
        material: &secret,
        device_token: b"AAAAAAAAAAAAAAAAAAAAAA",
    };
    criterion.bench_function("keyring/revoke_one_of_a_million", |bencher| {
        bencher.iter(|| keyring.apply(&[row]).expect("the row is valid"));
    });
    let row = KeyRow {
        kid: "new",
        device: "new",
        state: KeyState::Active,
        ..row
    };
    criterion.bench_function("keyring/add_one_to_a_million", |bencher| {
        bencher.iter(|| keyring.apply(&[row]).expect("the row is valid"));
    });
    let small = self::keyring(10_000, Kind::JwsHmac);
    criterion.bench_function("keyring/build_10k", |bencher| {
        bencher.iter(|| self::keyring(10_000, Kind::JwsHmac).devices() + small.devices());
    });
}

criterion_group!(benches, verifying, keys);
criterion_main!(benches);
