//! `generate`: a signed fleet, produced to Kafka or written to a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use apache_avro::Schema;
use clap::ValueEnum;
use pulsegate_loadtest::capture::Writer;
use pulsegate_loadtest::fleet::event::Format;
use pulsegate_loadtest::fleet::keys::Profile;
use pulsegate_loadtest::fleet::{Draft, Fleet, Hostile, Made, Options, Pace, Profiles, Shape, Tally};
use pulsegate_loadtest::record::Captured;

use super::shared::{Ended, KafkaArgs, print_json, progress_bar, read_text, write_lines};

/// Make a fleet of devices, optionally with hostile ones, and sign events with its keys.
///
/// The same seed makes the same devices, people and keys. `--records 0 --keys FILE` writes only the keys.
#[derive(clap::Args)]
pub struct Args {
    /// Seed of the devices, people and keys.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of devices.
    #[arg(long, default_value_t = 100)]
    devices: u32,
    /// Number of records.
    #[arg(long, default_value_t = 10_000)]
    records: u64,
    /// Records per second; as fast as possible if not given.
    #[arg(long)]
    rate: Option<f64>,
    /// Signature profile of the devices; `mixed` uses the shares below.
    #[arg(long, value_enum, default_value_t = ProfileArg::Mixed)]
    profile: ProfileArg,
    /// Share of `mixed` devices with Ed25519.
    #[arg(long, default_value_t = 0.1)]
    ed25519: f64,
    /// Share of `mixed` devices with Standard Webhooks.
    #[arg(long, default_value_t = 0.2)]
    webhook: f64,
    /// Size of an event; `compact` is about 290 bytes with three PHI fields.
    #[arg(long, value_enum, default_value_t = ShapeArg::Full)]
    shape: ShapeArg,
    /// Encoding of events.
    #[arg(long, value_enum, default_value_t = FormatArg::Json)]
    format: FormatArg,
    /// The Avro schema of events.
    #[arg(long, default_value = "schemas/biometric_event.avsc")]
    schema: PathBuf,
    /// The registry's id of that schema: events get the Confluent framing. Without it they are Avro single objects.
    #[arg(long)]
    schema_id: Option<u32>,
    /// Include a small share of every kind of misdeed below.
    #[arg(long)]
    hostile: bool,
    /// Share of records that are forged.
    #[arg(long)]
    forged: Option<f64>,
    /// Share of records that are exact copies.
    #[arg(long)]
    replayed: Option<f64>,
    /// Share of records that are copies in another partition.
    #[arg(long)]
    misplaced: Option<f64>,
    /// Share of records signed an hour ago or an hour ahead, or for another topic.
    #[arg(long)]
    stale: Option<f64>,
    /// Share of records that come in bursts from one device.
    #[arg(long)]
    flooding: Option<f64>,
    /// Share of records that are malformed.
    #[arg(long)]
    malformed: Option<f64>,
    /// Number of records in a burst.
    #[arg(long)]
    flood_records: Option<u32>,
    /// Size in bytes of the oversized value among the malformed records; 0 makes none.
    #[arg(long, default_value_t = 0)]
    oversized_bytes: usize,
    /// Tenants, comma-separated; devices are assigned to them in turn.
    #[arg(long, value_delimiter = ',', default_value = "acme")]
    tenants: Vec<String>,
    /// Device class, which selects the gate's rate limit.
    #[arg(long, default_value = "wearable")]
    class: String,
    /// Environment: the first half of the audience.
    #[arg(long, default_value = "local")]
    environment: String,
    /// The raw topic, and the second half of the audience.
    #[arg(long, default_value = "biometrics.raw")]
    topic: String,
    /// Boot number that sequence numbers are counted in; seconds since the Unix epoch if not given.
    #[arg(long)]
    boot: Option<u64>,
    /// Event time between two events of a device, in milliseconds.
    #[arg(long, default_value_t = 60_000)]
    step_ms: i64,
    /// Event time of the first events (RFC 3339). If not given, the last events get the current time.
    #[arg(long)]
    start: Option<jiff::Timestamp>,
    /// Compression of batches.
    #[arg(long, default_value = "none", value_parser = ["none", "gzip", "snappy", "lz4", "zstd"])]
    compression: String,
    /// Write records to a file instead of Kafka (`.avro`: a container; otherwise lines of kcat; `-`: standard output).
    #[arg(long)]
    output: Option<PathBuf>,
    /// Number of partitions to spread a file's records over.
    #[arg(long, default_value_t = 8, requires = "output", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// Write the keys to a file in the form of `pulsegate device import`.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Write the keys to a file with the private halves that `replay` signs with.
    #[arg(long)]
    signing_keys: Option<PathBuf>,
    /// Write every string that must not appear behind the gate to a file, one per line.
    #[arg(long)]
    planted: Option<PathBuf>,
    #[command(flatten)]
    kafka: KafkaArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProfileArg {
    Mixed,
    JwsHs256,
    JwsEd25519,
    Webhook,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShapeArg {
    Full,
    Compact,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    Json,
    Avro,
}

pub(super) fn run(args: &Args, json: bool) -> Result<(), Ended> {
    let mut fleet = Fleet::new(args.options()?);
    if let Some(path) = &args.keys {
        write_lines(path, fleet.import_lines())?;
    }
    if let Some(path) = &args.signing_keys {
        write_lines(path, fleet.signing_lines())?;
    }
    if let Some(path) = &args.planted {
        write_lines(path, fleet.planted().into_iter())?;
    }
    let bar = progress_bar(args.records);
    let made = match &args.output {
        _ if args.records == 0 => Made::default(),
        Some(path) => write(&mut fleet, args, path, &mut |sent| bar.set_position(sent))?,
        None => {
            let pace = Pace { rate: args.rate };
            fleet.produce_at(&args.kafka.kafka(), args.records, pace, &mut |sent| {
                bar.set_position(sent)
            })?
        }
    };
    bar.finish_and_clear();
    if json {
        // The records may already be on the standard output.
        if args.output.as_deref() != Some(Path::new("-")) {
            print_json(&made)?;
        }
        return Ok(());
    }
    let rate = made.records as f64 / made.seconds.max(1e-9);
    let mean = made.value_bytes / made.records.max(1);
    eprintln!(
        "{} records of {} devices, {mean} bytes each on average, in {:.1} s ({rate:.0}/s). Expected:",
        made.records, args.devices, made.seconds
    );
    for (outcomes, count) in &made.expected {
        eprintln!("  {count:>10}  {outcomes}");
    }
    Ok(())
}

/// Writes records as a topic with that many initially empty partitions would have taken them.
fn write(fleet: &mut Fleet, args: &Args, path: &Path, progress: &mut dyn FnMut(u64)) -> anyhow::Result<Made> {
    let mut writer = Writer::create(path)?;
    let mut now_ms = jiff::Timestamp::now().as_millisecond();
    fleet.schedule(args.records, now_ms);
    let started = Instant::now();
    let pace = Pace { rate: args.rate };
    let mut offsets = vec![0; usize::try_from(args.partitions).unwrap_or_default()];
    let mut captured = Captured {
        topic: args.topic.clone(),
        broker: -1,
        ..Captured::default()
    };
    let mut draft = Draft::default();
    let mut tally = Tally::default();
    for sent in 0..args.records {
        if sent.is_multiple_of(256) {
            progress(sent);
        }
        if let Some(wait) = pace.wait(sent, started.elapsed()) {
            std::thread::sleep(wait);
        }
        now_ms = now_ms.max(jiff::Timestamp::now().as_millisecond());
        fleet.next(now_ms, &mut draft)?;
        tally.count(&draft, args.partitions);
        captured.partition = draft.partition(args.partitions);
        let offset = &mut offsets[usize::try_from(captured.partition).unwrap_or_default()];
        (captured.offset, captured.timestamp_ms) = (*offset, now_ms);
        *offset += 1;
        captured.record.clone_from(&draft.record);
        writer.write(&captured)?;
    }
    writer.finish()?;
    Ok(tally.made(Duration::max(started.elapsed(), Duration::from_nanos(1))))
}

impl Args {
    fn options(&self) -> anyhow::Result<Options> {
        let mut options = Options::new(self.seed);
        options.boot = self.boot.unwrap_or(options.boot);
        options.devices = self.devices;
        options.environment = self.environment.clone();
        options.topic = self.topic.clone();
        options.tenants = self.tenants.clone();
        options.class = self.class.clone();
        options.profiles = match self.profile {
            ProfileArg::Mixed => Profiles {
                ed25519: self.ed25519,
                webhook: self.webhook,
            },
            ProfileArg::JwsHs256 => Profiles::only(Profile::JwsHs256),
            ProfileArg::JwsEd25519 => Profiles::only(Profile::JwsEd25519),
            ProfileArg::Webhook => Profiles::only(Profile::Webhook),
        };
        options.hostile = self.hostility();
        options.shape = match self.shape {
            ShapeArg::Full => Shape::Full,
            ShapeArg::Compact => Shape::Compact,
        };
        options.format = self.format()?;
        options.start_ms = self.start.map(jiff::Timestamp::as_millisecond);
        options.step_ms = self.step_ms;
        options.compression = self.compression.clone();
        Ok(options)
    }

    fn hostility(&self) -> Hostile {
        let mut hostile = if self.hostile {
            Hostile::some()
        } else {
            Hostile::default()
        };
        let shares = [
            (&mut hostile.forged, self.forged),
            (&mut hostile.replayed, self.replayed),
            (&mut hostile.misplaced, self.misplaced),
            (&mut hostile.stale, self.stale),
            (&mut hostile.flooding, self.flooding),
            (&mut hostile.malformed, self.malformed),
        ];
        for (share, asked) in shares {
            *share = asked.unwrap_or(*share);
        }
        hostile.flood_records = self.flood_records.unwrap_or(hostile.flood_records);
        hostile.oversized_bytes = self.oversized_bytes;
        hostile
    }

    fn format(&self) -> anyhow::Result<Format> {
        if matches!(self.format, FormatArg::Json) {
            return Ok(Format::Json);
        }
        let schema = Schema::parse_str(&read_text(&self.schema)?);
        let schema =
            Arc::new(schema.with_context(|| format!("{} is not an Avro schema", self.schema.display()))?);
        Ok(match self.schema_id {
            Some(id) => Format::AvroConfluent { schema, id },
            None => Format::AvroSingleObject { schema },
        })
    }
}
