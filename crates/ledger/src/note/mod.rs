//! Signed checkpoints of the audit log: [signed notes](https://c2sp.org/signed-note) whose text is a
//! [checkpoint](https://c2sp.org/tlog-checkpoint), so any tool of that family can read and verify them.
//!
//! A checkpoint carries two Ed25519 signatures of one key under the name of its origin. The first (type `0x01`) covers
//! the text, and is the same for the same tree. The second is a [cosignature](https://c2sp.org/tlog-cosignature) (type
//! `0x04`), which adds the time: the age of its newest checkpoint reveals a log that was reset to an older state.
//!
//! The crate `signed_note` covers the first signature; it is not used because it does not verify strictly (RFC 8032
//! permits that), does not wipe private keys from memory, and adds second versions of Ed25519, SHA-2 and base64. A test
//! compares the two.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature as Ed25519Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::merkle::Hash;

/// Maximum size of a note, in bytes: sixteen post-quantum signatures, which every reader must accept, take half of it.
pub const NOTE_BYTES_MAX: usize = 256 * 1024;

/// Maximum number of signatures on a note.
pub const SIGNATURES_MAX: usize = 64;

/// Type of a plain Ed25519 signature over the text.
const PLAIN: u8 = 0x01;
/// Type of a timestamped Ed25519 cosignature.
const TIMESTAMPED: u8 = 0x04;

/// Why a note or checkpoint cannot be used. The text quotes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoteError {
    /// The note exceeds a limit.
    #[error("the note is larger than {NOTE_BYTES_MAX} bytes or has more than {SIGNATURES_MAX} signatures")]
    TooLarge,
    /// The note does not have the required format.
    #[error("not a signed checkpoint: {0}")]
    Malformed(&'static str),
    /// No trusted key signed the checkpoint.
    #[error("the checkpoint is not signed by a trusted key")]
    UnknownKey,
    /// A signature names a trusted key, but that key did not sign this text.
    #[error("invalid signature: it is not from the key that it names, or the text was changed")]
    BadSignature,
}

/// A text with signatures, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signature {
    name: String,
    key_id: u32,
    bytes: Vec<u8>,
}

impl Note {
    /// Parses a note.
    ///
    /// # Errors
    /// [`NoteError::TooLarge`] and [`NoteError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLarge);
        }
        let note = std::str::from_utf8(bytes).map_err(|_| NoteError::Malformed("the note is not UTF-8"))?;
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(NoteError::Malformed("the note has control characters"));
        }
        let (text, lines) = note.rsplit_once("\n\n").ok_or(NoteError::Malformed(
            "the empty line before the signatures is missing",
        ))?;
        let lines = lines
            .strip_suffix('\n')
            .ok_or(NoteError::Malformed("the newline at the end is missing"))?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            if signatures.len() == SIGNATURES_MAX {
                return Err(NoteError::TooLarge);
            }
            signatures.push(Signature::parse(line)?);
        }
        Ok(Self {
            text: format!("{text}\n"),
            signatures,
        })
    }

    /// Returns the checkpoint if one of `keys` signed it and no signature that names one of them is invalid.
    ///
    /// # Errors
    /// Every [`NoteError`].
    pub fn open(&self, keys: &[PublicKey]) -> Result<Signed, NoteError> {
        let checkpoint = Checkpoint::parse(&self.text)?;
        let mut signed = None;
        for signature in self
            .signatures
            .iter()
            .filter(|line| line.name == checkpoint.origin)
        {
            let Some(found) = signature.verify(&self.text, keys) else {
                continue;
            };
            let signed_s: &mut Option<u64> = signed.get_or_insert_default();
            *signed_s = (*signed_s).max(found?);
        }
        let signed_s = signed.ok_or(NoteError::UnknownKey)?;
        Ok(Signed { checkpoint, signed_s })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for Signature { name, key_id, bytes } in &self.signatures {
            let encoded = STANDARD.encode([&key_id.to_be_bytes(), bytes.as_slice()].concat());
            writeln!(f, "\u{2014} {name} {encoded}")?;
        }
        Ok(())
    }
}

impl Signature {
    fn parse(line: &str) -> Result<Self, NoteError> {
        let malformed = NoteError::Malformed("a line after the last empty line is not a signature");
        let (name, encoded) = line
            .strip_prefix("\u{2014} ")
            .and_then(|line| line.split_once(' '))
            .ok_or(malformed)?;
        let decoded = STANDARD.decode(encoded).map_err(|_| malformed)?;
        match decoded.split_first_chunk() {
            Some((key_id, bytes)) if !bytes.is_empty() && is_name(name) => Ok(Self {
                name: name.to_owned(),
                key_id: u32::from_be_bytes(*key_id),
                bytes: bytes.to_vec(),
            }),
            _ => Err(malformed),
        }
    }

    /// Verifies the signature: `None` if it names none of `keys`, else the time of signing if it is timestamped.
    fn verify(&self, text: &str, keys: &[PublicKey]) -> Option<Result<Option<u64>, NoteError>> {
        let names = |key: &PublicKey, kind| key.id(&self.name, kind) == self.key_id;
        let found = |kind| keys.iter().find(|key| names(key, kind));
        if let Some(key) = found(PLAIN) {
            return Some(key.check(text, &self.bytes).map(|()| None));
        }
        let key = found(TIMESTAMPED)?;
        let Some((time, signature)) = self.bytes.split_first_chunk() else {
            return Some(Err(NoteError::BadSignature));
        };
        let signed_s = u64::from_be_bytes(*time);
        let checked = key.check(&timestamped(text, signed_s), signature);
        Some(checked.map(|()| Some(signed_s)))
    }
}

/// Signing input of a cosignature.
fn timestamped(text: &str, signed_s: u64) -> String {
    format!("cosignature/v1\ntime {signed_s}\n{text}")
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('+') && !name.contains(char::is_whitespace)
}

/// The head of a log: its size and its Merkle root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log: a URL without scheme. It is also the name of the signing key.
    pub origin: String,
    /// Number of entries in the log.
    pub size: u64,
    /// RFC 6962 Merkle root over the entries.
    pub root: Hash,
}

/// A checkpoint that a trusted key has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The signed checkpoint.
    pub checkpoint: Checkpoint,
    /// Time of signing, in seconds of POSIX time; `None` without a cosignature.
    pub signed_s: Option<u64>,
}

impl Checkpoint {
    /// Text that is signed.
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Parses the text of a note. Extension lines are signed with the rest and are ignored here.
    fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.split_terminator('\n');
        let mut line = |missing| lines.next().ok_or(NoteError::Malformed(missing));
        let origin = line("the origin is missing")?;
        let number = line("the tree size is missing")?;
        let encoded = line("the root hash is missing")?;
        if origin.is_empty() || lines.any(str::is_empty) {
            return Err(NoteError::Malformed("the text has an empty line"));
        }
        let size = number
            .parse::<u64>()
            .ok()
            .filter(|size| size.to_string() == number);
        let root = STANDARD.decode(encoded).ok();
        Ok(Self {
            origin: origin.to_owned(),
            size: size.ok_or(NoteError::Malformed("the tree size is not a decimal number"))?,
            root: root
                .and_then(|root| root.try_into().ok())
                .ok_or(NoteError::Malformed("the root hash is not 32 bytes in base64"))?,
        })
    }
}

/// The key that signs checkpoints. Zeroized on drop and redacted in `Debug` output.
pub struct LogKey(SigningKey);

impl LogKey {
    /// Creates the key from the 32 bytes of an Ed25519 private key (RFC 8032).
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public key that verifies its signatures.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs a checkpoint with the time `signed_s`, in seconds of POSIX time.
    ///
    /// # Errors
    /// [`NoteError::Malformed`] if the origin is not a valid key name.
    pub fn sign(&self, checkpoint: &Checkpoint, signed_s: u64) -> Result<Note, NoteError> {
        let origin = &checkpoint.origin;
        if !is_name(origin) || origin.contains(char::is_control) {
            return Err(NoteError::Malformed(
                "the origin must not be empty or have whitespace, control characters or a plus sign",
            ));
        }
        let text = checkpoint.text();
        let signature = |kind, bytes| Signature {
            name: origin.clone(),
            key_id: self.public().id(origin, kind),
            bytes,
        };
        let plain = self.0.sign(text.as_bytes()).to_bytes().to_vec();
        let dated = self.0.sign(timestamped(&text, signed_s).as_bytes());
        let dated = [signed_s.to_be_bytes().as_slice(), &dated.to_bytes()].concat();
        Ok(Note {
            text,
            signatures: vec![signature(PLAIN, plain), signature(TIMESTAMPED, dated)],
        })
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogKey([redacted])")
    }
}

/// The public key that verifies checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Parses the 32 bytes of RFC 8032; `None` if they are not a point of the curve, or one that anyone can sign for.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok()?;
        (!key.is_weak()).then_some(Self(key))
    }

    /// Encodes the key as the 32 bytes of RFC 8032.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The verifier key `<name>+<key id>+<key>` for the log `origin`, as other tools of the family expect it.
    #[must_use]
    pub fn verifier_key(&self, origin: &str) -> String {
        let key = STANDARD.encode([&[PLAIN], self.0.as_bytes().as_slice()].concat());
        format!("{origin}+{:08x}+{key}", self.id(origin, PLAIN))
    }

    fn id(&self, name: &str, kind: u8) -> u32 {
        let digest = Sha256::new()
            .chain_update(name)
            .chain_update([b'\n', kind])
            .chain_update(self.0.as_bytes())
            .finalize();
        digest
            .iter()
            .take(4)
            .fold(0, |id, byte| id << 8 | u32::from(*byte))
    }

    fn check(&self, text: &str, signature: &[u8]) -> Result<(), NoteError> {
        Ed25519Signature::from_slice(signature)
            .and_then(|signature| self.0.verify_strict(text.as_bytes(), &signature))
            .map_err(|_| NoteError::BadSignature)
    }
}

#[cfg(test)]
mod tests;
