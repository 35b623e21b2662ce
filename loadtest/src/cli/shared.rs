//! What several commands need: the cluster, files, progress and output.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use pulsegate_loadtest::fleet::keys::KeyLine;
use pulsegate_loadtest::kafka::Kafka;

/// How a command ended, before its error is sorted into a [`Failure`].
pub(super) enum Ended {
    Wrong,
    Error(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// The Kafka cluster to use.
#[derive(clap::Args)]
pub(super) struct KafkaArgs {
    /// Addresses of the brokers, comma-separated.
    #[arg(long, env = "PULSEGATE_KAFKA__BROKERS", default_value = "127.0.0.1:9092")]
    brokers: String,
    /// A librdkafka setting, such as `security.protocol=ssl`; can be repeated.
    #[arg(long = "kafka-set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

impl KafkaArgs {
    pub(super) fn kafka(&self) -> Kafka {
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
pub(super) fn read_keys(path: &Path) -> anyhow::Result<(String, Vec<KeyLine>)> {
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

pub(super) fn read_text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

pub(super) fn write_lines(path: &Path, lines: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut text = lines.collect::<Vec<_>>().join("\n");
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

/// A progress bar on the standard error; it shows nothing if that is not a terminal.
pub(super) fn progress_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template("{msg:12} {wide_bar} {human_pos}/{human_len} {per_sec}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}
