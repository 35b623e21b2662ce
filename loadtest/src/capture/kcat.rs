//! One record as one line of `kcat -J`.
//!
//! Source: kcat 1.7.1, `json.c`: members `topic`, `partition`, `offset`, `tstype`, `ts`, `broker`, `headers` (one flat
//! array of names and values, omitted if the record has none; newer versions can write an object of arrays), `key`,
//! `payload`. Strings are written by yajl, which copies every byte from 0x80 on as it is.

use std::fmt;
use std::io::{self, Write};

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::record::{Captured, Header, Record};

/// Writes one record as a line, with its line feed.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_line(captured: &Captured, out: &mut impl Write) -> io::Result<()> {
    let Captured {
        topic,
        partition,
        offset,
        log_append_time,
        timestamp_ms,
        broker,
        record,
    } = captured;
    out.write_all(b"{\"topic\":")?;
    write_string(topic.as_bytes(), out)?;
    write!(out, ",\"partition\":{partition},\"offset\":{offset}")?;
    if *timestamp_ms >= 0 {
        let kind = if *log_append_time { "logappend" } else { "create" };
        write!(out, ",\"tstype\":\"{kind}\",\"ts\":{timestamp_ms}")?;
    }
    write!(out, ",\"broker\":{broker}")?;
    if !record.headers.is_empty() {
        out.write_all(b",\"headers\":[")?;
        for (index, header) in record.headers.iter().enumerate() {
            if index > 0 {
                out.write_all(b",")?;
            }
            write_string(&header.name, out)?;
            out.write_all(b",")?;
            write_bytes(header.value.as_deref(), out)?;
        }
        out.write_all(b"]")?;
    }
    out.write_all(b",\"key\":")?;
    write_bytes(record.key.as_deref(), out)?;
    out.write_all(b",\"payload\":")?;
    write_bytes(record.value.as_deref(), out)?;
    out.write_all(b"}\n")
}

fn write_bytes(bytes: Option<&[u8]>, out: &mut impl Write) -> io::Result<()> {
    match bytes {
        Some(bytes) => write_string(bytes, out),
        None => out.write_all(b"null"),
    }
}

/// Writes a string as yajl does. serde_json cannot be used here: it refuses bytes that are not UTF-8.
fn write_string(bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"\"")?;
    let mut rest = bytes;
    while let Some(at) = rest
        .iter()
        .position(|byte| matches!(byte, 0..=0x1f | b'"' | b'\\'))
    {
        out.write_all(&rest[..at])?;
        match rest[at] {
            b'"' => out.write_all(b"\\\""),
            b'\\' => out.write_all(b"\\\\"),
            b'\n' => out.write_all(b"\\n"),
            b'\r' => out.write_all(b"\\r"),
            b'\t' => out.write_all(b"\\t"),
            0x08 => out.write_all(b"\\b"),
            0x0c => out.write_all(b"\\f"),
            control => write!(out, "\\u{control:04X}"),
        }?;
        rest = &rest[at + 1..];
    }
    out.write_all(rest)?;
    out.write_all(b"\"")
}

/// Reads one line.
///
/// # Errors
/// When the line is not a record; the error names the position.
pub fn read_line(line: &[u8]) -> Result<Captured, serde_json::Error> {
    let line: Line = serde_json::from_slice(line)?;
    Ok(Captured {
        topic: line.topic,
        partition: line.partition,
        offset: line.offset,
        log_append_time: line.tstype.as_deref() == Some("logappend"),
        timestamp_ms: line.ts.unwrap_or(-1),
        broker: line.broker.unwrap_or(-1),
        record: Record {
            key: line.key.map(|key| key.0),
            value: line.payload.map(|payload| payload.0),
            headers: line.headers.unwrap_or_default().0,
        },
    })
}

#[derive(Deserialize)]
struct Line {
    topic: String,
    partition: i32,
    offset: i64,
    tstype: Option<String>,
    ts: Option<i64>,
    broker: Option<i32>,
    headers: Option<Headers>,
    key: Option<Bytes>,
    payload: Option<Bytes>,
}

/// A JSON string as bytes, which serde_json passes on without requiring UTF-8.
#[derive(Clone)]
struct Bytes(Vec<u8>);

#[derive(Default)]
struct Headers(Vec<Header>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }

        deserializer.deserialize_bytes(Text)
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of names and values, or an object of arrays of values")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut flat: A) -> Result<Headers, A::Error> {
                let mut headers = Vec::new();
                while let Some(name) = flat.next_element::<Bytes>()? {
                    let value: Option<Option<Bytes>> = flat.next_element()?;
                    let value = value.ok_or_else(|| A::Error::custom("the last header name has no value"))?;
                    headers.push(Header {
                        name: name.0,
                        value: value.map(|value| value.0),
                    });
                }
                Ok(Headers(headers))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Vec::new();
                while let Some((name, values)) = map.next_entry::<Bytes, Vec<Option<Bytes>>>()? {
                    let header = |value: Option<Bytes>| Header {
                        name: name.0.clone(),
                        value: value.map(|value| value.0),
                    };
                    headers.extend(values.into_iter().map(header));
                }
                Ok(Headers(headers))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arbitrary() -> impl Strategy<Value = Captured> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let header =
            (bytes(), proptest::option::of(bytes())).prop_map(|(name, value)| Header { name, value });
        let record = (
            proptest::option::of(bytes()),
            proptest::option::of(bytes()),
            proptest::collection::vec(header, 0..4),
        );
        (record, any::<i64>(), any::<bool>(), -1..i64::MAX).prop_map(
            |((key, value, headers), offset, log, ts)| Captured {
                topic: "biometrics.raw".to_owned(),
                partition: 3,
                offset,
                log_append_time: log && ts >= 0,
                timestamp_ms: ts,
                broker: 1,
                record: Record { key, value, headers },
            },
        )
    }

    proptest! {
        #[test]
        fn every_record_survives_the_line_byte_for_byte(captured in arbitrary()) {
            let mut line = Vec::new();
            write_line(&captured, &mut line).expect("memory takes it");
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert_eq!(read_line(&line).expect("reads back"), captured);
        }

        #[test]
        fn no_line_brings_the_reader_down(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_line(&line);
        }
    }

    #[test]
    fn reads_what_kcat_writes_in_either_form_of_headers() {
        let flat = br#"{"topic":"t","partition":0,"offset":7,"tstype":"logappend","ts":1600000000000,"broker":1,"headers":["a","1","b",null],"key":null,"payload":"{\"x\":1}"}"#;
        let map = br#"{"topic":"t","partition":0,"offset":7,"tstype":"logappend","ts":1600000000000,"broker":1,"headers":{"a":["1"],"b":[null]},"key":null,"payload":"{\"x\":1}"}"#;
        let read = read_line(flat).expect("kcat's own");
        assert_eq!(read, read_line(map).expect("the other form"));
        assert_eq!(read.record.value.as_deref(), Some(br#"{"x":1}"#.as_slice()));
        assert_eq!(
            read.record.headers[1],
            Header {
                name: b"b".to_vec(),
                value: None
            }
        );
        let mut line = Vec::new();
        write_line(&read, &mut line).expect("memory takes it");
        assert_eq!(line.trim_ascii_end(), flat);
        assert!(
            read_line(br#"{"topic":"t","partition":0,"offset":7,"headers":["a"],"key":null,"payload":null}"#)
                .is_err()
        );
    }
}
