//! Identifiers that a device may use only once.

/// Identifier that a device may use only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Once {
    /// `jti` of a JWS.
    Counted {
        /// Number of the device among the keys.
        device: u32,
        /// Boot number.
        boot: u64,
        /// Message number within the boot.
        number: u64,
    },
    /// Digest of a `webhook-id`.
    Named {
        /// Number of the device among the keys.
        device: u32,
        /// 128 bits of the id's SHA-256.
        digest: u128,
    },
}

impl Once {
    /// Number of the device among the keys.
    pub(super) const fn device(self) -> u32 {
        match self {
            Self::Counted { device, .. } | Self::Named { device, .. } => device,
        }
    }
}
