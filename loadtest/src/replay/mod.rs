//! Replay of earlier streams: captured records with new signatures, and recordings as events of given devices.

mod resign;
pub mod series;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::capture;
use crate::fleet::event::{BiometricEvent, Format, Subject};
use crate::fleet::person::Person;
use crate::kafka::Producer;
use crate::murmur2;
use crate::record::{Captured, Record};
pub use resign::{Resigned, Resigner};

/// Pace of a replay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// Multiple of the original speed.
    Times(f64),
    /// As fast as possible.
    Max,
}

impl std::str::FromStr for Speed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<f64>() {
            _ if text == "max" => Ok(Self::Max),
            Ok(times) if times.is_finite() && times > 0.0 => Ok(Self::Times(times)),
            _ => Err("a speed is `max` or a number above 0, such as 60 for a minute in a second"),
        }
    }
}

/// Counts of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Number of records produced.
    pub records: u64,
    /// Number of these, captured records or events, that carry a new signature.
    pub signed: u64,
    /// Captured records sent unchanged because their signature is invalid or for another audience.
    pub not_held: u64,
    /// Captured records sent unchanged because no key is available to sign with.
    pub no_key: u64,
    /// Number of readings by recording file.
    pub readings: BTreeMap<String, u64>,
}

/// Destination and pace of a replay.
pub struct Target {
    /// Producer of the destination topic.
    pub producer: Producer,
    /// Pace.
    pub speed: Speed,
    /// Sends each record to the partition it was captured from, if the topic has it, instead of its home.
    pub keep_partitions: bool,
    started: Instant,
    first_ms: Option<i64>,
    sent: u64,
}

impl Target {
    /// A target that has received nothing yet.
    #[must_use]
    pub fn new(producer: Producer, speed: Speed, keep_partitions: bool) -> Self {
        Self {
            producer,
            speed,
            keep_partitions,
            started: Instant::now(),
            first_ms: None,
            sent: 0,
        }
    }

    /// Waits until a record of the time `at_ms` is due.
    fn wait(&mut self, at_ms: i64) {
        let first_ms = *self.first_ms.get_or_insert(at_ms);
        let Speed::Times(times) = self.speed else { return };
        let due_s = at_ms.saturating_sub(first_ms).max(0) as f64 / 1000.0 / times;
        let due = Duration::try_from_secs_f64(due_s).unwrap_or(Duration::MAX);
        while let Some(wait) = due
            .checked_sub(self.started.elapsed())
            .filter(|wait| !wait.is_zero())
        {
            self.producer.idle(wait.min(Duration::from_millis(50)));
        }
    }

    fn send(&mut self, record: &Record, captured_in: Option<i32>) {
        let partitions = self.producer.partitions();
        let kept =
            captured_in.filter(|partition| self.keep_partitions && (0..partitions).contains(partition));
        let home = || murmur2::home(record.key.as_deref().unwrap_or_default(), partitions);
        self.producer.send(record, kept.unwrap_or_else(home));
        self.sent += 1;
    }
}

/// Replays a file of captured records. Without a resigner every record is sent unchanged.
///
/// # Errors
/// When the file cannot be read.
pub fn captured(
    path: &Path,
    mut resigner: Option<&mut Resigner>,
    target: &mut Target,
    replayed: &mut Replayed,
) -> anyhow::Result<()> {
    let visit = |mut captured: Captured| {
        target.wait(captured.timestamp_ms);
        match resigner
            .as_mut()
            .map(|resigner| resigner.resign(&mut captured, now_ms()))
        {
            Some(Resigned::Anew) => replayed.signed += 1,
            Some(Resigned::DidNotHold) => replayed.not_held += 1,
            Some(Resigned::NoKey) => replayed.no_key += 1,
            None => {}
        }
        replayed.records += 1;
        target.send(&captured.record, Some(captured.partition));
        Ok(())
    };
    capture::each_record(path, visit).with_context(|| format!("failed to replay {}", path.display()))
}

/// A recording and the device it is attributed to.
pub struct Recording {
    /// File name, for the report.
    pub name: String,
    /// Device id.
    pub device: String,
    /// Measured values.
    pub series: series::Series,
}

/// Replays recordings, merged by time. A recording with relative times begins at `start_ms`; one with calendar times
/// keeps its dates. Wearers are synthesised from the device ids.
///
/// # Errors
/// When a device has no key to sign with.
pub fn recordings(
    recordings: &[Recording],
    start_ms: i64,
    resigner: &mut Resigner,
    target: &mut Target,
    replayed: &mut Replayed,
) -> anyhow::Result<()> {
    let mut order: Vec<(i64, usize, usize)> = Vec::new();
    for (recording, of) in recordings.iter().enumerate() {
        let from_ms = if of.series.relative { start_ms } else { 0 };
        let batches = of.series.batches.iter().enumerate();
        order.extend(batches.map(|(batch, data)| (data.at_ms.saturating_add(from_ms), recording, batch)));
    }
    order.sort_unstable();
    let wearers: Vec<Person> = recordings
        .iter()
        .map(|recording| wearer(&recording.device))
        .collect();
    // Event ids must differ between replays, so their seed is the clock, not the recording.
    let mut rng = ChaCha8Rng::seed_from_u64(now_ms().unsigned_abs());
    let mut record = Record::default();
    for (at_ms, index, batch) in order {
        target.wait(at_ms);
        let Recording { name, device, series } = &recordings[index];
        let readings = &series.batches[batch].readings;
        let person = &wearers[index];
        let event = BiometricEvent {
            event_id: uuid::Builder::from_random_bytes(rng.random()).into_uuid(),
            device_id: device,
            subject: Subject {
                id: &person.id,
                name: Some(&person.name),
                mrn: Some(&person.mrn),
                birth_date: Some(person.birth_date),
                email: Some(&person.email),
                phone: Some(&person.phone),
            },
            recorded_at: jiff::Timestamp::from_millisecond(at_ms)?,
            firmware: person.firmware,
            model: person.model,
            location: None,
            readings,
            note: None,
        };
        Format::Json.write(&event, record.value.get_or_insert_default())?;
        record.key = Some(device.clone().into_bytes());
        if resigner.sign(device, &mut record, now_ms()) != Resigned::Anew {
            anyhow::bail!("no signing key for device `{device}`; choose a device of the keys file");
        }
        target.send(&record, None);
        replayed.records += 1;
        replayed.signed += 1;
        *replayed.readings.entry(name.clone()).or_default() += readings.len() as u64;
    }
    Ok(())
}

/// Synthetic wearer of a device.
#[must_use]
pub fn wearer(device: &str) -> Person {
    let seed = device.bytes().fold(0_u64, |seed, byte| {
        seed.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    Person::make(
        &format!("wearer-of-{device}"),
        &mut ChaCha8Rng::seed_from_u64(seed),
    )
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
