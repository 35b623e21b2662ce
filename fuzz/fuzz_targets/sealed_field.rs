//! The sealed-field decoder never panics and opens nothing that was not sealed, as text and as bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pulsegate_core::crypto::envelope::{FieldKey, Nonce, OVERHEAD_BYTES, from_base64, key_id_of};
use pulsegate_core::crypto::keys::Key32;

fuzz_target!(|data: &[u8]| {
    let id = key_id_of(data).unwrap_or(7);
    let owner = FieldKey::new(id, Key32::random([7; 32]));
    let key = owner.expand();
    assert!(key.open(b"aad", data).is_err(), "garbage opens");
    if let Some(sealed) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| from_base64(text).ok())
    {
        assert!(key.open(b"aad", &sealed).is_err(), "garbage opens");
    }

    // The first two bytes select the damage to the sealed remainder.
    let [high, low, plain @ ..] = data else { return };
    let mut sealed = Vec::new();
    key.seal_into(Nonce::from_random([*low; 12]), b"aad", plain, &mut sealed)
        .expect("a fresh key");
    assert_eq!(sealed.len(), plain.len() + OVERHEAD_BYTES);
    assert_eq!(key.open(b"aad", &sealed).expect("just sealed").as_slice(), plain);
    let bit = usize::from(u16::from_be_bytes([*high, *low])) % (sealed.len() * 8);
    sealed[bit / 8] ^= 1 << (bit % 8);
    assert!(
        key.open(b"aad", &sealed).is_err(),
        "bit {bit} is not authenticated"
    );
});
