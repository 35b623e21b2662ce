//! The frame of a command: loads the configuration, starts the runtime, and turns a failure into an exit code.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Config, Inputs, layers};
use crate::roles::Failure;
use crate::telemetry;
use pulsegate_settings::LOCAL;

/// Closing lines of every binary's help.
pub const EXIT_CODES: &str =
    "Exit codes: 0 success, 1 problems found, 2 usage or configuration error, 3 a service is unreachable.";

/// Options of every command.
#[derive(clap::Args)]
pub struct Global {
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
    pub(super) json: bool,
}

/// Input of every command.
pub struct Context {
    /// The effective configuration.
    pub config: Config,
    /// Whether to print answers as JSON.
    pub json: bool,
}

/// Runs a command with the configuration that its options, the environment and the file give.
pub fn run(global: Global, command: impl AsyncFnOnce(Context) -> Result<(), Failure>) -> ExitCode {
    let json = global.json;
    exit(context(global).and_then(|context| start(context, command)), json)
}

/// Reports a failure, and returns its exit code.
pub(super) fn exit(result: Result<(), Failure>, json: bool) -> ExitCode {
    match result {
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

fn context(global: Global) -> Result<Context, Failure> {
    let json = global.json;
    let config = layers::load(&inputs(global)?)?.config;
    telemetry::log::start(&config.log);
    if config.environment != LOCAL {
        forbid_core_dumps()?;
    }
    Ok(Context { config, json })
}

fn start(context: Context, command: impl AsyncFnOnce(Context) -> Result<(), Failure>) -> Result<(), Failure> {
    // Two threads: commands wait far more than they compute, and the gate's workers are threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Usage(format!("failed to start the runtime: {error}")))?;
    runtime.block_on(command(context))
}

/// Collects what the configuration is loaded from.
pub(super) fn inputs(global: Global) -> Result<Inputs, Failure> {
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

#[cfg(test)]
mod tests {
    #[test]
    fn core_dumps_can_be_forbidden() {
        use rustix::process::{DumpableBehavior, dumpable_behavior};
        super::forbid_core_dumps().expect("every Linux can do it");
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
    }
}
