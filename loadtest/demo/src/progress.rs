//! How the demo shows its progress, and what it says of a service that is away.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use pulsegate::roles::Failure;

/// Refresh interval of the progress bar.
pub const TICK: Duration = Duration::from_millis(200);

/// Progress bar, drawn only on a terminal.
pub fn bar(what: &'static str, length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length).with_prefix(what);
    match ProgressStyle::with_template("{prefix:>24} {bar:40} {human_pos}/{human_len} {per_sec}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The failure of a service.
pub fn unreachable(error: impl std::fmt::Display) -> Failure {
    Failure::Unreachable(error.to_string())
}
