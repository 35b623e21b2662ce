//! `pulsegate detect`: runs the detectors on a series from a file.

pub mod changes;
pub mod score;
mod series;

use clap::Subcommand;

use super::Context;
use crate::roles::Failure;

/// Arguments of `pulsegate detect`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Scores each value of a series from 0 (nothing unusual) to 1
    Score(score::Args),
    /// Finds changes of the level, spread or slope of a series
    Changes(changes::Args),
}

/// Runs the command.
///
/// # Errors
///
/// `Wrong` if a row is invalid, `Usage` if a file cannot be read or written.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    // File access and arithmetic block; the runtime's other thread continues meanwhile.
    tokio::task::block_in_place(|| match args.command {
        Verb::Score(args) => score::run(&args, context),
        Verb::Changes(args) => changes::run(&args, context),
    })
}
