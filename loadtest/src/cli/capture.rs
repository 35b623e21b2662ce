//! `capture`: writes a topic into a file.

use std::path::PathBuf;

use pulsegate_loadtest::capture::Writer;
use pulsegate_loadtest::kafka::{ReadError, captured, read_all, watermarks};
use serde_json::json;

use super::shared::{Ended, KafkaArgs, print_json, progress_bar};

/// Write the committed records of a topic to a file, up to the topic's end at the start of the run.
#[derive(clap::Args)]
pub struct Args {
    /// Topic to capture.
    #[arg(long, default_value = "biometrics.raw")]
    topic: String,
    /// Output file: `.avro` is an Avro object container, anything else JSON lines as `kcat -J` writes them; `-` is the
    /// standard output. Bytes that are not UTF-8 are copied into such lines unchanged, as kcat does: prefer a container
    /// for binary payloads.
    #[arg(long)]
    output: PathBuf,
    /// Capture this partition only.
    #[arg(long)]
    partition: Option<i32>,
    /// First offset to capture, in every partition that is read.
    #[arg(long, default_value_t = 0)]
    offset: i64,
    #[command(flatten)]
    kafka: KafkaArgs,
}

pub(super) fn run(args: &Args, json: bool) -> Result<(), Ended> {
    let kafka = args.kafka.kafka();
    let mut ranges = watermarks(&kafka, &args.topic)?;
    ranges.retain(|range| {
        args.partition
            .is_none_or(|partition| partition == range.partition)
    });
    for range in &mut ranges {
        range.first = range.first.max(args.offset);
    }
    let total = ranges
        .iter()
        .map(|range| range.next.saturating_sub(range.first).max(0).unsigned_abs())
        .sum();
    let bar = progress_bar(total);
    let mut writer = Writer::create(&args.output)?;
    let mut records = 0_u64;
    read_all(&kafka, &args.topic, &ranges, |message| {
        records += 1;
        bar.inc(1);
        let written = writer.write(&captured(message));
        written.map_err(|error| {
            ReadError::Refused(format!("failed to write {}: {error}", args.output.display()))
        })
    })?;
    writer.finish()?;
    bar.finish_and_clear();
    match json {
        true if args.output.as_os_str() != "-" => print_json(&json!({ "records": records }))?,
        _ => eprintln!(
            "{records} records of `{}` captured in {}.",
            args.topic,
            args.output.display()
        ),
    }
    Ok(())
}
