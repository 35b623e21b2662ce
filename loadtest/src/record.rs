//! Kafka records as the tools of this crate exchange them.

/// The header of the `jws` profile.
pub const JWS_SIGNATURE: &[u8] = b"x-jws-signature";
/// The message id of the `webhook` profile.
pub const WEBHOOK_ID: &[u8] = b"webhook-id";
/// The time of signing of the `webhook` profile, in seconds.
pub const WEBHOOK_TIMESTAMP: &[u8] = b"webhook-timestamp";
/// The signatures of the `webhook` profile.
pub const WEBHOOK_SIGNATURE: &[u8] = b"webhook-signature";

/// One header: names need not be UTF-8 on the wire, and values may be null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Name in bytes.
    pub name: Vec<u8>,
    /// Value; a null value is `None`.
    pub value: Option<Vec<u8>>,
}

impl Header {
    /// A header with a value.
    pub fn new(name: &[u8], value: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.to_vec(),
            value: Some(value.into()),
        }
    }
}

/// A record to be produced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The record key: the device id, or null.
    pub key: Option<Vec<u8>>,
    /// Value as sent; a null value is `None`.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<Header>,
}

impl Record {
    /// Value of the first header with that name; `None` if that value is null.
    #[must_use]
    pub fn header(&self, name: &[u8]) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|header| header.name == name)?
            .value
            .as_deref()
    }
}

/// A record that was read from a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Topic it was read from.
    pub topic: String,
    /// Partition it was read from.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Whether `timestamp_ms` is the broker's `LogAppendTime`.
    pub log_append_time: bool,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Id of the broker it was read from; -1 if unknown.
    pub broker: i32,
    /// Key, value and headers.
    pub record: Record,
}
