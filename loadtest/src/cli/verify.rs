//! `verify`: runs the oracle.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use apache_avro::Schema;
use pulsegate_loadtest::kafka::Range;
use pulsegate_loadtest::oracle::{self, AvroSchemas, Config, Keys, Mark, Rate, Rules, Topics};

use super::shared::{Ended, KafkaArgs, print_json, progress_bar, read_text};

/// Check clean, deadletter and ledger against raw: every record accounted for once, with the outcome it deserves.
///
/// Run it when the gate has caught up: a record that it has not reached yet counts as unaccounted.
#[derive(clap::Args)]
pub struct Args {
    /// Device keys, as `pulsegate device import` takes them.
    #[arg(long, required_unless_present = "write_mark")]
    keys: Option<PathBuf>,
    /// Common prefix of the topics' names.
    #[arg(long, default_value = "biometrics")]
    prefix: String,
    /// The raw topic, if it is not `<prefix>.raw`.
    #[arg(long)]
    raw: Option<String>,
    /// The clean topic, if it is not `<prefix>.clean`.
    #[arg(long)]
    clean: Option<String>,
    /// The deadletter topic, if it is not `<prefix>.deadletter`.
    #[arg(long)]
    deadletter: Option<String>,
    /// The ledger topic, if it is not `<prefix>.ledger`.
    #[arg(long)]
    ledger: Option<String>,
    /// Environment: the first half of the audience.
    #[arg(long, default_value = "local")]
    environment: String,
    /// Write the topics' current ends to a file, and verify nothing.
    #[arg(long, value_name = "FILE")]
    write_mark: Option<PathBuf>,
    /// Account only for records after a mark.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// Account only for these raw offsets of a partition; can be repeated.
    #[arg(long = "range", value_name = "PARTITION:FIRST..NEXT", value_parser = range)]
    ranges: Vec<Range>,
    /// Strings, one per line, that must not appear in clean, deadletter or ledger.
    #[arg(long)]
    planted: Option<PathBuf>,
    /// The Avro schema of raw events, if they are Avro.
    #[arg(long)]
    schema: Option<PathBuf>,
    /// The registry's id of that schema; can be repeated.
    #[arg(long = "schema-id")]
    schema_ids: Vec<u32>,
    /// The Avro schema of clean records, if they are Avro.
    #[arg(long)]
    clean_schema: Option<PathBuf>,
    /// The gate's `gate.verify.freshness_seconds`.
    #[arg(long, default_value_t = 300)]
    freshness_seconds: u32,
    /// The gate's `gate.verify.value_bytes_max`.
    #[arg(long, default_value_t = 1 << 20)]
    value_bytes_max: usize,
    /// The gate's `gate.verify.budget.failures_burst`.
    #[arg(long, default_value_t = 20_000)]
    failures_burst: u64,
    /// The gate's `gate.admit.window_messages`.
    #[arg(long, default_value_t = 512)]
    window_messages: u64,
    /// The gate's `gate.admit.rate.events_per_minute`.
    #[arg(long, default_value_t = 6_000)]
    events_per_minute: u32,
    /// The gate's `gate.admit.rate.burst`.
    #[arg(long, default_value_t = 1_000)]
    burst: u32,
    /// Device classes have their own rates: do not judge rate-limited records.
    #[arg(long)]
    any_rate: bool,
    #[command(flatten)]
    kafka: KafkaArgs,
}

pub(super) fn run(args: &Args, json: bool) -> Result<(), Ended> {
    let config = args.config()?;
    if let Some(path) = &args.write_mark {
        let mark = Mark::take(&config.kafka, &config.topics)?;
        let text = serde_json::to_string(&mark)?;
        std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
        return Ok(());
    }
    let text = args
        .keys
        .as_deref()
        .map(read_text)
        .transpose()?
        .unwrap_or_default();
    let keys = Keys::read(text.lines())?;
    let bar = progress_bar(0);
    let report = oracle::verify(&config, &keys, &mut |progress| {
        bar.set_message(progress.stage);
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();
    if json {
        print_json(&report)?;
    } else {
        println!("{report}");
    }
    if report.is_good() {
        Ok(())
    } else {
        Err(Ended::Wrong)
    }
}

fn range(text: &str) -> Result<Range, &'static str> {
    let parse = || {
        let (partition, offsets) = text.split_once(':')?;
        let (first, next) = offsets.split_once("..")?;
        Some(Range {
            partition: partition.parse().ok()?,
            first: first.parse().ok()?,
            next: next.parse().ok()?,
        })
    };
    parse()
        .filter(|range| range.first <= range.next)
        .ok_or("a range is PARTITION:FIRST..NEXT, such as 3:0..1000")
}

impl Args {
    fn config(&self) -> anyhow::Result<Config> {
        let mut topics = Topics::prefixed(&self.prefix);
        let named = [
            (&mut topics.raw, &self.raw),
            (&mut topics.clean, &self.clean),
            (&mut topics.deadletter, &self.deadletter),
            (&mut topics.ledger, &self.ledger),
        ];
        for (topic, asked) in named {
            topic.clone_from(asked.as_ref().unwrap_or(&topic.clone()));
        }
        let schema = |path: &PathBuf| {
            Schema::parse_str(&read_text(path)?)
                .with_context(|| format!("{} is not an Avro schema", path.display()))
        };
        let event = self.schema.as_ref().map(schema).transpose()?.map(Arc::new);
        let since = |path: &PathBuf| -> anyhow::Result<Mark> {
            serde_json::from_str(&read_text(path)?)
                .with_context(|| format!("{} is not a mark", path.display()))
        };
        let planted = self
            .planted
            .as_deref()
            .map(read_text)
            .transpose()?
            .unwrap_or_default();
        Ok(Config {
            topics,
            environment: self.environment.clone(),
            rules: Rules {
                value_bytes_max: self.value_bytes_max,
                freshness_ms: i64::from(self.freshness_seconds) * 1000,
                failures_burst: self.failures_burst,
                replay_window: self.window_messages,
                rate: (!self.any_rate).then_some(Rate {
                    events_per_minute: self.events_per_minute,
                    burst: self.burst,
                }),
                avro: AvroSchemas {
                    event,
                    ids: self.schema_ids.clone(),
                },
                ..Rules::default()
            },
            since: self.since.as_ref().map(since).transpose()?,
            raw_ranges: self.ranges.clone(),
            planted: planted
                .lines()
                .filter(|line| !line.is_empty())
                .map(str::to_owned)
                .collect(),
            clean_schema: self.clean_schema.as_ref().map(schema).transpose()?,
            ..Config::new(self.kafka.kafka())
        })
    }
}
