//! The command line: parses arguments, loads the configuration, dispatches, and turns a failure into an exit code.

pub mod audit;
mod audited;
pub mod config;
pub mod demo;
pub mod detect;
pub mod device;
pub mod gate;
pub mod open;
pub mod schema;
pub mod topology;
pub mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use crate::config::{Config, Inputs, layers};
use crate::roles::Failure;
use crate::telemetry;
use pulsegate_settings::LOCAL;

/// An exactly-once gate for signed biometric events: verify, admit, seal, account.
#[derive(Parser)]
#[command(name = "pulsegate", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 success, 1 problems found, 2 usage or configuration error, 3 a service is unreachable.";

/// Options of every command.
#[derive(clap::Args)]
struct Global {
    /// The configuration file [default: pulsegate.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Presets: local, dev, staging or prod [default: the environment's name, else local]
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,
    /// Sets one value, overriding file and environment; may be repeated
    #[arg(long, global = true, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Prints answers as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Runs the gate until it receives a signal: raw topic to clean topic, exactly once
    Gate(gate::Args),
    /// Runs the watch until it receives a signal: detection, and storage of every reading exactly once
    Watch(watch::Args),
    /// Signs and produces a fleet, runs the gate and the watch on it, and prints the outcome of every record
    Demo(demo::Args),
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

/// Input of every command.
pub struct Context {
    /// The effective configuration.
    pub config: Config,
    /// Whether to print answers as JSON.
    pub json: bool,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, json);
            ExitCode::from(failure.code())
        }
    }
}

/// Prints the failure to standard error, so that standard output holds only answers.
fn report(failure: &Failure, json: bool) {
    let mut stderr = std::io::stderr().lock();
    // If standard error is closed, there is no other place to report to.
    let _ = if json {
        writeln!(
            stderr,
            "{}",
            serde_json::json!({ "failure": failure.kind(), "message": failure.to_string() })
        )
    } else {
        writeln!(stderr, "error: {failure}")
    };
}

fn run(cli: Cli) -> Result<(), Failure> {
    let json = cli.global.json;
    let inputs = inputs(cli.global)?;
    if let Command::Config(args) = cli.command {
        // `config` must answer even if the configuration is invalid.
        return config::run(&args, &inputs, json);
    }
    let config = layers::load(&inputs)?.config;
    telemetry::log::start(&config.log);
    if config.environment != LOCAL {
        forbid_core_dumps()?;
    }
    let context = Context { config, json };
    // Two threads: commands wait far more than they compute, and the gate's workers are threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Usage(format!("failed to start the runtime: {error}")))?;
    runtime.block_on(dispatch(cli.command, &context))
}

async fn dispatch(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Gate(args) => gate::run(args, context).await,
        Command::Watch(args) => watch::run(args, context).await,
        Command::Demo(args) => demo::run(args, context).await,
        Command::Topology(args) => topology::run(args, context).await,
        Command::Device(args) => device::run(args, context).await,
        Command::Detect(args) => detect::run(args, context).await,
        Command::Open(args) => open::run(args, context).await,
        Command::Audit(args) => audit::run(args, context).await,
        Command::Schema(args) => schema::run(args, context).await,
        Command::Config(_) => Ok(()),
    }
}

fn inputs(global: Global) -> Result<Inputs, Failure> {
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => environment.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with(layers::PREFIX) => {
                return Err(Failure::Usage(format!(
                    "the environment variable {name} is not UTF-8"
                )));
            }
            // Not a setting of pulsegate.
            _ => {}
        }
    }
    let Global {
        config: file,
        profile,
        set,
        ..
    } = global;
    Ok(Inputs {
        file,
        profile,
        set,
        environment,
    })
}

/// Keeps memory with PHI and keys from core dumps, and from debuggers of the same user. Not used in the environment
/// `local`, where the data are synthetic and a developer may want to debug.
fn forbid_core_dumps() -> Result<(), Failure> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Failure::Usage(format!("failed to disable core dumps: {error}")))
}

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn core_dumps_can_be_forbidden() {
        use rustix::process::{DumpableBehavior, dumpable_behavior};
        super::forbid_core_dumps().expect("every Linux can do it");
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
