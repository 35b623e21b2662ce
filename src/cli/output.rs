//! How commands print their answers.

use std::io::Write as _;

use serde::Serialize;

use crate::roles::Failure;

/// Prints an answer for people. A closed pipe, as left by `head`, is not an error.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Usage(format!(
            "failed to write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Prints an answer as JSON.
///
/// # Errors
///
/// If the value cannot be serialized or standard output cannot be written.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::Usage(format!("failed to write JSON: {error}")))?;
    print(&text)
}
