//! The `pulsegate-loadtest` command.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Failure};

fn main() -> ExitCode {
    let (code, error) = match Cli::parse().run() {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Wrong) => return ExitCode::from(1),
        Err(Failure::Usage(error)) => (2, error),
        Err(Failure::Unreachable(error)) => (3, error),
    };
    eprintln!("pulsegate-loadtest: {error:#}");
    ExitCode::from(code)
}
