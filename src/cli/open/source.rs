//! Sources of the records to open: lines as written by `kcat -J`, or the topic itself.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Stdin};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde::de::{Deserialize, Deserializer, Visitor};

use crate::actions::open::Record;
use crate::io::kafka;
use crate::roles::Failure;

/// Longest line: fits a record of 10 MB whose every byte is escaped.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Time limit of a request to Kafka.
const KAFKA_TIME_MAX: Duration = Duration::from_secs(10);

/// A line as written by `kcat -J`.
#[derive(serde::Deserialize)]
struct Line {
    topic: String,
    partition: i32,
    offset: i64,
    #[serde(deserialize_with = "payload")]
    payload: Option<Vec<u8>>,
}

impl From<Line> for Record {
    fn from(line: Line) -> Self {
        Self {
            topic: line.topic,
            partition: line.partition,
            offset: line.offset,
            value: line.payload,
        }
    }
}

fn payload<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    Ok(Option::<Bytes>::deserialize(deserializer)?.map(|bytes| bytes.0))
}

/// A JSON string as bytes: `kcat` copies every byte from 0x80 on unchanged, and serde_json passes bytes on without
/// requiring UTF-8, so Avro survives as well.
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }

        deserializer.deserialize_bytes(Text)
    }
}

/// A source of records.
pub enum Source {
    /// Standard input.
    Lines(Lines<BufReader<Stdin>>),
    /// A partition of a topic.
    Topic(Topic),
}

impl Source {
    pub fn lines() -> Self {
        Self::Lines(Lines {
            reader: BufReader::new(std::io::stdin()),
            number: 0,
            failed: None,
        })
    }

    pub fn topic(
        config: &kafka::Config,
        topic: &str,
        partition: i32,
        offset: i64,
        count: u64,
    ) -> Result<Self, Failure> {
        Topic::open(config, topic, partition, offset, count).map(Self::Topic)
    }

    /// Returns the next records, at most `count`; none at the end.
    pub fn next(&mut self, count: usize) -> Result<Vec<Record>, Failure> {
        match self {
            Self::Lines(lines) => lines.next(count),
            Self::Topic(topic) => topic.next(count),
        }
    }
}

/// Lines as written by `kcat -J`.
pub struct Lines<R> {
    reader: R,
    /// Number of the last line read, counted from 1.
    number: u64,
    /// Error of the line after the records returned last.
    failed: Option<Failure>,
}

impl<R: io::Read> Lines<BufReader<R>> {
    /// Waits for one line, and then takes only lines that are already buffered, so that a live stream is printed as it
    /// arrives.
    fn next(&mut self, count: usize) -> Result<Vec<Record>, Failure> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        let mut records = Vec::new();
        while records.len() < count {
            match self.record() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                // Records read before the error are opened first.
                Err(failed) if !records.is_empty() => {
                    self.failed = Some(failed);
                    break;
                }
                Err(failed) => return Err(failed),
            }
            if !self.reader.buffer().contains(&b'\n') {
                break;
            }
        }
        Ok(records)
    }

    /// Returns the record of the next non-empty line.
    fn record(&mut self) -> Result<Option<Record>, Failure> {
        let mut line = Vec::new();
        loop {
            line.clear();
            self.number += 1;
            let read = (&mut self.reader)
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut line);
            let read =
                read.map_err(|error| Failure::Usage(format!("failed to read standard input: {error}")))?;
            if read as u64 == LINE_BYTES_MAX {
                return Err(self.wrong(format_args!("longer than {LINE_BYTES_MAX} bytes")));
            }
            if read == 0 {
                return Ok(None);
            }
            if !line.trim_ascii().is_empty() {
                // The error's own message would quote the line.
                let read = serde_json::from_slice::<Line>(&line);
                return read.map(|line| Some(line.into())).map_err(|error| {
                    let column = error.column();
                    self.wrong(format_args!(
                        "not a record as `kcat -J` writes it (column {column})"
                    ))
                });
            }
        }
    }

    fn wrong(&self, problem: fmt::Arguments<'_>) -> Failure {
        Failure::Wrong(format!("line {}: {problem}", self.number))
    }
}

/// A partition, read up to its last committed record.
pub struct Topic {
    consumer: BaseConsumer,
    /// Number of records still to read.
    left: u64,
}

impl Topic {
    fn open(
        config: &kafka::Config,
        topic: &str,
        partition: i32,
        offset: i64,
        count: u64,
    ) -> Result<Self, Failure> {
        let consumer: BaseConsumer = config
            .client()
            // The client requires a group name, but joins no group and commits no offset.
            .set("group.id", "pulsegate-open")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .create()
            .map_err(|error| Failure::Usage(format!("failed to create a Kafka client: {error}")))?;
        let (low, high) = consumer
            .fetch_watermarks(topic, partition, KAFKA_TIME_MAX)
            .map_err(|error| {
                Failure::Unreachable(format!("failed to find {topic}/{partition} in Kafka: {error}"))
            })?;
        if !(low..high).contains(&offset) {
            let problem = format!("offset {offset} is not in {topic}/{partition}, which spans {low}..{high}");
            return Err(Failure::Wrong(problem));
        }
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic, partition, Offset::Offset(offset))
            .and_then(|()| consumer.assign(&assignment))
            .map_err(|error| Failure::Usage(format!("failed to read {topic}/{partition}: {error}")))?;
        Ok(Self {
            consumer,
            left: count,
        })
    }

    fn next(&mut self, count: usize) -> Result<Vec<Record>, Failure> {
        let mut records = Vec::new();
        while self.left > 0 && records.len() < count {
            let message = match self.consumer.poll(KAFKA_TIME_MAX) {
                Some(Ok(message)) => message,
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    self.left = 0;
                    break;
                }
                Some(Err(error)) => {
                    return Err(Failure::Unreachable(format!(
                        "failed to read from Kafka: {error}"
                    )));
                }
                None => {
                    let problem = format!("Kafka did not answer within {} s", KAFKA_TIME_MAX.as_secs());
                    return Err(Failure::Unreachable(problem));
                }
            };
            self.left -= 1;
            records.push(Record {
                topic: message.topic().to_owned(),
                partition: message.partition(),
                offset: message.offset(),
                value: message.payload().map(<[u8]>::to_vec),
            });
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Lines<BufReader<&[u8]>> {
        Lines {
            reader: BufReader::new(text.as_bytes()),
            number: 0,
            failed: None,
        }
    }

    #[test]
    fn lines_written_by_kcat_are_read() {
        let text = r#"{"topic":"biometrics.clean","partition":3,"offset":42,"tstype":"create","ts":1,"broker":0,
            "headers":[],"key":"k","payload":"{\"a\":\"\u00e9\"}"}"#;
        let text = format!(
            "\n{}\n\n{}\n",
            text.replace('\n', ""),
            r#"{"topic":"t","partition":0,"offset":0,"payload":null}"#
        );
        let mut lines = lines(&text);
        let records = lines.next(9).expect("read");
        assert_eq!(
            records.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["biometrics.clean/3/42", "t/0/0"]
        );
        assert_eq!(records[0].value.as_deref(), Some("{\"a\":\"é\"}".as_bytes()));
        assert_eq!(records[1].value, None);
        assert!(lines.next(9).expect("the end").is_empty());
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_preserved() {
        let line = [
            &br#"{"topic":"t","partition":0,"offset":0,"payload":"\u0000\u0001"#[..],
            &[0xC3, 0xFF],
            b"\"}\n",
        ]
        .concat();
        let mut lines = Lines {
            reader: BufReader::new(line.as_slice()),
            number: 0,
            failed: None,
        };
        assert_eq!(
            lines.next(1).expect("read")[0].value.as_deref(),
            Some(&[0, 1, 0xC3, 0xFF][..])
        );
    }

    #[test]
    fn an_invalid_line_is_reported_by_number_and_not_quoted() {
        let good = r#"{"topic":"t","partition":0,"offset":0,"payload":"x"}"#;
        for bad in [
            "Jane Roe",
            r#"{"topic":"t","partition":"Jane Roe"}"#,
            r#"{"topic":"t","partition":0,"offset":0,"payload":{"name":"Jane Roe"}}"#,
        ] {
            let mut lines = lines(bad);
            let problem = lines.next(9).err().expect("refused").to_string();
            assert!(
                problem.starts_with("line 1: not a record") && !problem.contains("Jane"),
                "{problem}"
            );
        }
        let text = format!("{good}\nJane Roe\n");
        let mut lines = lines(&text);
        assert_eq!(lines.next(9).expect("the good one first").len(), 1);
        assert!(
            lines
                .next(9)
                .err()
                .expect("refused")
                .to_string()
                .starts_with("line 2: ")
        );
    }
}
