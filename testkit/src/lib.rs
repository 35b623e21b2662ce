//! What tests and benchmarks share: the addresses of the stack ([`stack`]), a corner of it for one test ([`corner`]), a
//! world with processes in it ([`world`]), waiting ([`wait`]), and what a machine may lack ([`skip`]).
//!
//! Everything here panics instead of returning errors: a test that cannot get what it needs has failed.

#[cfg(feature = "world")]
pub mod corner;
pub mod skip;
pub mod stack;
pub mod wait;
#[cfg(feature = "world")]
pub mod world;

use std::path::{Path, PathBuf};

/// The workspace's root directory.
#[must_use]
pub fn root() -> &'static Path {
    let testkit = Path::new(env!("CARGO_MANIFEST_DIR"));
    testkit.parent().unwrap_or(testkit)
}

/// The `pulsegate` binary of the profile with which the running test or benchmark was built.
#[must_use]
pub fn binary() -> PathBuf {
    // target/<profile>/deps/<test>-<hash>
    let running = std::env::current_exe().expect("the kernel knows the running program");
    let profile = running
        .ancestors()
        .nth(2)
        .expect("a test lies in a directory of its profile");
    let binary = profile.join("pulsegate");
    assert!(
        binary.is_file(),
        "{} does not exist: build it first with `cargo build --bin pulsegate`, with --release for a benchmark",
        binary.display()
    );
    binary
}
