//! What the gate knows while it decides about one chunk.

use std::sync::Arc;

use pulsegate_core::event::Ids;
use pulsegate_core::gate::keyring::Keyring;

/// A snapshot of keys and schema ids, used for one chunk of records.
pub struct Knowledge<K> {
    /// Device keys.
    pub keyring: Arc<Keyring>,
    /// Revision of the device keys.
    pub revision: u64,
    /// Keys of tenants.
    pub tenants: Arc<K>,
    /// The registry's verdicts so far; `None` without a registry.
    pub ids: Option<Arc<Ids>>,
}
