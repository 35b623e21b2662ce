//! The JWS header panics at nothing; nothing verifies that was not signed, and what verifies is exactly the six members.
#![no_main]

use std::num::NonZeroU32;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use libfuzzer_sys::fuzz_target;
use pulsegate::gate::keyring::{Algorithm, KeyRow, KeyState, Keyring, Profile};
use pulsegate::gate::outcome::Reason;
use pulsegate::gate::record::{Received, SignatureHeaders};
use pulsegate::gate::verify::{Config, Context, MessageId, Scratch, Sequence, home_partition, verify};
use sha2::Sha256;

const SECRET: [u8; 32] = [7; 32];
const NOW_S: i64 = 1_800_000_000;

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let row = KeyRow {
        kid: "k",
        device: "d",
        tenant: "t",
        class: "c",
        profile: Profile::Jws,
        algorithm: Algorithm::HmacSha256,
        state: KeyState::Active,
        material: &SECRET,
        device_token: b"AAAAAAAAAAAAAAAAAAAAAA",
    };
    Keyring::empty().apply(&[row]).expect("the row is good")
});

fn check(header: &[u8], value: &[u8]) -> Result<Sequence, Reason> {
    let partitions = NonZeroU32::MIN.saturating_add(7);
    let context = Context::new("test", "raw", partitions, Config::default());
    let mut signature = SignatureHeaders::default();
    signature.take(b"x-jws-signature", Some(header));
    let record = Received {
        partition: home_partition(b"d", partitions),
        offset: 0,
        appended_ms: NOW_S * 1_000,
        key: Some(b"d"),
        value,
        signature,
    };
    let mut budget = context.budget();
    verify(&record, &KEYRING, &context, &mut Scratch::default(), &mut budget).map(|verified| verified.sequence)
}

fuzz_target!(|data: &[u8]| {
    // As a header: nobody but the holder of the secret makes one that verifies.
    assert!(check(data, b"{}").is_err(), "a header verifies that nobody signed");

    // As a protected header that the holder of the secret signed.
    let protected = BASE64_URL_SAFE_NO_PAD.encode(data);
    let input = format!("{protected}.e30");
    let mac = Hmac::<Sha256>::new_from_slice(&SECRET).expect("HMAC takes any key").chain_update(input).finalize();
    let header = format!("{protected}..{}", BASE64_URL_SAFE_NO_PAD.encode(mac.into_bytes()));
    let Ok(sequence) = check(header.as_bytes(), b"{}") else { return };
    let members: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(data).expect("what verifies is a JSON object");
    let MessageId::Jws { boot, number } = sequence.id else { panic!("a JWS has a boot and a number") };
    let expected = serde_json::json!({
        "alg": "HS256", "kid": "k", "typ": "bio+jws", "aud": "test/raw",
        "iat": sequence.issued_ms / 1_000, "jti": format!("{boot}-{number}"),
    });
    assert_eq!(serde_json::Value::Object(members), expected);
});
