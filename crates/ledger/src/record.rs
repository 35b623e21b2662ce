//! A raw record as received: borrowed bytes and the position they came from.

/// One record of the raw topic, borrowed from the consumer's fetch buffer.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    /// The raw partition, which is also the lane.
    pub partition: i32,
    /// The raw offset.
    pub offset: i64,
    /// The broker's `LogAppendTime`, in milliseconds since the Unix epoch: the only clock of the core.
    pub appended_ms: i64,
    /// The record key; a null key is `None`.
    pub key: Option<&'a [u8]>,
    /// The record value; a null value is empty.
    pub value: &'a [u8],
    /// Signature headers.
    pub signature: SignatureHeaders<'a>,
}

/// The signature headers of a record. Names are compared as bytes, so a header name that is not UTF-8 is harmless.
#[derive(Clone, Copy, Default)]
pub struct SignatureHeaders<'a> {
    /// Number of headers of the record, of any name.
    pub count: usize,
    /// Whether one of the four headers below occurs more than once.
    pub repeated: bool,
    /// Value of `x-jws-signature`.
    pub jws: Option<&'a [u8]>,
    /// Value of `webhook-id`.
    pub webhook_id: Option<&'a [u8]>,
    /// Value of `webhook-timestamp`.
    pub webhook_timestamp: Option<&'a [u8]>,
    /// Value of `webhook-signature`.
    pub webhook_signature: Option<&'a [u8]>,
}

impl<'a> SignatureHeaders<'a> {
    /// Adds one header. A null value counts as an empty one, which no profile accepts.
    pub fn take(&mut self, name: &[u8], value: Option<&'a [u8]>) {
        self.count += 1;
        let slot = match name {
            b"x-jws-signature" => &mut self.jws,
            b"webhook-id" => &mut self.webhook_id,
            b"webhook-timestamp" => &mut self.webhook_timestamp,
            b"webhook-signature" => &mut self.webhook_signature,
            _ => return,
        };
        self.repeated |= slot.replace(value.unwrap_or_default()).is_some();
    }
}

impl std::fmt::Debug for Received<'_> {
    /// Writes the position only: the bytes may be PHI.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Received({}/{})", self.partition, self.offset)
    }
}
