//! The command line: parses arguments, dispatches, and prints answers.

pub mod audit;
pub mod config;
pub mod detect;
pub mod device;
pub mod gate;
pub mod open;
mod output;
pub mod schema;
pub mod session;
pub mod topology;
pub mod watch;

use std::process::ExitCode;

use clap::Parser;

pub use self::output::{print, print_json};
pub use self::session::Context;
use self::session::{EXIT_CODES, Global};
use crate::roles::Failure;

/// An exactly-once gate for signed biometric events: verify, admit, seal, account.
#[derive(Parser)]
#[command(name = "pulsegate", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Runs the gate until it receives a signal: raw topic to clean topic, exactly once
    Gate(gate::Args),
    /// Runs the watch until it receives a signal: detection, and storage of every reading exactly once
    Watch(watch::Args),
    /// Applies, checks or shows topics, databases and roles
    Topology(topology::Args),
    /// Adds, imports, revokes or lists device keys
    Device(device::Args),
    /// Runs the detectors on a series from a file
    Detect(detect::Args),
    /// Decrypts the PHI of clean records; requires the key-encryption key
    Open(open::Args),
    /// Verifies or shows the audit log
    Audit(audit::Args),
    /// Checks event schemas, prints and registers the clean ones
    Schema(schema::Args),
    /// Shows or checks the configuration, or prints its schema
    Config(config::Args),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    if let Command::Config(args) = command {
        // `config` must answer even if the configuration is invalid.
        let json = global.json;
        let result = session::inputs(global).and_then(|inputs| config::run(&args, &inputs, json));
        return session::exit(result, json);
    }
    session::run(global, async |context| dispatch(command, &context).await)
}

async fn dispatch(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Gate(args) => gate::run(args, context).await,
        Command::Watch(args) => watch::run(args, context).await,
        Command::Topology(args) => topology::run(args, context).await,
        Command::Device(args) => device::run(args, context).await,
        Command::Detect(args) => detect::run(args, context).await,
        Command::Open(args) => open::run(args, context).await,
        Command::Audit(args) => audit::run(args, context).await,
        Command::Schema(args) => schema::run(args, context).await,
        // Answered before a configuration was loaded.
        Command::Config(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
