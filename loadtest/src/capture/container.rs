//! Records in an Avro object container file (Avro 1.12, Object Container Files), deflated.

use std::io::{BufRead, Write};
use std::sync::LazyLock;

use apache_avro::types::Value;
use apache_avro::{Codec, DeflateSettings, Reader, Schema};

use super::error::CaptureError;
use crate::record::{Captured, Header, Record};

const SCHEMA: &str = r#"{
  "type": "record", "name": "CapturedRecord", "namespace": "pulsegate.loadtest",
  "doc": "A complete Kafka record: position, key, value and headers.",
  "fields": [
    {"name": "topic", "type": "string"},
    {"name": "partition", "type": "int"},
    {"name": "offset", "type": "long"},
    {"name": "log_append_time", "type": "boolean", "doc": "Whether the broker set the timestamp."},
    {"name": "timestamp", "type": "long", "doc": "Milliseconds since the Unix epoch; -1 if the record has none."},
    {"name": "broker", "type": "int"},
    {"name": "key", "type": ["null", "bytes"]},
    {"name": "value", "type": ["null", "bytes"]},
    {"name": "headers", "type": {"type": "array", "items": {
      "type": "record", "name": "Header",
      "fields": [{"name": "name", "type": "bytes"}, {"name": "value", "type": ["null", "bytes"]}]
    }}}
  ]
}"#;

#[expect(
    clippy::expect_used,
    reason = "the schema is a constant of this file, and a test reads it"
)]
static PARSED: LazyLock<Schema> = LazyLock::new(|| Schema::parse_str(SCHEMA).expect("the schema is valid"));

/// Writes records into a container.
pub struct Writer<W: Write> {
    inner: apache_avro::Writer<'static, W>,
}

impl<W: Write> Writer<W> {
    /// Writes the container's header.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn new(out: W) -> Result<Self, CaptureError> {
        let codec = Codec::Deflate(DeflateSettings::default());
        Ok(Self {
            inner: apache_avro::Writer::with_codec(&PARSED, out, codec)?,
        })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When the block cannot be written.
    pub fn write(&mut self, captured: &Captured) -> Result<(), CaptureError> {
        let bytes = |bytes: &Option<Vec<u8>>| match bytes {
            Some(bytes) => Value::Union(1, Box::new(Value::Bytes(bytes.clone()))),
            None => Value::Union(0, Box::new(Value::Null)),
        };
        let header = |header: &Header| {
            let name = Value::Bytes(header.name.clone());
            Value::Record(vec![
                ("name".to_owned(), name),
                ("value".to_owned(), bytes(&header.value)),
            ])
        };
        let Captured {
            topic,
            partition,
            offset,
            log_append_time,
            timestamp_ms,
            broker,
            record,
        } = captured;
        let fields = [
            ("topic", Value::String(topic.clone())),
            ("partition", Value::Int(*partition)),
            ("offset", Value::Long(*offset)),
            ("log_append_time", Value::Boolean(*log_append_time)),
            ("timestamp", Value::Long(*timestamp_ms)),
            ("broker", Value::Int(*broker)),
            ("key", bytes(&record.key)),
            ("value", bytes(&record.value)),
            (
                "headers",
                Value::Array(record.headers.iter().map(header).collect()),
            ),
        ];
        let fields = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        self.inner.append_value(Value::Record(fields))?;
        Ok(())
    }

    /// Writes the last block.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> Result<(), CaptureError> {
        Ok(self.inner.into_inner()?.flush()?)
    }
}

/// Calls `visit` for every record.
///
/// # Errors
/// When the container is damaged or of another schema, or `visit` fails.
pub fn each_record(
    input: impl BufRead,
    mut visit: impl FnMut(Captured) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let reader = Reader::builder(input)
        .reader_schema(&PARSED)
        .build()
        .map_err(CaptureError::Avro)?;
    for value in reader {
        let captured = from_value(value.map_err(CaptureError::Avro)?);
        visit(captured.ok_or_else(|| anyhow::anyhow!("the container's records are not captured records"))?)?;
    }
    Ok(())
}

/// The fields in the order of the schema, which resolution has made sure of.
fn from_value(value: Value) -> Option<Captured> {
    let Value::Record(fields) = value else { return None };
    let fields: Vec<Value> = fields.into_iter().map(|(_, value)| value).collect();
    let [
        Value::String(topic),
        Value::Int(partition),
        Value::Long(offset),
        Value::Boolean(log_append_time),
        Value::Long(timestamp_ms),
        Value::Int(broker),
        key,
        value,
        Value::Array(headers),
    ] = <[Value; 9]>::try_from(fields).ok()?
    else {
        return None;
    };
    let headers = headers.into_iter().map(header).collect::<Option<_>>()?;
    let record = Record {
        key: optional(key)?,
        value: optional(value)?,
        headers,
    };
    Some(Captured {
        topic,
        partition,
        offset,
        log_append_time,
        timestamp_ms,
        broker,
        record,
    })
}

fn header(value: Value) -> Option<Header> {
    let Value::Record(fields) = value else { return None };
    let [(_, Value::Bytes(name)), (_, value)] = <[(String, Value); 2]>::try_from(fields).ok()? else {
        return None;
    };
    Some(Header {
        name,
        value: optional(value)?,
    })
}

fn optional(value: Value) -> Option<Option<Vec<u8>>> {
    match value {
        Value::Union(_, inner) => optional(*inner),
        Value::Null => Some(None),
        Value::Bytes(bytes) => Some(Some(bytes)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_container_byte_for_byte() {
        let captured = |offset: i64| Captured {
            topic: "t".to_owned(),
            partition: 2,
            offset,
            log_append_time: offset % 2 == 0,
            timestamp_ms: 1_600_000_000_000 + offset,
            broker: -1,
            record: Record {
                key: (offset % 3 > 0).then(|| vec![0xFF, offset as u8]),
                value: (offset % 5 > 0).then(|| vec![0, 0xC3, 0x28, offset as u8]),
                headers: vec![
                    Header {
                        name: vec![0xFE],
                        value: None,
                    },
                    Header {
                        name: b"a".to_vec(),
                        value: Some(Vec::new()),
                    },
                ],
            },
        };
        let written: Vec<_> = (0..100).map(captured).collect();
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).expect("memory takes it");
        written
            .iter()
            .for_each(|record| writer.write(record).expect("memory takes it"));
        writer.finish().expect("memory takes it");
        let mut read = Vec::new();
        let collect = |record| {
            read.push(record);
            Ok(())
        };
        each_record(file.as_slice(), collect).expect("reads back");
        assert_eq!(read, written);
        assert!(
            each_record(&file[..file.len() / 2], |_| Ok(())).is_err(),
            "half a container is damaged"
        );
        assert!(each_record(b"no container".as_slice(), |_| Ok(())).is_err());
    }
}
