//! `pulsegate-demo`: sends a signed fleet, part of it hostile, through the gate and the watch, and reports the outcome
//! of every record and the findings about the devices' incidents.

mod account;
mod demo;
mod progress;
mod watched;

use std::process::ExitCode;

use clap::Parser as _;
use pulsegate::cli::session::{self, EXIT_CODES, Global};

/// Signs and produces a fleet, runs the gate and the watch on it, and prints the outcome of every record
#[derive(clap::Parser)]
#[command(name = "pulsegate-demo", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    args: demo::Args,
}

fn main() -> ExitCode {
    let Cli { global, args } = Cli::parse();
    session::run(global, async |context| demo::run(args, &context).await)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
