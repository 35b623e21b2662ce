//! Tokens: the pseudonyms of subjects, devices and tagged values outside the gate.
//!
//! `B64URL(HMAC-SHA256(tenant token key, ctx{id, purpose, salt})[..16])`, without padding. The same id under the same
//! salt gives the same token, so that analytics can join; once the salt is shredded, nothing links them any more.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::context::{TooLong, feed_context};
use super::key::Key32;

/// Length of a token in characters: 16 bytes in unpadded base64url.
pub const TOKEN_BYTES: usize = 22;

/// A token, in ASCII.
pub type Token = [u8; TOKEN_BYTES];

/// Random bytes that a subject's or a device's tokens depend on. The vault stores them beside the wrapped key and
/// shreds them with it.
pub type Salt = [u8; 16];

/// Purpose of the token of a subject.
pub const SUBJECT: &str = "subject";
/// Purpose of the token of a device.
pub const DEVICE: &str = "device";

/// Token key of a tenant, with both HMAC blocks precomputed. Zeroized on drop.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl TokenKey {
    /// Precomputes the HMAC blocks of the key.
    #[must_use]
    pub fn new(key: &Key32) -> Self {
        Self(mac(key))
    }

    /// Token of `id`. `purpose` is [`SUBJECT`], [`DEVICE`] or the path of a tagged field, so that equal values in
    /// different fields do not get equal tokens. `ctx` is the serialisation of [`super::context::write_context`].
    ///
    /// # Errors
    /// [`TooLong`] if a part does not fit its 16-bit length.
    pub fn token(&self, purpose: &str, salt: &Salt, id: &[u8]) -> Result<Token, TooLong> {
        let mut mac = self.0.clone();
        let pairs = [("id", id), ("purpose", purpose.as_bytes()), ("salt", &salt[..])];
        feed_context(pairs, &mut |bytes| mac.update(bytes))?;
        let digest = mac.finalize().into_bytes();
        let mut token = [0; TOKEN_BYTES];
        // 16 bytes are 22 characters, so the buffer always suffices.
        let written = URL_SAFE_NO_PAD.encode_slice(&digest[..16], &mut token);
        debug_assert_eq!(written, Ok(TOKEN_BYTES));
        Ok(token)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey([redacted])")
    }
}

/// Key of the index that the vault finds rows by, so that no table holds an id in clear. Zeroized on drop.
#[derive(Clone)]
pub struct LookupKey(Hmac<Sha256>);

/// Keyed hash that a subject's rows are found by.
pub type Lookup = [u8; 16];

impl LookupKey {
    /// Precomputes the HMAC blocks of the key.
    #[must_use]
    pub fn new(key: &Key32) -> Self {
        Self(mac(key))
    }

    /// Lookup of an id: the first 16 bytes of `HMAC-SHA256(lookup key, id)`, unique among a tenant's ids.
    #[must_use]
    pub fn lookup(&self, id: &[u8]) -> Lookup {
        let digest = self.0.clone().chain_update(id).finalize().into_bytes();
        let mut lookup = [0; 16];
        lookup.copy_from_slice(&digest[..16]);
        lookup
    }
}

impl fmt::Debug for LookupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LookupKey([redacted])")
    }
}

fn mac(key: &Key32) -> Hmac<Sha256> {
    // A 32-byte key is shorter than a block, so HMAC pads it with zeros and does not hash it.
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key.bytes());
    Hmac::new((&*block).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        TokenKey::new(&Key32::random([1; 32]))
    }

    /// Computed by hand-written Python: `hmac.new(bytes([1])*32, ctx, "sha256")` over the serialised context.
    #[test]
    fn a_token_is_computed_as_the_contract_says() {
        let token = key().token(SUBJECT, &[2; 16], b"patient-1").expect("short");
        assert_eq!(std::str::from_utf8(&token), Ok("IVKVu5nsdVETPpchg4CC1w"));
    }

    #[test]
    fn purpose_salt_and_id_each_change_the_token() {
        let of = |purpose, salt, id| key().token(purpose, &[salt; 16], id).expect("short");
        let token = of(SUBJECT, 2, b"a");
        assert_eq!(token, of(SUBJECT, 2, b"a"));
        assert_ne!(token, of(DEVICE, 2, b"a"));
        assert_ne!(token, of(SUBJECT, 3, b"a"));
        assert_ne!(token, of(SUBJECT, 2, b"b"));
        assert!(key().token(SUBJECT, &[2; 16], &[0; 65_536]).is_err());
    }

    #[test]
    fn lookups_differ_by_id_and_by_tenant() {
        let one = LookupKey::new(&Key32::random([1; 32]));
        let other = LookupKey::new(&Key32::random([2; 32]));
        assert_eq!(one.lookup(b"a"), one.lookup(b"a"));
        assert_ne!(one.lookup(b"a"), one.lookup(b"b"));
        assert_ne!(one.lookup(b"a"), other.lookup(b"a"));
    }
}
