//! The key encryption key: the one secret that stays outside every database.

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use super::envelope::FieldKey;
use super::key::{Commitment, Key32, WRAPPING_KEY_ID};

/// Source of the KEK. The contract also names AWS KMS and Vault transit, which would be further kinds of [`Source`].
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `environment` (the default): base64 in `PHI_MASTER_KEY`. `file`: the key file at the path `file`.
    pub source: Source,
    /// Path of the key file: 32 raw bytes, or their base64. Outside `local`, other users must not be able to read it.
    pub file: Option<PathBuf>,
}

/// Kind of source of the KEK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The environment variable `PHI_MASTER_KEY`, 32 bytes in base64.
    #[default]
    Environment,
    /// The file that `file` names.
    File,
}

/// Why bytes are not a valid KEK, or not that of the vault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KekError {
    /// The bytes are neither 32 raw bytes nor the base64 of 32 bytes.
    #[error(
        "a KEK must be 32 random bytes, raw or in base64 (44 characters); generate one with `openssl rand -base64 32`"
    )]
    Malformed,
    /// The bytes are 32 characters of text: a passphrase, not a key.
    #[error(
        "a KEK must be 32 random bytes, not 32 characters of text; generate one with `openssl rand -base64 32`"
    )]
    Text,
    /// The key is not the KEK that the vault was made with.
    #[error(
        "the key is KEK {found}, but the vault was made with KEK {expected}: nothing was read or written; provide KEK {expected}"
    )]
    Wrong {
        /// Id of the key that was provided.
        found: String,
        /// Id of the vault's KEK.
        expected: String,
    },
}

/// The key encryption key: wraps only the tenants' branch keys. Zeroized on drop.
pub struct Kek {
    wrapping: FieldKey,
    id: String,
    commitment: Commitment,
}

impl Kek {
    /// Parses the content of a key file or of `PHI_MASTER_KEY`: 32 raw bytes, or their base64 (a newline may follow).
    ///
    /// # Errors
    /// [`KekError::Malformed`] or [`KekError::Text`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KekError> {
        if let Ok(raw) = <[u8; 32]>::try_from(bytes) {
            if bytes
                .iter()
                .all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n'))
            {
                return Err(KekError::Text);
            }
            return Ok(Self::from_key(&Key32::random(raw)));
        }
        let mut decoded = Zeroizing::new([0; 33]);
        match STANDARD.decode_slice(bytes.trim_ascii(), decoded.as_mut_slice()) {
            Ok(32) => {
                let mut key = [0; 32];
                key.copy_from_slice(&decoded[..32]);
                Ok(Self::from_key(&Key32::random(key)))
            }
            _ => Err(KekError::Malformed),
        }
    }

    fn from_key(key: &Key32) -> Self {
        let id = key.derive("kek id");
        let id = id.bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            wrapping: FieldKey::new(WRAPPING_KEY_ID, key.derive("kek wrapping")),
            id,
            commitment: key.commitment(),
        }
    }

    /// Public id of the key, for the vault's KEK table and messages: 16 hexadecimal digits that reveal nothing of it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Commitment that the vault stores beside the id, to detect a wrong KEK before anything is opened or written.
    #[must_use]
    pub const fn commitment(&self) -> &Commitment {
        &self.commitment
    }

    /// Checks this key against the vault's KEK row.
    ///
    /// # Errors
    /// [`KekError::Wrong`] if it is another key.
    pub fn check(&self, id: &str, commitment: &[u8]) -> Result<(), KekError> {
        if self.id == id && bool::from(self.commitment.as_slice().ct_eq(commitment)) {
            return Ok(());
        }
        Err(KekError::Wrong {
            found: self.id.clone(),
            expected: id.to_owned(),
        })
    }

    /// Key that wraps branch keys.
    pub(super) const fn wrapping(&self) -> &FieldKey {
        &self.wrapping
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kek({}, [redacted])", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: [u8; 32] = [0xA5; 32];

    #[test]
    fn raw_and_base64_are_the_same_key() {
        let raw = Kek::from_bytes(&RAW).expect("raw");
        let mut text = STANDARD.encode(RAW);
        text.push('\n');
        let base64 = Kek::from_bytes(text.as_bytes()).expect("base64");
        assert_eq!(raw.id(), base64.id());
        assert_eq!(raw.id().len(), 16);
        assert_eq!(raw.check(base64.id(), base64.commitment()), Ok(()));
    }

    #[test]
    fn an_invalid_key_is_refused() {
        for bytes in [
            &b""[..],
            &[0xA5; 31],
            &[0xA5; 33],
            b"not base64 at all, but long enough!!!",
            STANDARD.encode([1; 31]).as_bytes(),
        ] {
            assert_eq!(Kek::from_bytes(bytes).err(), Some(KekError::Malformed));
        }
        assert_eq!(
            Kek::from_bytes(b"correct horse battery staple 123").err(),
            Some(KekError::Text)
        );
    }

    #[test]
    fn another_key_is_refused_by_its_id() {
        let mine = Kek::from_bytes(&RAW).expect("raw");
        let vaults = Kek::from_bytes(&[0xA6; 32]).expect("raw");
        let error = mine
            .check(vaults.id(), vaults.commitment())
            .expect_err("another key");
        assert!(error.to_string().contains(vaults.id()), "{error}");
        assert!(mine.check(mine.id(), vaults.commitment()).is_err());
        assert!(mine.check(mine.id(), &[]).is_err());
    }
}
