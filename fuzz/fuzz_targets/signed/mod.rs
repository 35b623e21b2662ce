//! A record of a device whose secret the fuzz target knows.

use std::num::NonZeroU32;

use hmac::{Hmac, KeyInit as _, Mac as _};
use pulsegate_core::gate::keyring::{Algorithm, KeyRow, KeyState, Keyring, Profile};
use pulsegate_core::gate::verify::{Config, Context, Scratch, Sequence, home_partition, verify};
use pulsegate_ledger::outcome::Reason;
use pulsegate_ledger::record::{Received, SignatureHeaders};
use sha2::Sha256;

const SECRET: [u8; 32] = [7; 32];
const NOW_S: i64 = 1_800_000_000;

/// The keys of one device, `d`, with one key, `k`.
pub fn keyring(profile: Profile) -> Keyring {
    let row = KeyRow {
        kid: "k",
        device: "d",
        tenant: "t",
        class: "c",
        profile,
        algorithm: Algorithm::HmacSha256,
        state: KeyState::Active,
        material: &SECRET,
        device_token: b"AAAAAAAAAAAAAAAAAAAAAA",
    };
    Keyring::empty().apply(&[row]).expect("the row is good")
}

/// The MAC that the device would send.
pub fn mac(input: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(&SECRET).expect("HMAC takes any key");
    mac.chain_update(input).finalize().into_bytes().to_vec()
}

/// Verifies a record in its home partition, appended now.
pub fn check(keyring: &Keyring, headers: &[(&[u8], &[u8])], value: &[u8]) -> Result<Sequence, Reason> {
    let partitions = NonZeroU32::MIN.saturating_add(7);
    let context = Context::new("test", "raw", partitions, Config::default());
    let mut signature = SignatureHeaders::default();
    for (name, value) in headers {
        signature.take(name, Some(value));
    }
    let record = Received {
        partition: home_partition(b"d", partitions),
        offset: 0,
        appended_ms: NOW_S * 1_000,
        key: Some(b"d"),
        value,
        signature,
    };
    let mut budget = context.budget();
    let verified = verify(&record, keyring, &context, &mut Scratch::default(), &mut budget);
    verified
        .map(|verified| verified.sequence)
        .map_err(|rejection| rejection.reason)
}
