//! The webhook header parser never panics; only signed records verify, and a verified record has one reading.
#![no_main]

mod signed;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use libfuzzer_sys::fuzz_target;
use pulsegate_core::gate::keyring::{Keyring, Profile};
use pulsegate_core::gate::verify::Sequence;
use pulsegate_ledger::outcome::Reason;

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| signed::keyring(Profile::Webhook));

fn check(id: &[u8], timestamp: &[u8], list: &[u8], body: &[u8]) -> Result<Sequence, Reason> {
    let headers: [(&[u8], &[u8]); 3] = [
        (b"webhook-id", id),
        (b"webhook-timestamp", timestamp),
        (b"webhook-signature", list),
    ];
    signed::check(&KEYRING, &headers, body)
}

fuzz_target!(|data: &[u8]| {
    // Four parts, separated by zero bytes.
    let mut parts = data.splitn(4, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (id, timestamp, list, body) = (part(), part(), part(), part());
    assert!(
        check(id, timestamp, list, body).is_err(),
        "a record verifies that nobody signed"
    );

    // The same parts, signed by the holder of the secret, with the fuzzer's list around the signature.
    let input = [id, b".", timestamp, b".", body].concat();
    let good = format!("v1,{}", BASE64_STANDARD.encode(signed::mac(&input)));
    for list in [good.clone().into_bytes(), [list, b" ", good.as_bytes()].concat()] {
        let Ok(sequence) = check(id, timestamp, &list, body) else {
            continue;
        };
        assert!(
            !id.contains(&b'.') && !timestamp.contains(&b'.'),
            "two splits of one signed text"
        );
        assert_eq!((sequence.issued_ms / 1_000).to_string().as_bytes(), timestamp);
        assert!(std::str::from_utf8(body).is_ok());
    }
});
