//! Produces the fleet's records to Kafka at a given pace.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Draft, Fleet, Kind};
use crate::kafka::{Kafka, Producer};
use crate::outcome::{Outcome, Outcomes};

/// Progress is reported and the clock is read once per this many records.
const RECORDS_PER_TICK: u64 = 256;

/// A steady number of records per second. The caller supplies the clock.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Records per second; `None` is as fast as possible.
    pub rate: Option<f64>,
}

/// Counts of a generator run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Made {
    /// Number of records.
    pub records: u64,
    /// Total bytes of their values.
    pub value_bytes: u64,
    /// Records by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Records by their expected outcomes, such as `clean` or `clean or rate_limited`.
    pub expected: BTreeMap<String, u64>,
    /// Seconds from the first record to the last acknowledgement.
    pub seconds: f64,
}

impl Pace {
    /// As fast as possible.
    pub const UNBOUNDED: Self = Self { rate: None };

    /// How long to wait before record `sent` (counted from 0) when `elapsed` has passed.
    #[must_use]
    pub fn wait(self, sent: u64, elapsed: Duration) -> Option<Duration> {
        let due = Duration::try_from_secs_f64(sent as f64 / self.rate?).ok()?;
        due.checked_sub(elapsed)
            .filter(|wait| *wait > Duration::from_millis(1))
    }
}

impl Made {
    /// Number of records for which exactly this outcome is expected.
    #[must_use]
    pub fn expected(&self, outcome: Outcome) -> u64 {
        self.expected.get(outcome.as_str()).copied().unwrap_or_default()
    }
}

/// Counts generated records; names are only formatted at the end.
#[derive(Default)]
pub struct Tally {
    counts: BTreeMap<(Kind, Outcomes), u64>,
    value_bytes: u64,
}

impl Tally {
    /// Counts a record of a topic with that many partitions.
    pub fn count(&mut self, draft: &Draft, partitions: i32) {
        *self
            .counts
            .entry((draft.kind, draft.expected_among(partitions)))
            .or_default() += 1;
        self.value_bytes += draft.record.value.as_ref().map_or(0, |value| value.len() as u64);
    }

    /// Totals by name.
    #[must_use]
    pub fn made(&self, elapsed: Duration) -> Made {
        let mut made = Made {
            value_bytes: self.value_bytes,
            seconds: elapsed.as_secs_f64(),
            ..Made::default()
        };
        for ((kind, expected), count) in &self.counts {
            made.records += count;
            *made.kinds.entry(format!("{kind:?}")).or_default() += count;
            *made.expected.entry(expected.to_string()).or_default() += count;
        }
        made
    }
}

impl Fleet {
    /// Makes records as fast as possible and produces them to the options' topic; see [`produce_at`](Self::produce_at).
    ///
    /// # Errors
    /// When Kafka cannot be reached or refuses a record.
    pub fn produce(
        &mut self,
        kafka: &Kafka,
        records: u64,
        progress: &mut dyn FnMut(u64),
    ) -> anyhow::Result<Made> {
        self.produce_at(kafka, records, Pace::UNBOUNDED, progress)
    }

    /// Makes and produces records at a pace, calls `progress` with the number of records sent so far, and waits until
    /// the brokers have acknowledged all of them. Blocking: in asynchronous code call it from a thread of its own.
    ///
    /// # Errors
    /// When Kafka cannot be reached or refuses a record.
    pub fn produce_at(
        &mut self,
        kafka: &Kafka,
        records: u64,
        pace: Pace,
        progress: &mut dyn FnMut(u64),
    ) -> anyhow::Result<Made> {
        let mut producer = Producer::new(kafka, &self.options.topic, &self.options.compression)?;
        let mut now_ms = jiff::Timestamp::now().as_millisecond();
        self.schedule(records, now_ms);
        let started = Instant::now();
        let mut tally = Tally::default();
        let mut draft = Draft::default();
        for sent in 0..records {
            if sent.is_multiple_of(RECORDS_PER_TICK) {
                now_ms = jiff::Timestamp::now().as_millisecond();
                progress(sent);
            }
            if pace.rate.is_some() {
                while let Some(wait) = pace.wait(sent, started.elapsed()) {
                    producer.idle(wait.min(Duration::from_millis(50)));
                }
                now_ms = jiff::Timestamp::now().as_millisecond();
            }
            self.next(now_ms, &mut draft)?;
            let partitions = producer.partitions();
            producer.send(&draft.record, draft.partition(partitions));
            tally.count(&draft, partitions);
        }
        producer.finish()?;
        progress(records);
        Ok(tally.made(started.elapsed()))
    }
}
