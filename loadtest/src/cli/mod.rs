//! The commands of `pulsegate-loadtest`.

mod capture;
mod generate;
mod replay;
mod shared;
mod verify;

use clap::{Parser, Subcommand};
use pulsegate_loadtest::kafka::{KafkaError, ReadError};
use pulsegate_loadtest::oracle::OracleError;

use self::shared::Ended;

/// Generate, capture and replay streams of signed biometric events, and verify the gate's output.
///
/// Exit code: 0 good, 1 the data are wrong, 2 the command cannot be carried out as given, 3 Kafka is unreachable.
#[derive(Parser)]
#[command(name = "pulsegate-loadtest", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object instead of sentences and tables.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Generate(Box<generate::Args>),
    Capture(capture::Args),
    Replay(replay::Args),
    Verify(Box<verify::Args>),
}

/// Why a command failed.
pub enum Failure {
    /// The data are wrong; the command has already printed what it found.
    Wrong,
    /// The command cannot be carried out as given.
    Usage(anyhow::Error),
    /// Kafka cannot be reached, or delivers nothing.
    Unreachable(anyhow::Error),
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Generate(args) => generate::run(&args, self.json),
            Command::Capture(args) => capture::run(&args, self.json),
            Command::Replay(args) => replay::run(&args, self.json),
            Command::Verify(args) => verify::run(&args, self.json),
        }
        .map_err(|error| match error {
            Ended::Wrong => Failure::Wrong,
            Ended::Error(error) if is_unreachable(&error) => Failure::Unreachable(error),
            Ended::Error(error) => Failure::Usage(error),
        })
    }
}

fn is_unreachable(error: &anyhow::Error) -> bool {
    let kafka = |error: &KafkaError| {
        matches!(
            error,
            KafkaError::Unreachable { .. } | KafkaError::Undelivered { refused: false, .. }
        )
    };
    let read = |error: &ReadError| match error {
        ReadError::Kafka(error) => kafka(error),
        ReadError::Silent { .. } => true,
        ReadError::Refused(_) => false,
    };
    error.chain().any(|cause| {
        cause.downcast_ref::<KafkaError>().is_some_and(kafka)
            || cause.downcast_ref::<ReadError>().is_some_and(read)
            || cause
                .downcast_ref::<OracleError>()
                .is_some_and(|e| matches!(e, OracleError::Read(e) if read(e)))
    })
}
