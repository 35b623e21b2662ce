//! What each store is told: its own sections, and never the whole.

use super::Config;
use crate::io::{audit, postgres, timescale, topology, vault};

impl Config {
    /// How services reach their databases.
    #[must_use]
    pub fn access(&self) -> postgres::Access {
        postgres::Access {
            environment: self.environment.clone(),
            databases: self.databases.clone(),
            acquire_time_max_ms: self.timescale.acquire_time_max_ms,
            request_time_max_ms: self.timescale.request_time_max_ms,
        }
    }

    /// What the audit log is told.
    #[must_use]
    pub fn audit_settings(&self) -> audit::Settings {
        audit::Settings {
            access: self.access(),
            audit: self.audit.clone(),
            topics: self.topics.clone(),
        }
    }

    /// What the vault is told.
    #[must_use]
    pub fn vault_settings(&self) -> vault::Settings {
        vault::Settings {
            access: postgres::Access {
                acquire_time_max_ms: self.vault.acquire_time_max_ms,
                request_time_max_ms: self.vault.request_time_max_ms,
                ..self.access()
            },
            vault: self.vault.clone(),
            kek: self.kek.clone(),
        }
    }

    /// What the databases of the watch are told.
    #[must_use]
    pub fn timescale_settings(&self) -> timescale::Settings {
        timescale::Settings {
            access: self.access(),
            timescale: self.timescale.clone(),
            group_wait_s: self.watch.groups.wait_s,
        }
    }

    /// What the topology is told.
    #[must_use]
    pub fn topology_settings(&self) -> topology::Settings {
        topology::Settings {
            environment: self.environment.clone(),
            kafka: self.kafka.clone(),
            topics: self.topics.clone(),
            databases: self.databases.clone(),
            topology: self.topology.clone(),
            timescale: self.timescale.clone(),
        }
    }
}
