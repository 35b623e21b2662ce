//! `pulsegate detect`: the detectors alone, on a series from a file.

pub mod changes;
pub mod score;
pub mod series;

use clap::Subcommand;

use super::{Context, Failure};

/// Arguments of `pulsegate detect`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Scores each value of a series from 0, nothing unusual, to 1
    Score(score::Args),
    /// Finds where the level, the spread or the slope of a series changed
    Changes(changes::Args),
}

/// Runs the command.
///
/// # Errors
///
/// `Wrong` where a row can't be read, `Usage` where a file can't be.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    // Files and arithmetic: the runtime's other thread goes on meanwhile.
    tokio::task::block_in_place(|| match args.command {
        Verb::Score(args) => score::run(&args, context),
        Verb::Changes(args) => changes::run(&args, context),
    })
}
