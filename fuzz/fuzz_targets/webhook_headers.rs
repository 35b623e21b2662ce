//! The webhook headers panic at nothing; nothing verifies that was not signed, and what verifies has one reading.
#![no_main]

use std::num::NonZeroU32;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use libfuzzer_sys::fuzz_target;
use pulsegate::gate::keyring::{Algorithm, KeyRow, KeyState, Keyring, Profile};
use pulsegate::gate::outcome::Reason;
use pulsegate::gate::record::{Received, SignatureHeaders};
use pulsegate::gate::verify::{Config, Context, Scratch, Sequence, home_partition, verify};
use sha2::Sha256;

const SECRET: [u8; 32] = [7; 32];
const NOW_S: i64 = 1_800_000_000;

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let row = KeyRow {
        kid: "k",
        device: "d",
        tenant: "t",
        class: "c",
        profile: Profile::Webhook,
        algorithm: Algorithm::HmacSha256,
        state: KeyState::Active,
        material: &SECRET,
        device_token: b"AAAAAAAAAAAAAAAAAAAAAA",
    };
    Keyring::empty().apply(&[row]).expect("the row is good")
});

fn check(id: &[u8], timestamp: &[u8], list: &[u8], body: &[u8]) -> Result<Sequence, Reason> {
    let partitions = NonZeroU32::MIN.saturating_add(7);
    let context = Context::new("test", "raw", partitions, Config::default());
    let mut signature = SignatureHeaders::default();
    signature.take(b"webhook-id", Some(id));
    signature.take(b"webhook-timestamp", Some(timestamp));
    signature.take(b"webhook-signature", Some(list));
    let record = Received {
        partition: home_partition(b"d", partitions),
        offset: 0,
        appended_ms: NOW_S * 1_000,
        key: Some(b"d"),
        value: body,
        signature,
    };
    let mut budget = context.budget();
    verify(&record, &KEYRING, &context, &mut Scratch::default(), &mut budget).map(|verified| verified.sequence)
}

fuzz_target!(|data: &[u8]| {
    // Four parts with a zero byte between them.
    let mut parts = data.splitn(4, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (id, timestamp, list, body) = (part(), part(), part(), part());
    assert!(check(id, timestamp, list, body).is_err(), "a record verifies that nobody signed");

    // The same parts, signed by the holder of the secret, with the fuzzer's list around the signature.
    let input = [id, b".", timestamp, b".", body].concat();
    let mac = Hmac::<Sha256>::new_from_slice(&SECRET).expect("HMAC takes any key").chain_update(input).finalize();
    let good = format!("v1,{}", BASE64_STANDARD.encode(mac.into_bytes()));
    for list in [good.clone().into_bytes(), [list, b" ", good.as_bytes()].concat()] {
        let Ok(sequence) = check(id, timestamp, &list, body) else { continue };
        assert!(!id.contains(&b'.') && !timestamp.contains(&b'.'), "two splits of one signed text");
        assert_eq!((sequence.issued_ms / 1_000).to_string().as_bytes(), timestamp);
        assert!(std::str::from_utf8(body).is_ok());
    }
});
