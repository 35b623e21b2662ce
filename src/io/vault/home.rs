//! Tenants with their keys in memory.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;

use pulsegate_core::crypto::envelope::FieldKey;
use pulsegate_core::crypto::keys::Tenant;

/// Tenant of records without a known signer. No device can belong to it.
pub const HOUSE: &str = "pulsegate";

/// A tenant of the vault with its keys.
pub(super) struct Branch {
    pub(super) id: i32,
    pub(super) tenant: Tenant,
}

/// The key that a tenant's deadletters are sealed to now.
pub(super) struct Quarantine {
    pub(super) key: Arc<FieldKey>,
    /// Encryptions that are already reported to the vault.
    pub(super) reported: AtomicU64,
}

/// A tenant with its current quarantine key.
pub(super) struct Home {
    pub(super) branch: Branch,
    pub(super) quarantine: ArcSwap<Quarantine>,
}

impl Quarantine {
    pub(super) fn new(tenant: &Tenant, key_id: u32, seals: u64) -> Self {
        Self {
            key: Arc::new(tenant.quarantine(key_id, seals)),
            reported: AtomicU64::new(seals),
        }
    }
}
