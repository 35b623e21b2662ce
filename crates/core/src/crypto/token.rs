//! Tokens: what stands for a subject, a device or a tagged value outside the gate.
//!
//! `B64URL(HMAC-SHA256(tenant token key, ctx{id, purpose, salt})[..16])`, without padding. The same id under the same
//! salt gives the same token, so that analytics can join; when the salt is shredded nothing links it any more.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::envelope::TooLong;
use super::keys::Key32;

/// Characters of a token: 16 bytes in base64url.
pub const TOKEN_BYTES: usize = 22;

/// A token, as ASCII.
pub type Token = [u8; TOKEN_BYTES];

/// The random bytes that a subject's or a device's tokens hang on. They lie beside the wrapped key in the vault and
/// die with it.
pub type Salt = [u8; 16];

/// Purpose of a subject's own token.
pub const SUBJECT: &str = "subject";
/// Purpose of a device's token.
pub const DEVICE: &str = "device";

/// A tenant's token key, with both HMAC blocks absorbed already. Zeroized on drop.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl TokenKey {
    /// Absorbs the key.
    #[must_use]
    pub fn new(key: &Key32) -> Self {
        Self(mac(key))
    }

    /// The token of `id`. `purpose` is [`SUBJECT`], [`DEVICE`] or the path of a tagged field, so that equal values in
    /// different fields do not get equal tokens. `ctx` is the serialisation of [`super::envelope::write_context`].
    ///
    /// # Errors
    /// [`TooLong`] where a part does not fit its 16-bit length.
    pub fn token(&self, purpose: &str, salt: &Salt, id: &[u8]) -> Result<Token, TooLong> {
        let mut mac = self.0.clone();
        mac.update(&3_u16.to_be_bytes());
        for (name, value) in [("id", id), ("purpose", purpose.as_bytes()), ("salt", salt)] {
            part(&mut mac, name.as_bytes())?;
            part(&mut mac, value)?;
        }
        let digest = mac.finalize().into_bytes();
        let mut token = [0; TOKEN_BYTES];
        // 16 bytes are 22 characters: the buffer always suffices.
        let written = URL_SAFE_NO_PAD.encode_slice(&digest[..16], &mut token);
        debug_assert_eq!(written, Ok(TOKEN_BYTES));
        Ok(token)
    }
}

fn part(mac: &mut Hmac<Sha256>, bytes: &[u8]) -> Result<(), TooLong> {
    let length = u16::try_from(bytes.len()).map_err(|_| TooLong { bytes: bytes.len() })?;
    mac.update(&length.to_be_bytes());
    mac.update(bytes);
    Ok(())
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey([redacted])")
    }
}

/// A keyed index of an id: what the vault's rows are found by, so that no table holds an id in clear. Zeroized on drop.
#[derive(Clone)]
pub struct LookupKey(Hmac<Sha256>);

/// What a subject's row is found by.
pub type Lookup = [u8; 16];

impl LookupKey {
    /// Absorbs the key.
    #[must_use]
    pub fn new(key: &Key32) -> Self {
        Self(mac(key))
    }

    /// The first 16 bytes of `HMAC-SHA256(lookup key, id)`: no two of a tenant's ids share one.
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
    // A 32-byte key is shorter than a block, so this form takes it as it is.
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
    fn a_token_is_what_the_contract_says() {
        let token = key().token(SUBJECT, &[2; 16], b"patient-1").expect("short");
        assert_eq!(std::str::from_utf8(&token), Ok("IVKVu5nsdVETPpchg4CC1w"));
    }

    #[test]
    fn purpose_salt_and_id_each_change_it() {
        let of = |purpose, salt, id| key().token(purpose, &[salt; 16], id).expect("short");
        let token = of(SUBJECT, 2, b"a");
        assert_eq!(token, of(SUBJECT, 2, b"a"));
        assert_ne!(token, of(DEVICE, 2, b"a"));
        assert_ne!(token, of(SUBJECT, 3, b"a"));
        assert_ne!(token, of(SUBJECT, 2, b"b"));
        assert!(key().token(SUBJECT, &[2; 16], &[0; 65_536]).is_err());
    }

    #[test]
    fn a_lookup_tells_ids_and_tenants_apart() {
        let one = LookupKey::new(&Key32::random([1; 32]));
        let other = LookupKey::new(&Key32::random([2; 32]));
        assert_eq!(one.lookup(b"a"), one.lookup(b"a"));
        assert_ne!(one.lookup(b"a"), one.lookup(b"b"));
        assert_ne!(one.lookup(b"a"), other.lookup(b"a"));
    }
}
