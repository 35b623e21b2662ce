//! The command line: parses, loads the configuration, dispatches, and turns a failure into an exit code.

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
    "Exit codes: 0 good, 1 found wrong, 2 usage or configuration, 3 a service is unreachable.";

/// Options of every command.
#[derive(clap::Args)]
struct Global {
    /// The configuration file [default: pulsegate.toml if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Presets: local, dev, staging or prod [default: the environment's name, else local]
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,
    /// Sets one value, above file and environment; may be repeated
    #[arg(long, global = true, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Answers in JSON, for machines
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Runs the gate until it is told to stop: raw topic to clean topic, exactly once
    Gate(gate::Args),
    /// Runs the watch until it is told to stop: detection, and every reading stored exactly once
    Watch(watch::Args),
    /// Signs and produces a fleet, runs the gate on it and prints what became of every record
    Demo(demo::Args),
    /// Topics, databases and roles: apply, check or show them
    Topology(topology::Args),
    /// Device keys: add, import, revoke or list them
    Device(device::Args),
    /// The detectors alone, on a series from a file
    Detect(detect::Args),
    /// Decrypts the PHI of clean records, for one who holds the key
    Open(open::Args),
    /// The audit log: verify it, show it
    Audit(audit::Args),
    /// Event schemas: check them, derive and register the clean ones
    Schema(schema::Args),
    /// The configuration: show it, check it, or print its schema
    Config(config::Args),
}

/// What every command is given.
pub struct Context {
    /// The effective configuration.
    pub config: Config,
    /// Answer in JSON.
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

/// Tells the user, on standard error so that standard output holds nothing but answers.
fn report(failure: &Failure, json: bool) {
    let mut stderr = std::io::stderr().lock();
    // There is nobody left to tell when standard error is closed.
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
        // It has an answer even where the configuration can't be used.
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
        .map_err(|error| Failure::Usage(format!("can't start the runtime: {error}")))?;
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
            // Nobody's setting.
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

/// Keeps memory with PHI and keys from core dumps, and from debuggers of the same user. Not in the environment `local`,
/// where the data are made up and somebody may want to look.
fn forbid_core_dumps() -> Result<(), Failure> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Failure::Usage(format!("can't forbid core dumps: {error}")))
}

/// Prints an answer for people. A reader who has left, such as `head`, is no error.
///
/// # Errors
///
/// When standard output can't be written.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Usage(format!("can't write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints an answer for machines.
///
/// # Errors
///
/// When the value can't be shown as JSON or standard output can't be written.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Failure::Usage(format!("no JSON: {error}")))?;
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
