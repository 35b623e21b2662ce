//! The `jws` profile: one header with a detached JSON Web Signature (RFC 7515, appendix F).
//!
//! `x-jws-signature` = `BASE64URL(protected) ".." BASE64URL(signature)`. The signing input is
//! `BASE64URL(protected) "." BASE64URL(record value)` (RFC 7515 §5.1), over the bytes as received.

use base64_simd::{AsOut, URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::mac::{Mac, SIGNATURE_BYTES_MAX, SigningInput};

/// Maximum length of the decoded protected header, in bytes.
pub(super) const PROTECTED_BYTES_MAX: usize = 512;

/// The protected header: exactly these members, each once, each without an escape, in any order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Protected<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
    aud: &'a str,
    iat: i64,
    jti: &'a str,
}

/// A parsed header, not yet verified.
pub(super) struct Claim<'a> {
    pub(super) algorithm: ClaimedAlgorithm,
    pub(super) kid: &'a str,
    pub(super) audience: &'a str,
    pub(super) issued_s: i64,
    pub(super) boot: u64,
    pub(super) number: u64,
    pub(super) input: SigningInput<'a>,
    pub(super) mac: Mac,
}

/// Algorithm that `alg` claims.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimedAlgorithm {
    HmacSha256,
    /// `Ed25519` (RFC 9864) or the older `EdDSA` (RFC 8037).
    Ed25519,
    /// Anything else, including `none`: no key is pinned to it.
    Other,
}

/// Parses the header. `None` is `malformed_signature`.
pub(super) fn parse<'a>(
    header: &'a [u8],
    value: &'a [u8],
    decoded: &'a mut [u8; PROTECTED_BYTES_MAX],
) -> Option<Claim<'a>> {
    // The last dot is the nearer one; a third dot would fail to decode as base64.
    let last = memchr::memrchr(b'.', header)?;
    let protected = header[..last].strip_suffix(b".")?;
    let signature = &header[last + 1..];
    let mac = Mac::decode(URL_SAFE_NO_PAD, signature, SIGNATURE_BYTES_MAX)?;
    if URL_SAFE_NO_PAD.decoded_length(protected).ok()? > PROTECTED_BYTES_MAX {
        return None;
    }
    let decoded: &'a [u8] = URL_SAFE_NO_PAD
        .decode(protected, decoded.as_mut_slice().as_out())
        .ok()?;
    let decoded = std::str::from_utf8(decoded).ok()?;
    // serde would accept an array of the six values as the object, and an escaped name as the name.
    if !decoded.trim_ascii_start().starts_with('{') || memchr::memchr(b'\\', decoded.as_bytes()).is_some() {
        return None;
    }
    let header: Protected<'a> = serde_json::from_str(decoded).ok()?;
    if header.typ != "bio+jws" {
        return None;
    }
    let (boot, number) = header.jti.split_once('-')?;
    Some(Claim {
        algorithm: match header.alg {
            "HS256" => ClaimedAlgorithm::HmacSha256,
            "Ed25519" | "EdDSA" => ClaimedAlgorithm::Ed25519,
            _ => ClaimedAlgorithm::Other,
        },
        kid: header.kid,
        audience: header.aud,
        issued_s: header.iat,
        boot: canonical_decimal(boot.as_bytes())?,
        number: canonical_decimal(number.as_bytes())?,
        input: SigningInput { protected, value },
        mac,
    })
}

/// Parses an unsigned integer in its only decimal form: no sign, no leading zero.
pub(super) fn canonical_decimal(digits: &[u8]) -> Option<u64> {
    match digits {
        [] => None,
        [b'0', _, ..] => None,
        _ => digits.iter().try_fold(0_u64, |number, digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        }),
    }
}
