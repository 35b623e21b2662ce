//! Why a command or a role did not succeed, in the three kinds that exit codes tell apart.

use std::fmt;

use pulsegate_settings::Invalid;

use crate::io::registry::RegistryFault;
use crate::io::schemas::SchemasError;

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
