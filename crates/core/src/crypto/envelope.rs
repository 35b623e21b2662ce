//! Sealed fields: Tink's AEAD wire format, bound to their place by an AWS Encryption SDK encryption context.
//!
//! `0x01 ‖ key id (u32, big endian) ‖ IV[12] ‖ ciphertext ‖ tag[16]`, AES-256-GCM
//! (Tink, "Wire format", `TINK` output prefix). Stock Tink opens it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use aes_gcm::aead::consts::U12;
use aes_gcm::{AeadInOut, AesGcm, KeyInit, aes::Aes256Enc};
use thiserror::Error;
use zeroize::Zeroizing;

use super::context::write_text;
pub use super::context::{TooLong, write_context};
use super::key::Key32;
use super::token::{TOKEN_BYTES, Token};

/// First byte of all sealed bytes (Tink's `TINK` output prefix).
pub const VERSION: u8 = 0x01;
/// Number of bytes before the ciphertext: version, key id and IV.
pub const HEADER_BYTES: usize = 1 + 4 + 12;
/// Number of bytes of the authentication tag after the ciphertext.
pub const TAG_BYTES: usize = 16;
/// Number of bytes by which sealed bytes are longer than the plaintext.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;
/// Maximum number of encryptions under one key with random 96-bit IVs (NIST SP 800-38D §8.3).
pub const SEALS_MAX: u64 = 1 << 32;

/// A 96-bit IV from the operating system's random source. Sealing consumes it, so it is used once.
pub struct Nonce([u8; 12]);

impl Nonce {
    /// Creates an IV from twelve fresh random bytes. The caller guarantees that they are used nowhere else.
    #[must_use]
    pub const fn from_random(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }
}

/// The key has sealed [`SEALS_MAX`] times and seals no more. A fault of the gate, which should have rotated it long
/// before, never of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("data key {key_id} has reached 2^32 encryptions and seals no more; rotate it in the vault")]
pub struct Exhausted {
    /// Id of the key.
    pub key_id: u32,
}

/// Why sealed bytes could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The text is not standard base64 with padding, as a JSON field requires.
    #[error("not a sealed field: invalid standard base64 (RFC 4648 §4)")]
    Base64,
    /// The bytes are shorter than a sealed empty plaintext.
    #[error("not a sealed field: {bytes} bytes are too short, the minimum is {OVERHEAD_BYTES}")]
    TooShort {
        /// Number of bytes.
        bytes: usize,
    },
    /// The first byte is not [`VERSION`].
    #[error("not a sealed field: the first byte is {found:#04x}, expected {VERSION:#04x}")]
    Version {
        /// First byte.
        found: u8,
    },
    /// The bytes are sealed under another key than the one that was tried.
    #[error("sealed under key {found}, not under key {expected}")]
    KeyId {
        /// Key id in the sealed bytes.
        found: u32,
        /// Id of the key that was tried.
        expected: u32,
    },
    /// The tag does not match: the wrong key, altered bytes, or a ciphertext moved from its place.
    #[error(
        "authentication failed: wrong key, altered, or moved from another field, subject, event or topic"
    )]
    Refused,
}

// Only the encryption key schedule of AES is expanded: GCM uses the forward cipher in both directions.
type Cipher = AesGcm<Aes256Enc, U12>;

/// An AES-256-GCM key with its id and its use count. Zeroized on drop.
///
/// It is stored as 32 bytes and expanded anew for each event: with 10,000 subjects in random order the expanded keys
/// (400 bytes each) exceed the processor's cache, and fetching one costs about as much as expanding it. Three fields
/// an event with AAD and base64, ns of CPU, best of seven runs on a busy EPYC with AES-NI, so read the ratios: 10,000
/// expanded keys 804, or 802 with `-C target-feature=+aes,+pclmulqdq,+avx,+sha`; 10,000 keys expanded anew 751, or 560.
/// `benches/seal.rs` repeats the measurement.
pub struct FieldKey {
    key_id: u32,
    key: Key32,
    seals: AtomicU64,
}

impl FieldKey {
    /// A key that has not sealed anything yet.
    #[must_use]
    pub const fn new(key_id: u32, key: Key32) -> Self {
        Self::with_seals(key_id, key, 0)
    }

    /// A key that has sealed `seals` times, the use count of its vault row.
    #[must_use]
    pub const fn with_seals(key_id: u32, key: Key32, seals: u64) -> Self {
        Self {
            key_id,
            key,
            seals: AtomicU64::new(seals),
        }
    }

    /// Id that is written into everything sealed under this key.
    #[must_use]
    pub const fn key_id(&self) -> u32 {
        self.key_id
    }

    /// Number of encryptions under this key, as far as this process knows.
    #[must_use]
    pub fn seals(&self) -> u64 {
        self.seals.load(Ordering::Relaxed)
    }

    /// Expands the key, to seal or open one or more fields.
    #[must_use]
    pub fn expand(&self) -> Expanded<'_> {
        Expanded {
            owner: self,
            cipher: Cipher::new(self.key.bytes().into()),
        }
    }
}

/// An expanded key. Zeroized on drop.
pub struct Expanded<'k> {
    owner: &'k FieldKey,
    cipher: Cipher,
}

impl Expanded<'_> {
    /// Seals `plaintext` and appends the sealed bytes to `out`. `aad` is the serialised [`Context`].
    ///
    /// # Errors
    /// [`Exhausted`] at [`SEALS_MAX`]; `out` is then unchanged.
    pub fn seal_into(
        &self,
        nonce: Nonce,
        aad: &[u8],
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Exhausted> {
        let key_id = self.owner.key_id;
        // The count grows by one per seal, so it cannot reach 2^64 and wrap around the limit.
        if self.owner.seals.fetch_add(1, Ordering::Relaxed) >= SEALS_MAX {
            return Err(Exhausted { key_id });
        }
        let start = out.len();
        out.reserve(plaintext.len() + OVERHEAD_BYTES);
        out.push(VERSION);
        out.extend_from_slice(&key_id.to_be_bytes());
        out.extend_from_slice(&nonce.0);
        out.extend_from_slice(plaintext);
        let body = &mut out[start + HEADER_BYTES..];
        // The cipher refuses only plaintexts beyond 64 GiB; the truncation leaves no plaintext in `out`.
        let Ok(tag) = self
            .cipher
            .encrypt_inout_detached(&nonce.0.into(), aad, body.into())
        else {
            out.truncate(start);
            return Err(Exhausted { key_id });
        };
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// Opens sealed bytes with this key only; stock Tink would also try keys without a prefix.
    ///
    /// # Errors
    /// [`OpenError`]; no plaintext is returned unless the tag matches.
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (found, expected) = (key_id_of(sealed)?, self.owner.key_id);
        if found != expected {
            return Err(OpenError::KeyId { found, expected });
        }
        let (header, rest) = sealed.split_at(HEADER_BYTES);
        let (ciphertext, tag) = rest.split_at(rest.len() - TAG_BYTES);
        let refused = |_| OpenError::Refused;
        let nonce: [u8; 12] = header[5..].try_into().map_err(refused)?;
        let tag: [u8; TAG_BYTES] = tag.try_into().map_err(refused)?;
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        self.cipher
            .decrypt_inout_detached(&nonce.into(), aad, plaintext.as_mut_slice().into(), &tag.into())
            .map_err(|_| OpenError::Refused)?;
        Ok(plaintext)
    }
}

impl fmt::Debug for Expanded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.owner.fmt(f)
    }
}

impl fmt::Debug for FieldKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldKey({}, [redacted])", self.key_id)
    }
}

/// The key id that `sealed` names, not yet authenticated.
///
/// # Errors
/// [`OpenError::TooShort`] or [`OpenError::Version`] if the bytes are not sealed bytes.
pub fn key_id_of(sealed: &[u8]) -> Result<u32, OpenError> {
    if sealed.len() < OVERHEAD_BYTES {
        return Err(OpenError::TooShort { bytes: sealed.len() });
    }
    match sealed {
        [VERSION, a, b, c, d, ..] => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        [found, ..] => Err(OpenError::Version { found: *found }),
        [] => Err(OpenError::TooShort { bytes: 0 }),
    }
}

/// Decodes the sealed bytes of a JSON field: standard base64 with padding, canonical form only.
///
/// # Errors
/// [`OpenError::Base64`].
pub fn from_base64(text: &str) -> Result<Vec<u8>, OpenError> {
    base64_simd::STANDARD
        .decode_to_vec(text)
        .map_err(|_| OpenError::Base64)
}

/// The AAD of a sealed field, `{env, event, field, subject, topic}`, written in place: parts that all records share are
/// written once, parts that all fields of a record share once per record.
#[derive(Debug)]
pub struct Context {
    /// `count ‖ env ‖ "event"`, then the event id, then `"field"`, then the path and the tail.
    buffer: Vec<u8>,
    /// Offset of the event id's length.
    event_at: usize,
    /// `"subject" ‖ token ‖ "topic" ‖ topic`.
    tail: Vec<u8>,
    /// Offset of the token in the tail.
    token_at: usize,
}

impl Context {
    /// Creates the context of fields in records of `topic` in `environment`.
    ///
    /// # Errors
    /// [`TooLong`] if a name exceeds 65,535 bytes.
    pub fn new(environment: &str, topic: &str) -> Result<Self, TooLong> {
        let mut buffer = vec![0, 5];
        write_text(b"env", &mut buffer)?;
        write_text(environment.as_bytes(), &mut buffer)?;
        write_text(b"event", &mut buffer)?;
        let event_at = buffer.len();
        let mut tail = Vec::new();
        write_text(b"subject", &mut tail)?;
        write_text(&[b'-'; TOKEN_BYTES], &mut tail)?;
        let token_at = tail.len() - TOKEN_BYTES;
        write_text(b"topic", &mut tail)?;
        write_text(topic.as_bytes(), &mut tail)?;
        Ok(Self {
            buffer,
            event_at,
            tail,
            token_at,
        })
    }

    /// Begins a record, whose fields are bound to this event id and this subject's token.
    ///
    /// # Errors
    /// [`TooLong`] if the event id exceeds 65,535 bytes.
    pub fn begin(&mut self, event: &[u8], token: &Token) -> Result<Fields<'_>, TooLong> {
        self.buffer.truncate(self.event_at);
        write_text(event, &mut self.buffer)?;
        write_text(b"field", &mut self.buffer)?;
        self.tail[self.token_at..self.token_at + TOKEN_BYTES].copy_from_slice(token);
        Ok(Fields {
            field_at: self.buffer.len(),
            buffer: &mut self.buffer,
            tail: &self.tail,
        })
    }
}

/// Contexts of the fields of one record.
#[derive(Debug)]
pub struct Fields<'c> {
    buffer: &'c mut Vec<u8>,
    /// Offset of the path's length.
    field_at: usize,
    tail: &'c [u8],
}

impl Fields<'_> {
    /// Serialised context of one field.
    ///
    /// # Errors
    /// [`TooLong`] if the path exceeds 65,535 bytes.
    pub fn at(&mut self, path: &[u8]) -> Result<&[u8], TooLong> {
        self.buffer.truncate(self.field_at);
        write_text(path, self.buffer)?;
        self.buffer.extend_from_slice(self.tail);
        Ok(self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(id: u32) -> FieldKey {
        FieldKey::new(id, Key32::random([7; 32]))
    }

    fn seal(key: &FieldKey, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        key.expand()
            .seal_into(Nonce::from_random([3; 12]), aad, plaintext, &mut out)
            .expect("the key is fresh");
        out
    }

    /// NIST CAVP `gcmEncryptExtIV256`, 96-bit IV, 128-bit plaintext and AAD.
    #[test]
    fn the_nist_vector_is_reproduced() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len() / 2)
                .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex"))
                .collect()
        };
        let key32: [u8; 32] = hex("92e11dcdaa866f5ce790fd24501f92509aacf4cb8b1339d50c9c1240935dd08b")
            .try_into()
            .expect("32");
        let nonce: [u8; 12] = hex("ac93a1a6145299bde902f21a").try_into().expect("12");
        let mut out = Vec::new();
        FieldKey::new(1, Key32::random(key32))
            .expand()
            .seal_into(
                Nonce::from_random(nonce),
                &hex("1e0889016f67601c8ebea4943bc23ad6"),
                &hex("2d71bcfa914e4ac045b2aa60955fad24"),
                &mut out,
            )
            .expect("the key is fresh");
        assert_eq!(
            out[HEADER_BYTES..],
            hex("8995ae2e6df3dbf96fac7b7137bae67feca5aa77d51d4a0a14d9c51e1da474ab")
        );
    }

    #[test]
    fn the_layout_is_that_of_tink() {
        let sealed = seal(&key(0x0102_0304), b"aad", b"plain");
        assert_eq!(sealed.len(), 5 + OVERHEAD_BYTES);
        assert_eq!(sealed[..17], [1, 1, 2, 3, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!(key_id_of(&sealed), Ok(0x0102_0304));
    }

    #[test]
    fn each_refusal_names_its_cause() {
        let sealed = seal(&key(9), b"aad", b"plain");
        assert_eq!(
            key(9).expand().open(b"aad", &sealed[..32]).err(),
            Some(OpenError::TooShort { bytes: 32 })
        );
        assert_eq!(
            key(9).expand().open(b"aad", &[0; 40]).err(),
            Some(OpenError::Version { found: 0 })
        );
        assert_eq!(
            key(8).expand().open(b"aad", &sealed).err(),
            Some(OpenError::KeyId {
                found: 9,
                expected: 8
            })
        );
        assert_eq!(
            key(9).expand().open(b"other", &sealed).err(),
            Some(OpenError::Refused)
        );
    }

    #[test]
    fn a_key_stops_at_its_limit_and_leaves_the_output_unchanged() {
        let key = FieldKey::with_seals(4, Key32::random([7; 32]), SEALS_MAX - 1);
        let mut out = b"before".to_vec();
        assert!(
            key.expand()
                .seal_into(Nonce::from_random([1; 12]), b"", b"x", &mut out)
                .is_ok()
        );
        let sealed = out.len();
        assert_eq!(
            key.expand()
                .seal_into(Nonce::from_random([2; 12]), b"", b"x", &mut out),
            Err(Exhausted { key_id: 4 })
        );
        assert_eq!(out.len(), sealed);
    }

    #[test]
    fn base64_has_one_form() {
        assert_eq!(from_base64("AQI="), Ok(vec![1, 2]));
        for text in ["AQI", "AQJ=", "AQI=\n", "AQ-_", "====", "\u{0}"] {
            assert_eq!(from_base64(text), Err(OpenError::Base64), "{text:?}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", key(5)), "FieldKey(5, [redacted])");
    }

    #[test]
    fn the_fast_context_equals_the_general_one() {
        let mut context = Context::new("local", "biometrics.clean").expect("short");
        for (event, token, path) in [
            ("e-1", [b'a'; 22], "note"),
            ("e-1", [b'a'; 22], "subject.name"),
            ("", [b'b'; 22], "readings[0].value"),
        ] {
            let mut fields = context.begin(event.as_bytes(), &token).expect("short");
            let mut expected = Vec::new();
            write_context(
                [
                    ("env", b"local"),
                    ("event", event.as_bytes()),
                    ("field", path.as_bytes()),
                    ("subject", &token),
                    ("topic", b"biometrics.clean"),
                ],
                &mut expected,
            )
            .expect("short");
            assert_eq!(fields.at(path.as_bytes()).expect("short"), expected);
        }
        assert!(context.begin(&vec![b'x'; 65_536], &[b'a'; 22]).is_err());
    }

    proptest! {
        #[test]
        fn sealed_bytes_open(
            plaintext in proptest::collection::vec(any::<u8>(), 0..600),
            aad in proptest::collection::vec(any::<u8>(), 0..200),
            key_id: u32,
        ) {
            let key = key(key_id);
            let sealed = seal(&key, &aad, &plaintext);
            prop_assert_eq!(key.expand().open(&aad, &sealed).map(|plain| plain.to_vec()), Ok(plaintext));
        }

        #[test]
        fn any_flipped_bit_is_refused(
            plaintext in proptest::collection::vec(any::<u8>(), 0..100),
            at: proptest::sample::Index,
            bit in 0..8_u32,
        ) {
            let key = key(77);
            let mut sealed = seal(&key, b"aad", &plaintext);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(key.expand().open(b"aad", &sealed).is_err());
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_open(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(key(16_843_009).expand().open(b"aad", &bytes).is_err());
        }
    }
}
