//! The `webhook` profile: Standard Webhooks `v1`, three headers, HMAC-SHA256 over `id "." timestamp "." body`.
//!
//! Narrower than the specification wherever that would allow two readings of one signature: an id without dots, a
//! timestamp in its only decimal form, signatures in canonical base64.

use base64_simd::STANDARD;

use super::jws::canonical_decimal;
use super::mac::{MAC_BYTES, Mac};
use pulsegate_ledger::record::SignatureHeaders;

/// Maximum length of `webhook-id`, in bytes.
const ID_BYTES_MAX: usize = 64;
/// Maximum number of entries in `webhook-signature`, of any version.
const ENTRIES_MAX: usize = 8;
/// Maximum number of `v1` entries: one for each key of a rotation, and one to spare.
const SIGNATURES_MAX: usize = 3;

/// Parsed headers, not yet verified.
pub(super) struct Claim<'a> {
    pub(super) id: &'a [u8],
    pub(super) timestamp: &'a [u8],
    pub(super) issued_s: i64,
    signatures: [[u8; MAC_BYTES]; SIGNATURES_MAX],
    count: usize,
}

/// Parses the headers. `None` is `malformed_signature`.
pub(super) fn parse<'a>(headers: &SignatureHeaders<'a>) -> Option<Claim<'a>> {
    let id = headers.webhook_id?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !(1..=ID_BYTES_MAX).contains(&id.len()) || !id.iter().all(plain) {
        return None;
    }
    let timestamp = headers.webhook_timestamp?;
    let issued_s = i64::try_from(canonical_decimal(timestamp)?).ok()?;
    let mut claim = Claim {
        id,
        timestamp,
        issued_s,
        signatures: [[0; MAC_BYTES]; SIGNATURES_MAX],
        count: 0,
    };
    claim.take_signatures(headers.webhook_signature?)?;
    Some(claim)
}

impl Claim<'_> {
    /// The `v1` signatures of the list.
    pub(super) fn signatures(&self) -> &[[u8; MAC_BYTES]] {
        &self.signatures[..self.count]
    }

    /// Parses the `v1` signatures of a list such as `v1,<base64> v1a,<base64>`; at least one is required.
    fn take_signatures(&mut self, list: &[u8]) -> Option<()> {
        for (index, entry) in list.split(|byte| *byte == b' ').enumerate() {
            let comma = memchr::memchr(b',', entry)?;
            if index == ENTRIES_MAX {
                return None;
            }
            if &entry[..comma] == b"v1" {
                let mac = Mac::decode(STANDARD, &entry[comma + 1..], MAC_BYTES)?;
                *self.signatures.get_mut(self.count)? = mac.as_bytes().try_into().ok()?;
                self.count += 1;
            }
        }
        (self.count > 0).then_some(())
    }
}
