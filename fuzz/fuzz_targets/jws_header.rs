//! The JWS header parser never panics; only signed headers verify, and a verified header has exactly the six members.
#![no_main]

mod signed;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use pulsegate_core::gate::keyring::{Keyring, Profile};
use pulsegate_core::gate::verify::{MessageId, Sequence};
use pulsegate_ledger::outcome::Reason;

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| signed::keyring(Profile::Jws));

fn check(header: &[u8]) -> Result<Sequence, Reason> {
    signed::check(&KEYRING, &[(b"x-jws-signature", header)], b"{}")
}

fuzz_target!(|data: &[u8]| {
    // As a header: only the holder of the secret can make one that verifies.
    assert!(check(data).is_err(), "an unsigned header verifies");

    // As a protected header that the holder of the secret signed.
    let protected = BASE64_URL_SAFE_NO_PAD.encode(data);
    let signature = BASE64_URL_SAFE_NO_PAD.encode(signed::mac(format!("{protected}.e30").as_bytes()));
    let Ok(sequence) = check(format!("{protected}..{signature}").as_bytes()) else {
        return;
    };
    let members: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(data).expect("what verifies is a JSON object");
    let MessageId::Jws { boot, number } = sequence.id else {
        panic!("a JWS has a boot and a number")
    };
    let expected = serde_json::json!({
        "alg": "HS256", "kid": "k", "typ": "bio+jws", "aud": "test/raw",
        "iat": sequence.issued_ms / 1_000, "jti": format!("{boot}-{number}"),
    });
    assert_eq!(serde_json::Value::Object(members), expected);
});
