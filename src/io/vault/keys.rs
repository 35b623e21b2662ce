//! Device keys and tenants in memory, as of one revision.

use std::collections::HashMap;
use std::sync::Arc;

use super::fault::VaultFault;
use super::home::{HOUSE, Home};
use pulsegate_core::crypto::envelope::FieldKey;
use pulsegate_core::crypto::keys::Tenant;
use pulsegate_core::gate::keyring::Keyring;

/// All device keys as of one revision, with the tenants that they belong to.
pub struct Keys {
    pub(super) keyring: Arc<Keyring>,
    pub(super) revision: u64,
    /// Tenants by their number in the keyring.
    by_number: Vec<Arc<Home>>,
    pub(super) by_id: HashMap<i32, Arc<Home>>,
    house: Arc<Home>,
}

impl Keys {
    /// Device keys in the form that the gate verifies with.
    #[must_use]
    pub const fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// Revision of the last change of a device key that is included.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The key that the deadletters of a tenant (by its number in the keyring) are sealed to; `None` for records
    /// without a known signer.
    #[must_use]
    pub fn quarantine(&self, tenant: Option<u16>) -> Arc<FieldKey> {
        let home = tenant.and_then(|number| self.home(number)).unwrap_or(&self.house);
        Arc::clone(&home.quarantine.load().key)
    }

    /// A tenant's keys, by its number in the keyring.
    #[must_use]
    pub fn tenant(&self, number: u16) -> Option<&Tenant> {
        self.home(number).map(|home| &home.branch.tenant)
    }

    pub(super) fn home(&self, number: u16) -> Option<&Arc<Home>> {
        self.by_number.get(usize::from(number))
    }

    /// Every tenant, including [`HOUSE`].
    pub(super) fn homes(&self) -> Vec<Arc<Home>> {
        self.by_id.values().cloned().collect()
    }

    pub(super) fn new(
        keyring: Keyring,
        revision: u64,
        by_id: HashMap<i32, Arc<Home>>,
    ) -> Result<Self, VaultFault> {
        let by_name: HashMap<&str, &Arc<Home>> = by_id
            .values()
            .map(|home| (home.branch.tenant.name(), home))
            .collect();
        let missing = || VaultFault::damaged("tenant", "a tenant of the keyring has no row");
        let named = |name: &str| by_name.get(name).map(|home| Arc::clone(home)).ok_or_else(missing);
        let by_number = keyring.tenants().map(named).collect::<Result<_, _>>()?;
        let house = named(HOUSE)?;
        Ok(Self {
            keyring: Arc::new(keyring),
            revision,
            by_number,
            by_id,
            house,
        })
    }
}
