//! The key hierarchy: KEK → tenant branch key → one data key per subject, each wrapped and with a key commitment.
//!
//! All other keys of a tenant are derived from its branch key (HKDF-SHA256, RFC 5869), so a tenant's vault row holds
//! one secret. Re-wrapping it under another KEK changes no derived key and no data.

use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use super::context::{TooLong, write_context};
use super::envelope::{Exhausted, FieldKey, Nonce, OpenError};
use super::kek::Kek;
use super::key::WRAPPING_KEY_ID;
pub use super::key::{Commitment, Key32};
use super::token::{self, Lookup, LookupKey, Salt, Token, TokenKey};

/// Age at which a data key is rotated, in milliseconds: 30 days.
pub const ROTATE_AGE_MS: i64 = 30 * 24 * 60 * 60 * 1000;
/// Number of encryptions after which a data key is rotated.
pub const ROTATE_SEALS: u64 = 1 << 24;

/// A key as the vault stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// The key, sealed in the same wire format as a field (65 bytes), with key id 0.
    pub sealed: Vec<u8>,
    /// The commitment to the key inside.
    pub commitment: Commitment,
}

/// Why a key could not be wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WrapError {
    /// A context value exceeds its limit.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The wrapping key has reached its limit of encryptions.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
}

/// Why a wrapped key could not be opened. A fault of the gate or of the vault's data, never of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnwrapError {
    /// A context value exceeds its limit.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The sealed key does not open.
    #[error(
        "failed to open the wrapped key ({0}): wrong KEK or tenant, or the vault's row was altered or moved"
    )]
    Refused(#[from] OpenError),
    /// The sealed bytes opened to another key than the one that was committed to.
    #[error("the wrapped key does not match its commitment: the vault's row was tampered with")]
    Commitment,
}

/// Wraps `plain` under `wrapping`, bound to a non-empty `context` (keys ascending, serialised as in [`write_context`]).
///
/// # Errors
/// [`WrapError`].
pub fn wrap<const N: usize>(
    wrapping: &FieldKey,
    context: [(&str, &str); N],
    plain: &Key32,
    nonce: Nonce,
) -> Result<Wrapped, WrapError> {
    let mut sealed = Vec::new();
    wrapping
        .expand()
        .seal_into(nonce, &wrap_context(context)?, plain.bytes(), &mut sealed)?;
    Ok(Wrapped {
        sealed,
        commitment: plain.commitment(),
    })
}

/// Opens what [`wrap`] made, and checks the commitment.
///
/// # Errors
/// [`UnwrapError`]; no key is returned unless everything matches.
pub fn unwrap<const N: usize>(
    wrapping: &FieldKey,
    context: [(&str, &str); N],
    wrapped: &Wrapped,
) -> Result<Key32, UnwrapError> {
    let plain = wrapping.expand().open(&wrap_context(context)?, &wrapped.sealed)?;
    let key = Key32::unwrapped(plain.as_slice().try_into().map_err(|_| UnwrapError::Commitment)?);
    if bool::from(key.commitment().ct_eq(&wrapped.commitment)) {
        Ok(key)
    } else {
        Err(UnwrapError::Commitment)
    }
}

fn wrap_context<const N: usize>(context: [(&str, &str); N]) -> Result<Vec<u8>, TooLong> {
    const { assert!(N > 0, "a wrapped key must be bound to its place") };
    let mut aad = Vec::new();
    write_context(context.map(|(key, value)| (key, value.as_bytes())), &mut aad)?;
    Ok(aad)
}

/// A tenant's keys, all derived from the branch key of its vault row.
#[derive(Debug)]
pub struct Tenant {
    name: String,
    data_wrapping: FieldKey,
    tokens: TokenKey,
    lookups: LookupKey,
    quarantines: Key32,
    device_secrets: FieldKey,
}

impl Tenant {
    /// Wraps a new tenant's branch key for its vault row.
    ///
    /// # Errors
    /// [`WrapError`].
    pub fn wrap_branch(kek: &Kek, name: &str, branch: &Key32, nonce: Nonce) -> Result<Wrapped, WrapError> {
        wrap(
            kek.wrapping(),
            [("purpose", "branch"), ("tenant", name)],
            branch,
            nonce,
        )
    }

    /// Opens a tenant's row.
    ///
    /// # Errors
    /// [`UnwrapError`] if the row does not belong to this KEK and this name.
    pub fn open(kek: &Kek, name: &str, branch: &Wrapped) -> Result<Self, UnwrapError> {
        let branch = unwrap(kek.wrapping(), [("purpose", "branch"), ("tenant", name)], branch)?;
        Ok(Self {
            name: name.to_owned(),
            data_wrapping: FieldKey::new(WRAPPING_KEY_ID, branch.derive("data key wrapping")),
            tokens: TokenKey::new(&branch.derive("tokens")),
            lookups: LookupKey::new(&branch.derive("lookups")),
            quarantines: branch.derive("quarantines"),
            device_secrets: FieldKey::new(WRAPPING_KEY_ID, branch.derive("device secrets")),
        })
    }

    /// Name of the tenant.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Key that deadletter payloads are sealed to, with the use count of its row. It is derived from its id, so that it
    /// can be rotated like a data key: rejected records can outnumber accepted ones.
    #[must_use]
    pub fn quarantine(&self, key_id: u32, seals: u64) -> FieldKey {
        FieldKey::with_seals(key_id, self.quarantines.derive(&key_id.to_string()), seals)
    }

    /// Wraps a device key's HMAC secret for its vault row: bound to the tenant, the device and the key id.
    ///
    /// # Errors
    /// [`WrapError`].
    pub fn wrap_device_secret(
        &self,
        device: &str,
        kid: &str,
        secret: &[u8],
        nonce: Nonce,
    ) -> Result<Vec<u8>, WrapError> {
        let aad = wrap_context(self.device_context(device, kid))?;
        let mut sealed = Vec::new();
        self.device_secrets
            .expand()
            .seal_into(nonce, &aad, secret, &mut sealed)?;
        Ok(sealed)
    }

    /// Opens what [`Tenant::wrap_device_secret`] made.
    ///
    /// # Errors
    /// [`UnwrapError`] if the row does not belong to this tenant, device and key.
    pub fn open_device_secret(
        &self,
        device: &str,
        kid: &str,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
        Ok(self
            .device_secrets
            .expand()
            .open(&wrap_context(self.device_context(device, kid))?, wrapped)?)
    }

    fn device_context<'a>(&'a self, device: &'a str, kid: &'a str) -> [(&'static str, &'a str); 4] {
        [
            ("device", device),
            ("kid", kid),
            ("purpose", "device secret"),
            ("tenant", &self.name),
        ]
    }

    /// Token key of this tenant.
    #[must_use]
    pub const fn tokens(&self) -> &TokenKey {
        &self.tokens
    }

    /// Lookup that a subject's rows are stored under.
    #[must_use]
    pub fn lookup(&self, subject: &[u8]) -> Lookup {
        self.lookups.lookup(subject)
    }

    /// Token of a device under its salt.
    ///
    /// # Errors
    /// [`TooLong`] if the id exceeds 65,535 bytes.
    pub fn device_token(&self, salt: &Salt, device: &str) -> Result<Token, TooLong> {
        self.tokens.token(token::DEVICE, salt, device.as_bytes())
    }

    /// Wraps a new data key for its vault row: bound to the tenant, the subject's lookup and the key id, so a row that
    /// is copied over another one does not open.
    ///
    /// # Errors
    /// [`WrapError`].
    pub fn wrap_data_key(
        &self,
        key_id: u32,
        lookup: &Lookup,
        key: &Key32,
        nonce: Nonce,
    ) -> Result<Wrapped, WrapError> {
        let (key_id, subject) = (key_id.to_string(), hex(lookup));
        wrap(
            &self.data_wrapping,
            self.data_context(&key_id, &subject),
            key,
            nonce,
        )
    }

    /// Opens the row of a data key. `seals` is the use count of the row.
    ///
    /// # Errors
    /// [`UnwrapError`] if the row does not belong to this tenant, subject and key.
    pub fn open_data_key(
        &self,
        key_id: u32,
        lookup: &Lookup,
        seals: u64,
        wrapped: &Wrapped,
    ) -> Result<FieldKey, UnwrapError> {
        let (id, subject) = (key_id.to_string(), hex(lookup));
        let key = unwrap(&self.data_wrapping, self.data_context(&id, &subject), wrapped)?;
        Ok(FieldKey::with_seals(key_id, key, seals))
    }

    fn data_context<'a>(&'a self, key_id: &'a str, subject: &'a str) -> [(&'static str, &'a str); 4] {
        [
            ("key_id", key_id),
            ("purpose", "data"),
            ("subject", subject),
            ("tenant", &self.name),
        ]
    }

    /// Assembles the keys of one subject: its token, its salt and its current data key.
    ///
    /// # Errors
    /// [`TooLong`] if the subject id exceeds 65,535 bytes.
    pub fn subject_key(
        &self,
        subject: &[u8],
        salt: Salt,
        field_key: FieldKey,
    ) -> Result<SubjectKey, TooLong> {
        let token = self.tokens.token(token::SUBJECT, &salt, subject)?;
        Ok(SubjectKey {
            token,
            salt,
            field_key,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One subject's token, salt and current data key.
#[derive(Debug)]
pub struct SubjectKey {
    token: Token,
    salt: Salt,
    field_key: FieldKey,
}

impl SubjectKey {
    /// Token that replaces the subject id in clean records.
    #[must_use]
    pub const fn token(&self) -> &Token {
        &self.token
    }

    /// Salt of the subject's tokens.
    #[must_use]
    pub const fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Current data key of the subject.
    #[must_use]
    pub const fn field_key(&self) -> &FieldKey {
        &self.field_key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(byte: u8) -> Nonce {
        Nonce::from_random([byte; 12])
    }

    fn kek() -> Kek {
        Kek::from_bytes(&[0xA5; 32]).expect("32 bytes")
    }

    fn tenant(name: &str) -> Tenant {
        let branch = Tenant::wrap_branch(&kek(), name, &Key32::random([6; 32]), nonce(1)).expect("short");
        Tenant::open(&kek(), name, &branch).expect("just wrapped")
    }

    /// RFC 5869 has no vector with our `info`, so this one is computed with Python's `hmac`, extract then expand.
    #[test]
    fn derivation_follows_hkdf() {
        assert_eq!(
            hex(Key32::random([1; 32]).derive("commit").bytes()),
            "8874c629859dbe608f2061f0fbf2b2944a8d8ad0de549601bfda493dfa2b23d9"
        );
    }

    #[test]
    fn a_wrapped_key_opens_only_in_its_place() {
        let wrapping = FieldKey::new(WRAPPING_KEY_ID, Key32::random([1; 32]));
        let other = FieldKey::new(WRAPPING_KEY_ID, Key32::random([9; 32]));
        let wrapped = wrap(&wrapping, [("a", "b")], &Key32::random([2; 32]), nonce(3)).expect("short");
        assert_eq!(wrapped.sealed.len(), 65);
        assert_eq!(
            unwrap(&wrapping, [("a", "b")], &wrapped)
                .expect("same place")
                .bytes(),
            &[2; 32]
        );
        assert_eq!(
            unwrap(&wrapping, [("a", "c")], &wrapped).err(),
            Some(OpenError::Refused.into())
        );
        assert_eq!(
            unwrap(&other, [("a", "b")], &wrapped).err(),
            Some(OpenError::Refused.into())
        );
        let swapped = Wrapped {
            commitment: [0; 32],
            ..wrapped.clone()
        };
        assert_eq!(
            unwrap(&wrapping, [("a", "b")], &swapped).err(),
            Some(UnwrapError::Commitment)
        );
        let cut = Wrapped {
            sealed: wrapped.sealed[..64].to_vec(),
            ..wrapped
        };
        assert_eq!(
            unwrap(&wrapping, [("a", "b")], &cut).err(),
            Some(OpenError::Refused.into())
        );
    }

    #[test]
    fn a_branch_opens_for_its_tenant_and_kek_only() {
        let wrapped = Tenant::wrap_branch(&kek(), "acme", &Key32::random([6; 32]), nonce(1)).expect("short");
        assert!(Tenant::open(&kek(), "other", &wrapped).is_err());
        let other = Kek::from_bytes(&[0xA6; 32]).expect("32 bytes");
        assert!(Tenant::open(&other, "acme", &wrapped).is_err());
        let quarantine = |id| {
            Tenant::open(&kek(), "acme", &wrapped)
                .expect("right")
                .quarantine(id, 7)
        };
        assert_eq!((quarantine(42).key_id(), quarantine(42).seals()), (42, 7));
        let mut sealed = Vec::new();
        quarantine(42)
            .expand()
            .seal_into(nonce(1), b"aad", b"payload", &mut sealed)
            .expect("fresh");
        assert!(quarantine(42).expand().open(b"aad", &sealed).is_ok());
        sealed[4] = 43;
        assert!(
            quarantine(43).expand().open(b"aad", &sealed).is_err(),
            "another id is another key"
        );
    }

    #[test]
    fn a_device_secret_opens_for_its_row_only() {
        let acme = tenant("acme");
        let wrapped = acme
            .wrap_device_secret("d1", "d1-a", &[7; 40], nonce(3))
            .expect("short");
        assert_eq!(
            *acme
                .open_device_secret("d1", "d1-a", &wrapped)
                .expect("its own row"),
            [7; 40]
        );
        assert!(acme.open_device_secret("d2", "d1-a", &wrapped).is_err());
        assert!(acme.open_device_secret("d1", "d1-b", &wrapped).is_err());
        assert!(
            tenant("other")
                .open_device_secret("d1", "d1-a", &wrapped)
                .is_err()
        );
    }

    #[test]
    fn a_data_key_opens_for_its_row_only() {
        let (acme, other) = (tenant("acme"), tenant("other"));
        let lookup = acme.lookup(b"patient-1");
        let wrapped = acme
            .wrap_data_key(7, &lookup, &Key32::random([5; 32]), nonce(2))
            .expect("short");
        let key = acme.open_data_key(7, &lookup, 12, &wrapped).expect("its own row");
        assert_eq!((key.key_id(), key.seals()), (7, 12));
        assert!(acme.open_data_key(8, &lookup, 0, &wrapped).is_err());
        assert!(
            acme.open_data_key(7, &acme.lookup(b"patient-2"), 0, &wrapped)
                .is_err()
        );
        assert!(other.open_data_key(7, &lookup, 0, &wrapped).is_err());
    }

    #[test]
    fn debug_output_contains_no_key() {
        let printed = format!("{:?} {:?} {:?}", tenant("acme"), kek(), Key32::random([6; 32]));
        assert!(!printed.contains("6, 6"), "{printed}");
    }
}
