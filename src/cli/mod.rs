//! The command line: parses, loads the configuration, dispatches, and turns a failure into an exit code.

use std::process::ExitCode;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
