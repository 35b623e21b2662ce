//! Builds a snapshot: checks every row against the rules of the registry and keeps the tables consistent.

use std::collections::HashMap;
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    Algorithm, DeviceEntry, JWS_SECRET_BYTES_MIN, KeyEntry, KeyRow, Keyring, NAME_BYTES_MAX, NO_KEY, Profile,
    SECRET_BYTES_MAX, WEBHOOK_SECRET_BYTES_MIN, hash,
};

/// Why a row is not valid in the registry. A fault of the vault's contents, never of a message; it names no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The key id is empty, too long, or would need an escape in JSON.
    #[error(
        "a key id must be 1 to {NAME_BYTES_MAX} printable ASCII characters without quotes and backslashes"
    )]
    Kid,
    /// The device id is empty or too long.
    #[error("a device id must be 1 to {NAME_BYTES_MAX} bytes long")]
    Device,
    /// The HMAC secret is too short or too long.
    #[error(
        "an HMAC secret must be {JWS_SECRET_BYTES_MIN} (jws) or {WEBHOOK_SECRET_BYTES_MIN} (webhook) to {SECRET_BYTES_MAX} bytes long"
    )]
    Secret,
    /// The Ed25519 public key is not 32 bytes, not a point of the curve, or of small order.
    #[error(
        "an Ed25519 public key must be 32 bytes that encode a point which is not of small order (RFC 8032)"
    )]
    PublicKey,
    /// A webhook key is not HS256.
    #[error("a webhook key must be HS256: Standard Webhooks v1 has no other algorithm")]
    WebhookAlgorithm,
    /// The key id already belongs to another device.
    #[error("the key id already belongs to another device: give the new key an id of its own")]
    KidTaken,
    /// A device has more verifying keys than the limit.
    #[error("a device may have two keys that are active or verify_only: revoke one before you add another")]
    TooManyKeys,
    /// The registry has more than 65,536 tenants, 256 classes, or 4 GiB of names.
    #[error("the registry is full: at most 65,536 tenants, 256 device classes and 4 GiB of names")]
    Full,
}

impl KeyRow<'_> {
    /// Checks the rules that concern this row alone.
    ///
    /// # Errors
    /// The first rule that the row breaks.
    pub fn check(&self) -> Result<(), KeyringError> {
        let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
        if !(1..=NAME_BYTES_MAX).contains(&self.kid.len()) || !self.kid.bytes().all(plain) {
            return Err(KeyringError::Kid);
        }
        if !(1..=NAME_BYTES_MAX).contains(&self.device.len()) {
            return Err(KeyringError::Device);
        }
        match (self.algorithm, self.profile) {
            (Algorithm::Ed25519, Profile::Webhook) => Err(KeyringError::WebhookAlgorithm),
            (Algorithm::Ed25519, Profile::Jws) => {
                let bytes: &[u8; 32] = self.material.try_into().map_err(|_| KeyringError::PublicKey)?;
                let point = VerifyingKey::from_bytes(bytes).map_err(|_| KeyringError::PublicKey)?;
                if point.is_weak() {
                    Err(KeyringError::PublicKey)
                } else {
                    Ok(())
                }
            }
            (Algorithm::HmacSha256, profile) => {
                let shortest = match profile {
                    Profile::Jws => JWS_SECRET_BYTES_MIN,
                    Profile::Webhook => WEBHOOK_SECRET_BYTES_MIN,
                };
                let fits = (shortest..=SECRET_BYTES_MAX).contains(&self.material.len());
                if fits { Ok(()) } else { Err(KeyringError::Secret) }
            }
        }
    }
}

/// Collects rows for a new snapshot.
pub struct KeyringBuilder {
    keyring: Keyring,
    /// Verifying keys that found both places of their device taken; `finish` places them.
    waiting: Vec<u32>,
    /// Numbers of the keyring's tenants and classes, by name.
    tenants: HashMap<Box<str>, usize>,
    classes: HashMap<Box<str>, usize>,
}

impl Keyring {
    /// Returns a new snapshot with these rows added or, where the key id is known, updated. The order of the rows does
    /// not matter.
    ///
    /// # Errors
    /// If a row breaks a rule of the registry; this snapshot stays unchanged.
    pub fn apply(&self, rows: &[KeyRow<'_>]) -> Result<Self, KeyringError> {
        let mut builder = self.edit();
        for row in rows {
            builder.put(row)?;
        }
        builder.finish()
    }

    /// Starts building a new snapshot from this one.
    #[must_use]
    pub fn edit(&self) -> KeyringBuilder {
        KeyringBuilder::from(self.clone())
    }
}

impl Default for KeyringBuilder {
    fn default() -> Self {
        Self::from(Keyring::empty())
    }
}

impl From<Keyring> for KeyringBuilder {
    fn from(keyring: Keyring) -> Self {
        Self {
            tenants: numbers(&keyring.tenants),
            classes: numbers(&keyring.classes),
            keyring,
            waiting: Vec::new(),
        }
    }
}

impl KeyringBuilder {
    /// Adds a row, or updates the one with this key id. The device's tenant, class and token become the row's.
    ///
    /// # Errors
    /// If the row breaks a rule of the registry or the registry is full. The row's key then stays unchanged.
    pub fn put(&mut self, row: &KeyRow<'_>) -> Result<(), KeyringError> {
        row.check()?;
        let slot = self.put_device(row)?;
        let index = self.put_key(row, slot)?;
        self.place_key(slot, index, row);
        Ok(())
    }

    /// Returns the finished snapshot.
    ///
    /// # Errors
    /// If a device has more verifying keys than the limit.
    pub fn finish(mut self) -> Result<Keyring, KeyringError> {
        for index in std::mem::take(&mut self.waiting) {
            let slot = self.keyring.keys.get(index).device;
            let places = &mut self.keyring.devices.get_mut(slot).verifying;
            let free = places
                .iter_mut()
                .find(|place| **place == NO_KEY)
                .ok_or(KeyringError::TooManyKeys)?;
            *free = index;
        }
        Ok(self.keyring)
    }

    fn put_device(&mut self, row: &KeyRow<'_>) -> Result<u32, KeyringError> {
        let keyring = &mut self.keyring;
        let tenant = u16::try_from(intern(&mut keyring.tenants, &mut self.tenants, row.tenant))
            .map_err(|_| KeyringError::Full)?;
        let class = u8::try_from(intern(&mut keyring.classes, &mut self.classes, row.class))
            .map_err(|_| KeyringError::Full)?;
        let webhook = row.profile == Profile::Webhook;
        let id = row.device.as_bytes();
        if let Some(slot) = keyring.find_device(id) {
            let old = *keyring.devices.get(slot);
            let same = old.tenant == tenant && old.class == class && old.token == *row.device_token;
            if !same || (webhook && !old.webhook) {
                let webhook = webhook || old.webhook;
                *keyring.devices.get_mut(slot) = DeviceEntry {
                    tenant,
                    class,
                    token: *row.device_token,
                    webhook,
                    ..old
                };
            }
            return Ok(slot);
        }
        let (id_at, id_len) = keyring.texts.put(row.device).ok_or(KeyringError::Full)?;
        let entry = DeviceEntry {
            id_at,
            id_len,
            tenant,
            class,
            webhook,
            token: *row.device_token,
            ..DeviceEntry::default()
        };
        let slot = keyring.devices.push(entry);
        let (devices, texts) = (&keyring.devices, &keyring.texts);
        Arc::make_mut(&mut keyring.by_device).insert_unique(hash(id), slot, |&slot| {
            let entry = devices.get(slot);
            hash(texts.bytes(entry.id_at, entry.id_len))
        });
        Ok(slot)
    }

    fn put_key(&mut self, row: &KeyRow<'_>, slot: u32) -> Result<u32, KeyringError> {
        let keyring = &mut self.keyring;
        let flags = KeyEntry::pack(row.state, row.algorithm, row.profile);
        let material = stored_material(row);
        if let Some(index) = keyring.find_kid(row.kid.as_bytes()) {
            let mut entry = *keyring.keys.get(index);
            if entry.device != slot {
                return Err(KeyringError::KidTaken);
            }
            if keyring.secrets.get(entry.material_at, entry.material_len) != material.as_slice() {
                let place = keyring.secrets.put(&material).ok_or(KeyringError::Full)?;
                keyring.secrets.wipe(entry.material_at, entry.material_len);
                (entry.material_at, entry.material_len) = place;
            }
            *keyring.keys.get_mut(index) = KeyEntry { flags, ..entry };
            return Ok(index);
        }
        let (kid_at, kid_len) = keyring.texts.put(row.kid).ok_or(KeyringError::Full)?;
        let (material_at, material_len) = keyring.secrets.put(&material).ok_or(KeyringError::Full)?;
        let index = keyring.keys.push(KeyEntry {
            kid_at,
            material_at,
            device: slot,
            kid_len,
            material_len,
            flags,
        });
        let (keys, texts) = (&keyring.keys, &keyring.texts);
        Arc::make_mut(&mut keyring.by_kid).insert_unique(hash(row.kid.as_bytes()), index, |&index| {
            let entry = keys.get(index);
            hash(texts.bytes(entry.kid_at, entry.kid_len))
        });
        Ok(index)
    }

    /// Adds the key to its device's verifying keys, or removes it.
    fn place_key(&mut self, slot: u32, index: u32, row: &KeyRow<'_>) {
        self.waiting.retain(|&waiting| waiting != index);
        let places = self.keyring.devices.get(slot).verifying;
        let wanted = row.state.verifies();
        let at = places.iter().position(|&place| place == index);
        match (wanted, at) {
            (true, Some(_)) | (false, None) => {}
            (false, Some(at)) => self.keyring.devices.get_mut(slot).verifying[at] = NO_KEY,
            (true, None) => match places.iter().position(|&place| place == NO_KEY) {
                Some(at) => self.keyring.devices.get_mut(slot).verifying[at] = index,
                None => self.waiting.push(index),
            },
        }
    }
}

/// The material to store: empty for a key that may not verify, the hash of a secret longer than a block (RFC 2104).
fn stored_material(row: &KeyRow<'_>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(if !row.state.verifies() {
        Vec::new()
    } else if row.material.len() > 64 {
        Sha256::digest(row.material).to_vec()
    } else {
        row.material.to_vec()
    })
}

/// Returns the number of a name, adding it if it is new.
fn intern(names: &mut Arc<Vec<Box<str>>>, numbers: &mut HashMap<Box<str>, usize>, name: &str) -> usize {
    if let Some(number) = numbers.get(name) {
        return *number;
    }
    Arc::make_mut(names).push(name.into());
    numbers.insert(name.into(), names.len() - 1);
    names.len() - 1
}

fn numbers(names: &[Box<str>]) -> HashMap<Box<str>, usize> {
    let numbered = names.iter().enumerate();
    numbered.map(|(number, name)| (name.clone(), number)).collect()
}
