//! Signature computations, each over received bytes and compared in constant time.

use base64_simd::{AsOut, Base64, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

/// Maximum length of a signature, in bytes: an Ed25519 signature; an HMAC is half as long.
pub(super) const SIGNATURE_BYTES_MAX: usize = 64;
/// Size of an HMAC-SHA256, in bytes.
pub(super) const MAC_BYTES: usize = 32;

/// Secret that unknown senders are checked against, so that they cost as much as known ones. The result is discarded.
const NOBODY_SECRET: [u8; 32] = [0x5a; 32];
/// Public key for the same purpose: that of RFC 8032 §7.1, test 1.
const NOBODY_PUBLIC: [u8; 32] = [
    0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e,
    0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
];

/// A received signature, decoded.
pub(super) struct Mac {
    bytes: [u8; SIGNATURE_BYTES_MAX],
    len: usize,
}

impl Mac {
    /// Decodes a signature of 1 to `bytes_max` bytes. The decoder takes canonical base64 only: no whitespace, the
    /// alphabet's own padding rule, unused bits zero.
    pub(super) fn decode(alphabet: Base64, text: &[u8], bytes_max: usize) -> Option<Self> {
        let len = alphabet.decoded_length(text).ok()?;
        if !(1..=bytes_max.min(SIGNATURE_BYTES_MAX)).contains(&len) {
            return None;
        }
        let mut bytes = [0; SIGNATURE_BYTES_MAX];
        alphabet.decode(text, bytes.as_mut_slice().as_out()).ok()?;
        Some(Self { bytes, len })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Parts of the signing input of a JWS.
pub(super) struct SigningInput<'a> {
    /// Protected header as received, in base64url.
    pub(super) protected: &'a [u8],
    /// Record value.
    pub(super) value: &'a [u8],
}

impl SigningInput<'_> {
    /// Writes the signing input into `buffer`, whose capacity is reused.
    fn write<'b>(&self, buffer: &'b mut Vec<u8>) -> &'b [u8] {
        buffer.clear();
        buffer.extend_from_slice(self.protected);
        buffer.push(b'.');
        URL_SAFE_NO_PAD.encode_append(self.value, buffer);
        buffer
    }

    /// Whether `mac` is this input's HMAC-SHA256. Without a secret it does the same work and returns false.
    pub(super) fn hmac_matches(&self, secret: Option<&[u8]>, mac: &Mac, buffer: &mut Vec<u8>) -> bool {
        let input = self.write(buffer);
        let matches = keyed(secret.unwrap_or(&NOBODY_SECRET))
            .chain_update(input)
            .verify_slice(mac.as_bytes())
            .is_ok();
        matches && secret.is_some()
    }

    /// Whether `mac` is an Ed25519 signature of this input, by the strict rule (no small-order keys or points, RFC 8032
    /// §5.1.7 without the cofactor). Without a public key it does the same work and returns false.
    pub(super) fn ed25519_matches(&self, public: Option<&[u8]>, mac: &Mac, buffer: &mut Vec<u8>) -> bool {
        let input = self.write(buffer);
        let bytes = public
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or(&NOBODY_PUBLIC);
        let (Ok(key), Ok(signature)) = (
            VerifyingKey::from_bytes(bytes),
            Signature::from_slice(mac.as_bytes()),
        ) else {
            return false;
        };
        key.verify_strict(input, &signature).is_ok() && public.is_some()
    }
}

/// Writes the signing input of a webhook, `id "." timestamp "." body`, into `buffer`.
pub(super) fn webhook_input<'b>([id, timestamp, body]: [&[u8]; 3], buffer: &'b mut Vec<u8>) -> &'b [u8] {
    buffer.clear();
    for part in [id, b".", timestamp, b".", body] {
        buffer.extend_from_slice(part);
    }
    buffer
}

/// Whether one of the signatures is this input's HMAC-SHA256. Without a secret it does the same work and returns false.
pub(super) fn webhook_matches(secret: Option<&[u8]>, input: &[u8], signatures: &[[u8; MAC_BYTES]]) -> bool {
    let mac = keyed(secret.unwrap_or(&NOBODY_SECRET)).chain_update(input);
    let expected = mac.finalize().into_bytes();
    let matches = signatures.iter().fold(Choice::from(0), |matches, signature| {
        matches | expected.ct_eq(signature)
    });
    bool::from(matches) && secret.is_some()
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    // HMAC takes a key of any length, so the other arm never runs; its zero key would match no device's signature.
    Hmac::new_from_slice(secret).unwrap_or_else(|_| Hmac::new(&Default::default()))
}
