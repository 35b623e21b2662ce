//! The commands of `pulsegate-loadtest`.

mod capture;
mod generate;
mod replay;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use pulsegate_loadtest::fleet::keys::KeyLine;
use pulsegate_loadtest::kafka::{Kafka, KafkaError, ReadError};
use pulsegate_loadtest::oracle::OracleError;

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

/// How a command ended, before its error is sorted into a [`Failure`].
enum Ended {
    Wrong,
    Error(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Error(error.into())
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

/// The Kafka cluster to use.
#[derive(clap::Args)]
struct KafkaArgs {
    /// Addresses of the brokers, comma-separated.
    #[arg(long, env = "PULSEGATE_KAFKA__BROKERS", default_value = "127.0.0.1:9092")]
    brokers: String,
    /// A librdkafka setting, such as `security.protocol=ssl`; can be repeated.
    #[arg(long = "kafka-set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

impl KafkaArgs {
    fn kafka(&self) -> Kafka {
        let settings: BTreeMap<_, _> = self.settings.iter().cloned().collect();
        Kafka {
            brokers: self.brokers.clone(),
            settings,
        }
    }
}

fn setting(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("a setting is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Reads the lines of a keys file.
fn read_keys(path: &Path) -> anyhow::Result<(String, Vec<KeyLine>)> {
    let text = read_text(path)?;
    let parse = |(index, line): (usize, &str)| -> anyhow::Result<KeyLine> {
        // serde's message may quote the value, so it is not passed on.
        serde_json::from_str(line)
            .map_err(|_| anyhow::anyhow!("line {} of {} is not a device key", index + 1, path.display()))
    };
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(parse)
        .collect::<Result<_, _>>()?;
    Ok((text, lines))
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

fn write_lines(path: &Path, lines: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut text = lines.collect::<Vec<_>>().join("\n");
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

/// A progress bar on the standard error; it shows nothing if that is not a terminal.
fn progress_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template("{msg:12} {wide_bar} {human_pos}/{human_len} {per_sec}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}
