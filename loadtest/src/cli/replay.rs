//! `replay`: produces captured records and recordings again.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use pulsegate_loadtest::fleet::keys::KeyLine;
use pulsegate_loadtest::kafka::Producer;
use pulsegate_loadtest::oracle::Keys;
use pulsegate_loadtest::replay;
use pulsegate_loadtest::replay::{Recording, Replayed, Resigner, Speed, Target, series, wearer};

use super::shared::{Ended, KafkaArgs, print_json, read_keys, write_lines};

/// Produce captured records again, with fresh signatures, or CSV recordings as readings of devices.
///
/// Invalid signatures are kept, a record signed late or early keeps its delay, and a repeat remains a repeat.
#[derive(clap::Args)]
pub struct Args {
    /// Input files: `.avro` is a container of `capture`, `.csv` a recording (first column `ts` or `t_s`, then metrics),
    /// anything else JSON lines of `kcat -J`; `-` is the standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Device keys, as `generate --signing-keys` writes them (an import file suffices if no device uses Ed25519).
    #[arg(long, required_unless_present = "as_is")]
    keys: Option<PathBuf>,
    /// Keep the captured signatures.
    #[arg(long, conflicts_with = "keys")]
    as_is: bool,
    /// Speed as a multiple of the original, or `max`.
    #[arg(long, default_value = "max")]
    speed: Speed,
    /// Produce each record to the partition it was captured from, if that exists, instead of its home.
    #[arg(long)]
    keep_partitions: bool,
    /// Device of a recording; can be repeated, in the order of the recordings. If not given, the devices of the keys
    /// file in their order.
    #[arg(long = "device")]
    devices: Vec<String>,
    /// Number of rows of a recording in one event.
    #[arg(long, default_value_t = series::ROWS_PER_EVENT)]
    rows_per_event: usize,
    /// Start time (RFC 3339) of a recording whose times are relative; a day ago if not given.
    #[arg(long)]
    start: Option<jiff::Timestamp>,
    /// Write the strings of the synthetic wearers that must not appear behind the gate to a file, one per line.
    #[arg(long)]
    planted: Option<PathBuf>,
    /// Boot number to sign with, higher than any the devices have used; seconds since the Unix epoch if not given.
    #[arg(long)]
    boot: Option<u64>,
    /// Environment: the first half of the audience.
    #[arg(long, default_value = "local")]
    environment: String,
    /// The topic, and the second half of the audience.
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
            "{records} records produced to `{}`, {signed} of them with a new signature.",
            args.topic
        );
        if not_held + no_key > 0 {
            println!(
                "Unchanged: {not_held} with a signature that is invalid or for another audience, {no_key} without a \
                 signing key."
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
                "{} recordings need as many devices, but there are {}; name them with --device or extend the keys file",
                files.len(),
                devices.len()
            );
        }
        let read = |(path, device): (&&PathBuf, String)| {
            let open = || -> anyhow::Result<_> { Ok(series::read(File::open(path)?, self.rows_per_event)?) };
            let series = open().with_context(|| format!("failed to replay {}", path.display()))?;
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
