//! The names of the four topics.

/// The four topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Written by the devices.
    pub raw: String,
    /// Records that the gate accepted.
    pub clean: String,
    /// Records that the gate rejected.
    pub deadletter: String,
    /// The gate's account of every raw record.
    pub ledger: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self::prefixed("biometrics")
    }
}

impl Topics {
    /// The topics `<prefix>.raw` and so on.
    #[must_use]
    pub fn prefixed(prefix: &str) -> Self {
        let name = |suffix: &str| format!("{prefix}.{suffix}");
        Self {
            raw: name("raw"),
            clean: name("clean"),
            deadletter: name("deadletter"),
            ledger: name("ledger"),
        }
    }
}
