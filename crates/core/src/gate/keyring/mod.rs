//! The device keys of the registry, as one immutable snapshot in memory.
//!
//! A lane looks keys up without a lock; the shell swaps the whole snapshot when the vault changes. A new snapshot
//! shares every unchanged chunk with the one before, so a change of one key copies two or three chunks instead of two
//! hundred megabytes, and key material is never moved: it is wiped in place when the last snapshot that holds it is
//! dropped.
//!
//! Measured with 1,000,000 devices, one HS256 key each and UUIDs as names: 183 MB, loaded in 3.8 s of one core in an
//! unoptimised test (`a_million_devices_fit`; the bound is 200 MB and 10 s). Optimised (`benches/verify.rs`), 10,000
//! devices load in 2.5 ms; among a million, revoking one key takes 55 us and adding one 17 ms, which copies a table.

mod build;
mod chunks;

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

pub use build::{KeyringBuilder, KeyringError};
use chunks::{List, Secrets, Texts};

/// Maximum length of a key id or device id, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Maximum length of an HMAC secret in a row, in bytes.
pub const SECRET_BYTES_MAX: usize = 256;
/// Minimum length of a `jws` key's HMAC secret, in bytes: the size of the hash (RFC 7518 §3.2).
pub const JWS_SECRET_BYTES_MIN: usize = 32;
/// Minimum length of a `webhook` key's HMAC secret, in bytes (Standard Webhooks, "Signature scheme": 24 to 64).
pub const WEBHOOK_SECRET_BYTES_MIN: usize = 24;
/// Maximum number of a device's keys that verify (`active` or `verify_only`): enough to rotate without a pause.
pub const VERIFYING_KEYS_MAX: usize = 2;
/// Maximum number of device classes: every device entry stores its class in one byte.
pub const CLASSES_MAX: usize = 1 << u8::BITS;

/// Signature profile of a key. The registry row decides it, never the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Detached JWS in `x-jws-signature`.
    Jws,
    /// Standard Webhooks `v1` in three `webhook-*` headers.
    Webhook,
}

/// Signature algorithm that a key is pinned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256 (RFC 7518 §3.2; Standard Webhooks `v1`).
    #[serde(rename = "HS256")]
    HmacSha256,
    /// Ed25519 (RFC 8037, RFC 9864).
    Ed25519,
}

/// Lifecycle state of a key. Only `Active` and `VerifyOnly` verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Created, not yet activated.
    Pending,
    /// Signs and verifies.
    Active,
    /// Being rotated out: its signatures still verify.
    VerifyOnly,
    /// Revoked: verifies nothing, and the snapshot does not hold its material.
    Revoked,
}

impl Profile {
    /// Name in the registry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jws => "jws",
            Self::Webhook => "webhook",
        }
    }

    /// The profile with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Jws, Self::Webhook]
            .into_iter()
            .find(|profile| profile.as_str() == name)
    }
}

impl Algorithm {
    /// Name in the registry and in a JWS header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha256 => "HS256",
            Self::Ed25519 => "Ed25519",
        }
    }

    /// The algorithm with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::HmacSha256, Self::Ed25519]
            .into_iter()
            .find(|algorithm| algorithm.as_str() == name)
    }
}

impl KeyState {
    /// Name in the registry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::VerifyOnly => "verify_only",
            Self::Revoked => "revoked",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Pending, Self::Active, Self::VerifyOnly, Self::Revoked]
            .into_iter()
            .find(|state| state.as_str() == name)
    }

    /// Whether a key in this state verifies.
    #[must_use]
    pub const fn verifies(self) -> bool {
        matches!(self, Self::Active | Self::VerifyOnly)
    }
}

/// One key of the registry, as loaded from the vault.
#[derive(Clone, Copy)]
pub struct KeyRow<'a> {
    /// The key id, unique over all tenants: printable ASCII without `"` and `\`, so that it needs no escape in JSON.
    pub kid: &'a str,
    /// The device id, which is also the record key.
    pub device: &'a str,
    /// Tenant's name.
    pub tenant: &'a str,
    /// The device class, which chooses the rate limit.
    pub class: &'a str,
    /// Signature profile that the device uses with this key.
    pub profile: Profile,
    /// Algorithm that the key is pinned to.
    pub algorithm: Algorithm,
    /// Lifecycle state of the key.
    pub state: KeyState,
    /// The HMAC secret, or the 32 bytes of the Ed25519 public key.
    pub material: &'a [u8],
    /// Token that replaces the device id in the clean topic (16 bytes as unpadded base64url).
    pub device_token: &'a [u8; 22],
}

impl fmt::Debug for KeyRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRow([redacted])")
    }
}

/// The sender of a record, as its verified key identifies it.
#[derive(Clone, Copy)]
pub struct Key<'k> {
    /// Number of the device in this process; it names the same device in every later snapshot.
    pub slot: u32,
    /// The device id.
    pub device: &'k str,
    /// Number of the tenant; `Keyring::tenant` returns the name.
    pub tenant: u16,
    /// Number of the device class; `Keyring::classes` returns the names.
    pub class: u8,
    /// Token that replaces the device id in the clean topic.
    pub device_token: &'k [u8; 22],
}

impl fmt::Debug for Key<'_> {
    /// Writes the slot only: a device id is an identity.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.slot)
    }
}

/// A key row in memory, 16 bytes.
#[derive(Clone, Copy, Default)]
struct KeyEntry {
    kid_at: u32,
    material_at: u32,
    device: u32,
    kid_len: u8,
    material_len: u8,
    /// State (2 bits), algorithm (1 bit), profile (1 bit).
    flags: u8,
}

/// Marks an empty place in `DeviceEntry::verifying`.
const NO_KEY: u32 = u32::MAX;

/// A device row in memory, 40 bytes.
#[derive(Clone, Copy)]
struct DeviceEntry {
    id_at: u32,
    /// Indices of the keys that verify, in no particular order.
    verifying: [u32; VERIFYING_KEYS_MAX],
    tenant: u16,
    id_len: u8,
    class: u8,
    /// Whether the device has, or has had, a webhook key.
    webhook: bool,
    token: [u8; 22],
}

impl Default for DeviceEntry {
    fn default() -> Self {
        Self {
            id_at: 0,
            verifying: [NO_KEY; VERIFYING_KEYS_MAX],
            tenant: 0,
            id_len: 0,
            class: 0,
            webhook: false,
            token: [0; 22],
        }
    }
}

impl KeyEntry {
    const fn state(self) -> KeyState {
        match self.flags & 3 {
            0 => KeyState::Pending,
            1 => KeyState::Active,
            2 => KeyState::VerifyOnly,
            _ => KeyState::Revoked,
        }
    }

    const fn algorithm(self) -> Algorithm {
        if self.flags & 4 == 0 {
            Algorithm::HmacSha256
        } else {
            Algorithm::Ed25519
        }
    }

    const fn profile(self) -> Profile {
        if self.flags & 8 == 0 {
            Profile::Jws
        } else {
            Profile::Webhook
        }
    }

    const fn pack(state: KeyState, algorithm: Algorithm, profile: Profile) -> u8 {
        state as u8 | (algorithm as u8) << 2 | (profile as u8) << 3
    }
}

/// A key with its material, as `verify` needs it.
pub(super) struct Found<'k> {
    pub(super) key: Key<'k>,
    pub(super) profile: Profile,
    pub(super) algorithm: Algorithm,
    pub(super) state: KeyState,
    /// Empty unless the key verifies. An HMAC secret is at most one SHA-256 block: a longer one is its hash (RFC 2104).
    pub(super) material: &'k [u8],
}

/// All device keys at one moment. Cheap to clone: the clones share their rows.
#[derive(Clone)]
pub struct Keyring {
    keys: List<KeyEntry>,
    devices: List<DeviceEntry>,
    texts: Texts,
    secrets: Secrets,
    by_kid: Arc<HashTable<u32>>,
    by_device: Arc<HashTable<u32>>,
    tenants: Arc<Vec<Box<str>>>,
    classes: Arc<Vec<Box<str>>>,
}

impl Keyring {
    /// A keyring without keys.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            keys: List::new(),
            devices: List::new(),
            texts: Texts::new(),
            secrets: Secrets::new(),
            by_kid: Arc::new(HashTable::new()),
            by_device: Arc::new(HashTable::new()),
            tenants: Arc::default(),
            classes: Arc::default(),
        }
    }

    /// Number of devices; slots are below it.
    #[must_use]
    pub fn devices(&self) -> u32 {
        self.devices.len()
    }

    /// Number of keys, in any state.
    #[must_use]
    pub fn keys(&self) -> u32 {
        self.keys.len()
    }

    /// Name of a tenant, by its number.
    #[must_use]
    pub fn tenant(&self, tenant: u16) -> Option<&str> {
        self.tenants.get(usize::from(tenant)).map(Box::as_ref)
    }

    /// Names of all tenants, ordered by number.
    pub fn tenants(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tenants.iter().map(Box::as_ref)
    }

    /// Names of all device classes, ordered by number.
    pub fn classes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.classes.iter().map(Box::as_ref)
    }

    /// Heap memory of this snapshot in bytes, including shared chunks.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.keys.heap_bytes()
            + self.devices.heap_bytes()
            + self.texts.heap_bytes()
            + self.secrets.heap_bytes()
            + self.by_kid.allocation_size()
            + self.by_device.allocation_size()
    }

    /// Token of a device; `None` if the device is unknown.
    #[must_use]
    pub fn device_token(&self, device: &str) -> Option<&[u8; 22]> {
        let slot = self.find_device(device.as_bytes())?;
        Some(&self.devices.get(slot).token)
    }

    /// The key with this id.
    pub(super) fn by_kid(&self, kid: &[u8]) -> Option<Found<'_>> {
        self.find_kid(kid).map(|index| self.found(self.keys.get(index)))
    }

    /// The webhook keys of this device that verify. `None` if the device is unknown or has never had a webhook key; all
    /// places are empty if its webhook keys are pending or revoked.
    pub(super) fn webhook_keys(&self, device: &[u8]) -> Option<[Option<Found<'_>>; VERIFYING_KEYS_MAX]> {
        let entry = self.devices.get(self.find_device(device)?);
        let verifies = |index: u32| {
            let key = (index != NO_KEY).then(|| self.keys.get(index))?;
            (key.profile() == Profile::Webhook).then(|| self.found(key))
        };
        entry.webhook.then(|| entry.verifying.map(verifies))
    }

    fn found(&self, entry: &KeyEntry) -> Found<'_> {
        let device = self.devices.get(entry.device);
        Found {
            key: Key {
                slot: entry.device,
                device: self.texts.get(device.id_at, device.id_len),
                tenant: device.tenant,
                class: device.class,
                device_token: &device.token,
            },
            profile: entry.profile(),
            algorithm: entry.algorithm(),
            state: entry.state(),
            material: self.secrets.get(entry.material_at, entry.material_len),
        }
    }

    fn find_kid(&self, kid: &[u8]) -> Option<u32> {
        self.by_kid
            .find(hash(kid), |&index| self.kid_of(index) == kid)
            .copied()
    }

    fn find_device(&self, device: &[u8]) -> Option<u32> {
        self.by_device
            .find(hash(device), |&slot| self.device_of(slot) == device)
            .copied()
    }

    fn kid_of(&self, index: u32) -> &[u8] {
        let entry = self.keys.get(index);
        self.texts.bytes(entry.kid_at, entry.kid_len)
    }

    fn device_of(&self, slot: u32) -> &[u8] {
        let entry = self.devices.get(slot);
        self.texts.bytes(entry.id_at, entry.id_len)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} devices, {} keys)", self.devices(), self.keys())
    }
}

/// Names come from the registry, not from messages, so a sender cannot exploit the fixed seed to make them collide.
fn hash(name: &[u8]) -> u64 {
    FixedState::default().hash_one(name)
}

#[cfg(test)]
mod tests;
