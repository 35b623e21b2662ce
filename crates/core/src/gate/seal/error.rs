//! Why a record could not be sealed.

use pulsegate_ledger::outcome::Reason;
use thiserror::Error;

use crate::crypto::envelope::{Exhausted, TooLong};

/// Why a record could not be sealed. The batch is left unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// Fewer nonces are left than the record needs: refill them and seal it again.
    #[error("too few nonces are left to seal the record")]
    Nonces,
    /// The key has reached its limit of encryptions.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// A path, or the plaintext of a token, is longer than an encryption context can hold.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The rewritten event cannot be encoded in the format of the clean topic: a defect of the plan. The record is
    /// rejected, because holding it would stop its lane for good; it can be redriven when the defect is fixed.
    #[error(
        "failed to encode a valid event in the format of the clean topic: this is a defect, please report it"
    )]
    Untranscodable,
    /// Keys and tenants come from different snapshots: a defect of the shell.
    #[error("the tenant of a verified key is unknown: this is a defect, please report it")]
    Tenant,
}

impl SealError {
    /// Reason to reject the record with; `None` if the record is not at fault and must be sealed again later.
    #[must_use]
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::TooLong(_) | Self::Untranscodable => Some(Reason::SchemaViolation),
            Self::Nonces | Self::Exhausted(_) | Self::Tenant => None,
        }
    }
}
