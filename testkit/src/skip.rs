//! Tests that need more than every machine has. Such a test fails where the need is not met, unless the variable
//! [`VARIABLE`] names the need; then it prints a line that CI counts, and passes.

use std::io::Write as _;
use std::path::PathBuf;

use crate::root;

/// Environment variable with the needs, separated by commas, that this machine may leave unmet; `all` names every one.
pub const VARIABLE: &str = "PULSEGATE_TEST_SKIP";

/// What a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The recordings in `../shared/data`, which are not part of the project.
    Recordings,
    /// Access to the database server's files, and the right to mount a file system.
    Mount,
    /// A server with TimescaleDB's Apache edition.
    Apache,
    /// Servers that the stack started itself, so that a test may stop them.
    Servers,
}

impl Need {
    const fn name(self) -> &'static str {
        match self {
            Self::Recordings => "recordings",
            Self::Mount => "mount",
            Self::Apache => "apache",
            Self::Servers => "servers",
        }
    }

    fn may_lack(self, allowed: &str) -> bool {
        allowed
            .split(',')
            .map(str::trim)
            .any(|name| name == self.name() || name == "all")
    }
}

/// Allows the calling test to return early because a need is not met; fails it if the machine must meet the need.
pub fn skip(need: Need, why: &str) {
    let allowed = std::env::var(VARIABLE).unwrap_or_default();
    let name = need.name();
    assert!(
        need.may_lack(&allowed),
        "this test needs {name}: {why}; {VARIABLE}={name} skips what needs it"
    );
    // The test harness captures what `eprintln!` prints in a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED for lack of {name}: {why}");
}

/// The directory of the recordings; `None` if the test may be skipped without them.
#[must_use]
pub fn recordings() -> Option<PathBuf> {
    let directory = root().join("../shared/data/physio");
    if directory.is_dir() {
        return Some(directory);
    }
    skip(Need::Recordings, "../shared/data/physio does not exist");
    None
}

#[cfg(test)]
mod tests {
    use super::Need;

    #[test]
    fn only_named_needs_may_be_lacking() {
        assert!(!Need::Mount.may_lack(""));
        assert!(!Need::Mount.may_lack("recordings"));
        assert!(Need::Mount.may_lack("recordings, mount"));
        assert!(Need::Apache.may_lack("all"));
    }
}
