//! `replay`: captured records and recordings, produced again.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use pulsegate_loadtest::fleet::keys::KeyLine;
use pulsegate_loadtest::kafka::Producer;
use pulsegate_loadtest::oracle::Keys;
use pulsegate_loadtest::replay;
use pulsegate_loadtest::replay::{Recording, Replayed, Resigner, Speed, Target, series, wearer};

use super::{Ended, KafkaArgs, print_json, read_keys, write_lines};

/// Produce captured records again, signed anew so that they are fresh, or recordings in CSV as readings of devices.
///
/// Signatures that did not hold stay as they were, records that were signed late or early stay so, repeats stay repeats.
#[derive(clap::Args)]
pub struct Args {
    /// Files: `.avro` is a container of `capture`, `.csv` a recording (first column `ts` or `t_s`, then metrics), anything
    /// else JSON lines of `kcat -J`; `-` is the standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Device keys, as `generate --signing-keys` writes them (an import file will do where no device has Ed25519).
    #[arg(long, required_unless_present = "as_is")]
    keys: Option<PathBuf>,
    /// Keep the captured signatures.
    #[arg(long, conflicts_with = "keys")]
    as_is: bool,
    /// How many times as fast as it was, or `max`.
    #[arg(long, default_value = "max")]
    speed: Speed,
    /// Produce into the partition that a record was captured from, where it exists, instead of its home.
    #[arg(long)]
    keep_partitions: bool,
    /// The device of a recording; can be repeated, in the order of the recordings. The keys' devices in their order
    /// unless said.
    #[arg(long = "device")]
    devices: Vec<String>,
    /// Rows of a recording in one event.
    #[arg(long, default_value_t = series::ROWS_PER_EVENT)]
    rows_per_event: usize,
    /// When a recording begins that counts from its start (RFC 3339). A day ago unless said.
    #[arg(long)]
    start: Option<jiff::Timestamp>,
    /// Write the strings of the made-up wearers that must not be found behind the gate, one a line.
    #[arg(long)]
    planted: Option<PathBuf>,
    /// The boot to count in; higher than any that the devices have used. Seconds since the Unix epoch unless said.
    #[arg(long)]
    boot: Option<u64>,
    /// First half of the audience.
    #[arg(long, default_value = "local")]
    environment: String,
    /// The topic, and second half of the audience.
    #[arg(long, default_value = "biometrics.raw")]
    topic: String,
    /// Compression of batches.
    #[arg(long, default_value = "none", value_parser = ["none", "gzip", "snappy", "lz4", "zstd"])]
    compression: String,
    #[command(flatten)]
    kafka: KafkaArgs,
}

pub(super) fn run(args: &Args, json: bool) -> Result<(), Ended> {
    let keys = args.keys.as_deref().map(read_keys).transpose()?;
    let mut resigner = match &keys {
        Some((text, lines)) => Some(args.resigner(text, lines)?),
        None => None,
    };
    let is_csv = |path: &&PathBuf| {
        path.extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("csv"))
    };
    let (csv, files): (Vec<_>, Vec<_>) = args.files.iter().partition(is_csv);
    let recordings = args.recordings(&csv, keys.as_ref().map_or(&[], |(_, lines)| lines))?;
    if let Some(path) = &args.planted {
        let wearers = recordings.iter().map(|recording| wearer(&recording.device));
        write_lines(
            path,
            wearers.flat_map(|person| [person.id, person.name, person.mrn, person.email, person.phone]),
        )?;
    }
    let producer = Producer::new(&args.kafka.kafka(), &args.topic, &args.compression)?;
    let mut target = Target::new(producer, args.speed, args.keep_partitions);
    let mut replayed = Replayed::default();
    for file in files {
        replay::captured(file, resigner.as_mut(), &mut target, &mut replayed)?;
    }
    if let Some(resigner) = resigner.as_mut().filter(|_| !recordings.is_empty()) {
        const DAY_MS: i64 = 86_400_000;
        let start_ms = args.start.map(jiff::Timestamp::as_millisecond);
        let start_ms = start_ms.unwrap_or_else(|| jiff::Timestamp::now().as_millisecond() - DAY_MS);
        replay::recordings(&recordings, start_ms, resigner, &mut target, &mut replayed)?;
    }
    target.producer.finish()?;
    if json {
        print_json(&replayed)?;
    } else {
        let Replayed {
            records,
            signed,
            not_held,
            no_key,
            readings,
        } = replayed;
        println!(
            "{records} records produced to `{}`, {signed} of them signed anew.",
            args.topic
        );
        if not_held + no_key > 0 {
            println!(
                "As they were: {not_held} whose signature did not hold, {no_key} without a key to sign with."
            );
        }
        readings
            .iter()
            .for_each(|(file, count)| println!("  {count:>8} readings of {file}"));
    }
    Ok(())
}

impl Args {
    fn resigner(&self, text: &str, lines: &[KeyLine]) -> anyhow::Result<Resigner> {
        let boot = self
            .boot
            .unwrap_or_else(|| jiff::Timestamp::now().as_second().unsigned_abs());
        let audience = format!("{}/{}", self.environment, self.topic);
        Ok(Resigner::new(lines, Keys::read(text.lines())?, audience, boot))
    }

    fn recordings(&self, files: &[&PathBuf], keys: &[KeyLine]) -> anyhow::Result<Vec<Recording>> {
        if self.as_is && !files.is_empty() {
            anyhow::bail!("a recording has no signature to keep: give --keys instead of --as-is");
        }
        let of_keys = || keys.iter().map(|line| line.device.clone());
        let mut devices: Vec<String> = if self.devices.is_empty() {
            of_keys().collect()
        } else {
            self.devices.clone()
        };
        devices.dedup();
        if devices.len() < files.len() {
            anyhow::bail!(
                "{} recordings need as many devices, and there are {}",
                files.len(),
                devices.len()
            );
        }
        let read = |(path, device): (&&PathBuf, String)| {
            let open = || -> anyhow::Result<_> { Ok(series::read(File::open(path)?, self.rows_per_event)?) };
            let series = open().with_context(|| format!("{} cannot be replayed", path.display()))?;
            Ok(Recording {
                name: file_name(path),
                device,
                series,
            })
        };
        files.iter().zip(devices).map(read).collect()
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
