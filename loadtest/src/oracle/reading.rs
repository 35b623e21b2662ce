//! Reads the four topics, one after the other, into lanes.

use aho_corasick::AhoCorasick;
use rdkafka::Message as _;
use rdkafka::Timestamp;
use rdkafka::message::BorrowedMessage;
use sha2::{Digest, Sha256};

use super::config::{Config, OracleError, Progress};
use super::event;
use super::judge::{Evidence, Judge};
use super::keys::Keys;
use super::lane::Lane;
use super::ledger::Chain;
use super::mark::{self, Mark};
use super::report::{Problem, Report};
use super::signature::Headers;
use super::topics::Topics;
use crate::kafka::{Range, ReadError, each_header, read_all, watermarks};
use crate::outcome::Outcome;

/// The topics while they are read into lanes.
pub(super) struct Reading<'a> {
    config: &'a Config,
    pub(super) progress: &'a mut dyn FnMut(Progress),
    pub(super) lanes: Vec<Lane>,
    planted: AhoCorasick,
    pub(super) report: Report,
}

impl<'a> Reading<'a> {
    pub(super) fn open(
        config: &'a Config,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<Self, OracleError> {
        let Topics { raw, ledger, .. } = &config.topics;
        let raw_log = watermarks(&config.kafka, raw)?;
        let ledger_log = watermarks(&config.kafka, ledger)?;
        let (partitions, expected) = (ledger_log.len(), raw_log.len());
        if partitions != expected {
            let (topic, raw) = (ledger.clone(), raw.clone());
            return Err(OracleError::Partitions {
                topic,
                partitions,
                raw,
                expected,
            });
        }
        let lane = |(whole, ledger_range): (&Range, &Range)| {
            let since = config.since.as_ref().map_or(0, |mark| mark.raw(whole.partition));
            let asked = config
                .raw_ranges
                .iter()
                .find(|range| range.partition == whole.partition);
            let first = whole.first.max(since).max(asked.map_or(0, |range| range.first));
            let next = whole
                .next
                .min(asked.map_or(i64::MAX, |range| range.next))
                .max(first);
            let range = Range {
                partition: whole.partition,
                first,
                next,
            };
            let from_start = config.since.is_none() && ledger_range.first == 0;
            Lane::new(range, Chain::new(ledger, raw, whole.partition, from_start))
        };
        let planted: Vec<String> = config
            .planted
            .iter()
            .flat_map(|text| [text.clone(), escaped(text)])
            .collect();
        let planted = AhoCorasick::new(planted.iter().filter(|text| !text.is_empty()))?;
        let report = Report {
            planted_strings: config.planted.len() as u64,
            ..Report::default()
        };
        Ok(Self {
            config,
            progress,
            lanes: raw_log.iter().zip(&ledger_log).map(lane).collect(),
            planted,
            report,
        })
    }

    pub(super) fn ledger(&mut self) -> Result<(), OracleError> {
        let topic = &self.config.topics.ledger;
        self.read("ledger", topic, Mark::ledger, |message, lane, _, report| {
            lane.chain.push(
                message.offset(),
                message.key(),
                message.payload().unwrap_or_default(),
                report,
            );
        })
    }

    pub(super) fn deadletter(&mut self) -> Result<(), OracleError> {
        let topic = &self.config.topics.deadletter;
        self.read(
            "deadletter",
            topic,
            Mark::deadletter,
            |message, lane, config, report| {
                report.deadletter_records += 1;
                match read_deadletter(message, &config.topics.raw) {
                    Some((origin, received_ms, outcome)) => {
                        lane.push_dead(message.offset(), origin, received_ms, outcome)
                    }
                    None => {
                        let detail =
                            "pg-reason, pg-stage, pg-origin or pg-received is missing, duplicated or invalid";
                        let (partition, offset) = (message.partition(), message.offset());
                        report.note(
                            Problem::DeadletterMalformed,
                            &config.topics.deadletter,
                            partition,
                            offset,
                            detail,
                        );
                    }
                }
            },
        )
    }

    pub(super) fn clean(&mut self) -> Result<(), OracleError> {
        let topic = &self.config.topics.clean;
        self.read("clean", topic, Mark::clean, |message, lane, config, report| {
            report.clean_records += 1;
            match event::clean_id(
                message.payload().unwrap_or_default(),
                config.clean_schema.as_ref(),
            ) {
                Some(event) => lane.push_clean(message.offset(), event),
                None => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let detail = "neither JSON with an event_id, nor Avro of the clean schema";
                    report.note(
                        Problem::CleanUnreadable,
                        &config.topics.clean,
                        partition,
                        offset,
                        detail,
                    );
                }
            }
        })
    }

    /// Reads a topic behind the gate: searches it for planted strings and passes each record to its lane.
    fn read(
        &mut self,
        stage: &'static str,
        topic: &str,
        since: impl Fn(&Mark, i32) -> i64,
        mut take: impl FnMut(&BorrowedMessage<'_>, &mut Lane, &Config, &mut Report),
    ) -> Result<(), OracleError> {
        let Self {
            config,
            progress,
            lanes,
            planted,
            report,
        } = self;
        let mut ranges = watermarks(&config.kafka, topic)?;
        if ranges.len() != lanes.len() {
            let (topic, raw) = (topic.to_owned(), config.topics.raw.clone());
            return Err(OracleError::Partitions {
                topic,
                partitions: ranges.len(),
                raw,
                expected: lanes.len(),
            });
        }
        for range in &mut ranges {
            range.first = range.first.max(
                config
                    .since
                    .as_ref()
                    .map_or(0, |mark| since(mark, range.partition)),
            );
        }
        let mut meter = Meter::new(stage, &ranges, config.records_max, progress);
        read_all(&config.kafka, topic, &ranges, |message| {
            meter.tick()?;
            if let Some(place) = find_planted(planted, message) {
                let detail = format!("in its {place}");
                report.note(
                    Problem::PlantedPhi,
                    topic,
                    message.partition(),
                    message.offset(),
                    detail,
                );
            }
            if let Some(lane) = lane_of(lanes, message) {
                take(message, lane, config, report);
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Reads the raw topic and judges each record. Records before the range are read as far back as a record of the
    /// range can be a repeat of them.
    pub(super) fn raw(&mut self, keys: &Keys) -> Result<(), OracleError> {
        let Self {
            config,
            progress,
            lanes,
            report,
            ..
        } = self;
        let topic = &config.topics.raw;
        let partitions = i32::try_from(lanes.len()).unwrap_or(i32::MAX);
        let audience = format!("{}/{topic}", config.environment);
        let judge = Judge {
            keys,
            rules: &config.rules,
            audience,
            partitions,
        };
        let ranges: Vec<_> = lanes.iter().map(|lane| lane.range).collect();
        let ranges = mark::reach_back(&config.kafka, topic, &ranges, 2 * config.rules.freshness_ms)?;
        let mut meter = Meter::new("raw", &ranges, config.records_max, progress);
        read_all(&config.kafka, topic, &ranges, |message| {
            meter.tick()?;
            let Timestamp::LogAppendTime(appended_ms) = message.timestamp() else {
                let detail = "the topic must have message.timestamp.type=LogAppendTime";
                report.note(
                    Problem::RawWithoutAppendTime,
                    topic,
                    message.partition(),
                    message.offset(),
                    detail,
                );
                return Ok(());
            };
            let mut headers = Headers::default();
            each_header(message, |name, value| headers.take(name, value));
            let (key, value) = (message.key(), message.payload().unwrap_or_default());
            let evidence = Evidence {
                partition: message.partition(),
                appended_ms,
                key,
                value,
                headers,
            };
            let judgement = judge.judge(&evidence);
            if let Some(lane) = lane_of(lanes, message) {
                lane.push_raw(
                    message.offset(),
                    appended_ms,
                    Sha256::digest(value).into(),
                    &judgement,
                );
            }
            Ok(())
        })?;
        Ok(())
    }
}

fn lane_of<'l>(lanes: &'l mut [Lane], message: &BorrowedMessage<'_>) -> Option<&'l mut Lane> {
    lanes.get_mut(usize::try_from(message.partition()).ok()?)
}

/// Raw offset, time and reason of a deadletter record, if its headers follow the contract.
fn read_deadletter(message: &BorrowedMessage<'_>, raw: &str) -> Option<(i64, i64, Outcome)> {
    let mut found: [Option<&[u8]>; 4] = [None; 4];
    let mut doubled = false;
    each_header(message, |name, value| {
        let names: [&[u8]; 4] = [b"pg-reason", b"pg-stage", b"pg-origin", b"pg-received"];
        if let Some(index) = names.iter().position(|known| *known == name) {
            doubled |= found[index].replace(value.unwrap_or_default()).is_some();
        }
    });
    let [Some(reason), Some(stage), Some(origin), Some(received)] = found else {
        return None;
    };
    let outcome = Outcome::from_name(reason).filter(|outcome| outcome.is_rejection())?;
    let origin = std::str::from_utf8(origin).ok()?;
    let offset = origin
        .strip_prefix(raw)?
        .strip_prefix('/')?
        .strip_prefix(&message.partition().to_string())?;
    let offset = offset.strip_prefix('/')?.parse().ok()?;
    let received = std::str::from_utf8(received).ok()?.parse().ok()?;
    let staged = outcome.stage().is_some_and(|name| name.as_bytes() == stage);
    (staged && !doubled).then_some((offset, received, outcome))
}

/// The part of a record that contains a planted string.
fn find_planted(planted: &AhoCorasick, message: &BorrowedMessage<'_>) -> Option<&'static str> {
    if planted.patterns_len() == 0 {
        return None;
    }
    let within = |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| planted.is_match(bytes));
    let mut headers = false;
    each_header(message, |name, value| {
        headers |= planted.is_match(name) || within(value)
    });
    let places = [
        (within(message.payload()), "value"),
        (within(message.key()), "key"),
        (headers, "headers"),
    ];
    places
        .into_iter()
        .find(|(found, _)| *found)
        .map(|(_, place)| place)
}

/// A string as a JSON writer limited to ASCII would write it.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\u{unit:04x}")),
        }
    }
    out
}

/// Counts the records of a stage, reports progress, and stops at the limit.
struct Meter<'p> {
    stage: &'static str,
    done: u64,
    total: u64,
    limit: u64,
    progress: &'p mut dyn FnMut(Progress),
}

impl<'p> Meter<'p> {
    const STRIDE: u64 = 4096;

    fn new(stage: &'static str, ranges: &[Range], limit: u64, progress: &'p mut dyn FnMut(Progress)) -> Self {
        let total = ranges
            .iter()
            .map(|range| range.next.saturating_sub(range.first).max(0).unsigned_abs())
            .sum();
        progress(Progress {
            stage,
            done: 0,
            total,
        });
        Self {
            stage,
            done: 0,
            total,
            limit,
            progress,
        }
    }

    fn tick(&mut self) -> Result<(), ReadError> {
        self.done += 1;
        if self.done > self.limit {
            let Self { stage, limit, .. } = self;
            let message = format!(
                "the {stage} topic has more than {limit} records; verify a part of it (raw ranges, or a mark)"
            );
            return Err(ReadError::Refused(message));
        }
        if self.done.is_multiple_of(Self::STRIDE) {
            (self.progress)(Progress {
                stage: self.stage,
                done: self.done,
                total: self.total,
            });
        }
        Ok(())
    }
}
