//! A 256-bit key, what is derived from it, and its commitment.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Key commitment, `HKDF(key, "commit")`: AES-GCM alone does not commit to its key, so this is stored beside every
/// wrapped key and checked when it is unwrapped.
pub type Commitment = [u8; 32];

/// A wrapping key needs no id of its own: the place of a row determines the key.
pub(super) const WRAPPING_KEY_ID: u32 = 0;

/// A 256-bit key. Zeroized on drop and redacted in `Debug` output.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Key32([u8; 32]);

impl Key32 {
    /// Creates a key from 32 bytes of the operating system's random source.
    #[must_use]
    pub const fn random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key that was wrapped.
    pub(super) const fn unwrapped(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Derives the key for a purpose: `HKDF-SHA256(salt = none, key, "pulsegate/" ‖ purpose)`.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Self {
        let mut out = [0; 32];
        let expanded = Hkdf::<Sha256>::new(None, &self.0)
            .expand_multi_info(&[b"pulsegate/", purpose.as_bytes()], &mut out);
        // HKDF-SHA256 yields up to 8160 bytes; 32 are requested.
        debug_assert!(expanded.is_ok());
        Self(out)
    }

    /// The public commitment to this key.
    #[must_use]
    pub fn commitment(&self) -> Commitment {
        self.derive("commit").0
    }

    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key32([redacted])")
    }
}
