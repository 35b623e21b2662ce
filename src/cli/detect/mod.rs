//! `pulsegate detect`: runs the detectors on a series from a file.

pub mod changes;
pub mod score;

use std::fs::File;
use std::path::Path;

use clap::Subcommand;
use pulsegate_detect::file::{FileError, Rows};

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

/// Opens a series.
fn open(path: &Path) -> Result<Rows<File>, Failure> {
    let file = File::open(path).map_err(|error| {
        let path = path.display();
        Failure::Usage(format!("failed to open {path}: {error}; give --input a file"))
    })?;
    Ok(Rows::new(file))
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Row { .. } => Self::Wrong(error.to_string()),
            FileError::Unreadable { .. } => Self::Usage(error.to_string()),
        }
    }
}
