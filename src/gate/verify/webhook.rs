//! The `webhook` profile: Standard Webhooks `v1`, three headers, HMAC-SHA256 over `id "." timestamp "." body`.
//!
//! Narrower than the specification where that leaves two readings of one signature: an id without dots, a timestamp in
//! its one decimal form, signatures in canonical base64.

use base64_simd::STANDARD;

use super::jws::canonical_decimal;
use super::mac::{MAC_BYTES, Mac};
use crate::gate::record::SignatureHeaders;

/// The longest `webhook-id`, in bytes.
const ID_BYTES_MAX: usize = 64;
/// How many signatures `webhook-signature` may list, of any version.
pub(super) const SIGNATURES_MAX: usize = 8;

/// Well-formed headers, of which nothing is verified yet.
pub(super) struct Claim<'a> {
    pub(super) id: &'a [u8],
    pub(super) timestamp: &'a [u8],
    pub(super) issued_s: i64,
    /// The `v1` signatures; the rest is empty.
    pub(super) signatures: [Option<[u8; MAC_BYTES]>; SIGNATURES_MAX],
}

/// Takes the headers apart. `None` is `malformed_signature`.
pub(super) fn parse<'a>(headers: &SignatureHeaders<'a>) -> Option<Claim<'a>> {
    let id = headers.webhook_id?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !(1..=ID_BYTES_MAX).contains(&id.len()) || !id.iter().all(plain) {
        return None;
    }
    let timestamp = headers.webhook_timestamp?;
    let issued_s = i64::try_from(canonical_decimal(timestamp)?).ok()?;
    let signatures = signatures(headers.webhook_signature?)?;
    Some(Claim {
        id,
        timestamp,
        issued_s,
        signatures,
    })
}

/// The `v1` signatures of a list such as `v1,<base64> v1a,<base64>`; at least one.
fn signatures(list: &[u8]) -> Option<[Option<[u8; MAC_BYTES]>; SIGNATURES_MAX]> {
    let mut found = [None; SIGNATURES_MAX];
    let mut any = false;
    for (index, entry) in list.split(|byte| *byte == b' ').enumerate() {
        let place = found.get_mut(index)?;
        let comma = memchr::memchr(b',', entry)?;
        if &entry[..comma] == b"v1" {
            let mac = Mac::decode(STANDARD, &entry[comma + 1..], MAC_BYTES)?;
            *place = Some(mac.as_bytes().try_into().ok()?);
            any = true;
        }
    }
    any.then_some(found)
}
