//! `pulsegate topology`.

use super::{Context, Failure};

/// Arguments of `pulsegate topology`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
///
/// Always, until it is built.
pub async fn run(_args: Args, _context: &Context) -> Result<(), Failure> {
    Err(Failure::Usage("not built yet".to_owned()))
}
