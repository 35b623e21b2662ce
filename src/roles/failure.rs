//! Why a command or a role did not succeed, in the three kinds that exit codes tell apart.

use std::fmt;

use pulsegate_settings::Invalid;

use super::verify::VerifyError;
use crate::io::audit::AuditError;
use crate::io::audit::browse::BrowseError;
use crate::io::postgres::DatabaseError;
use crate::io::registry::RegistryFault;
use crate::io::schemas::SchemasError;
use crate::io::topology::Fault as TopologyFault;
use crate::io::vault::VaultFault;
use crate::io::vault::import::ImportError;

/// Failure of a command. The text says what failed, where and what to do next, and never contains a secret or PHI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command ran and found a problem.
    Wrong(String),
    /// The command line or the configuration is invalid.
    Usage(String),
    /// A required service did not answer.
    Unreachable(String),
}

impl Failure {
    /// Exit code of the process.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Wrong(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }

    /// The kind, in one word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Wrong(_) => "wrong",
            Self::Usage(_) => "usage",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Wrong(text) | Self::Usage(text) | Self::Unreachable(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for Failure {}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self::Usage(invalid.to_string())
    }
}

impl From<SchemasError> for Failure {
    fn from(error: SchemasError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<RegistryFault> for Failure {
    fn from(fault: RegistryFault) -> Self {
        match fault {
            RegistryFault::Unreachable(_) => Self::Unreachable(fault.to_string()),
            RegistryFault::Refused { .. } => Self::Wrong(fault.to_string()),
        }
    }
}

impl From<VaultFault> for Failure {
    fn from(fault: VaultFault) -> Self {
        match &fault {
            VaultFault::Database(error) if error.passes() => Self::Unreachable(fault.to_string()),
            VaultFault::Database(_) | VaultFault::Damaged { .. } => Self::Wrong(fault.to_string()),
            VaultFault::Kek(_) | VaultFault::Invalid(_) => Self::Usage(fault.to_string()),
        }
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Vault(fault) => fault.into(),
            ImportError::Input(_) => Self::Usage(error.to_string()),
            ImportError::Line(_) => Self::Wrong(error.to_string()),
        }
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        match &error {
            AuditError::Database(DatabaseError::Unreachable { .. }) => Self::Unreachable(error.to_string()),
            AuditError::Database(DatabaseError::Refused { .. }) | AuditError::Tampered { .. } => {
                Self::Wrong(error.to_string())
            }
            AuditError::Database(DatabaseError::Invalid(_)) | AuditError::Key { .. } => {
                Self::Usage(error.to_string())
            }
        }
    }
}

impl From<BrowseError> for Failure {
    fn from(error: BrowseError) -> Self {
        match error {
            BrowseError::Audit(error) => error.into(),
            BrowseError::NotCovered { .. } => Self::Usage(error.to_string()),
        }
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Audit(error) => error.into(),
            VerifyError::Kafka(_) | VerifyError::Registry(_) => Self::Unreachable(error.to_string()),
            VerifyError::Checkpoint { .. } | VerifyError::Usage(_) => Self::Usage(error.to_string()),
        }
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        match &error {
            DatabaseError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            DatabaseError::Refused { .. } => Self::Wrong(error.to_string()),
            DatabaseError::Invalid(_) => Self::Usage(error.to_string()),
        }
    }
}

impl From<TopologyFault> for Failure {
    fn from(fault: TopologyFault) -> Self {
        match &fault {
            TopologyFault::Unreachable { .. } => Self::Unreachable(fault.to_string()),
            TopologyFault::Refused { .. } => Self::Wrong(fault.to_string()),
            TopologyFault::Invalid(_) | TopologyFault::Login(_) => Self::Usage(fault.to_string()),
        }
    }
}
