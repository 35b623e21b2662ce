//! PostgreSQL's binary COPY format ("COPY", section "Binary Format"), as far as it is written here.

/// Milliseconds from 1970 to 2000, where PostgreSQL's timestamps begin.
const EPOCH_2000_MS: i64 = 946_684_800_000;
/// The range of `timestamptz`, in microseconds since 2000: 4714-11-24 BC, and the last moment of 294276.
const TIMESTAMP_MICROS: std::ops::RangeInclusive<i64> = -211_813_488_000_000_000..=9_223_371_331_199_999_999;

/// Rows for `COPY … FROM STDIN (FORMAT binary)`.
pub struct Rows {
    bytes: Vec<u8>,
    columns: i16,
}

impl Rows {
    /// Makes an empty stream of rows with `columns` values each.
    pub fn new(columns: i16) -> Self {
        // Signature, flags, length of the header's extension.
        let bytes = [b"PGCOPY\n\xff\r\n\0".as_slice(), &[0; 4], &[0; 4]].concat();
        Self { bytes, columns }
    }

    /// Adds a row. Each value is in the binary form of its column's type: texts and byte strings as they are, integers
    /// big endian; `None` is null.
    pub fn push<const N: usize>(&mut self, values: [Option<&[u8]>; N]) {
        debug_assert_eq!(N, usize::from(self.columns.unsigned_abs()));
        self.bytes.extend_from_slice(&self.columns.to_be_bytes());
        for value in values {
            // Callers limit every value to a few hundred bytes.
            let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
            self.bytes.extend_from_slice(&length.to_be_bytes());
            self.bytes.extend_from_slice(value.unwrap_or_default());
        }
    }

    /// Bytes not yet sent.
    pub fn pending(&self) -> &[u8] {
        &self.bytes
    }

    /// Removes the sent bytes and keeps their allocation.
    pub fn sent(&mut self) {
        self.bytes.clear();
    }

    /// Ends the stream; the pending bytes are then its last.
    pub fn end(&mut self) {
        self.bytes.extend_from_slice(&(-1_i16).to_be_bytes());
    }

    /// Ends and returns the stream, for callers that send it as a whole.
    pub fn finish(mut self) -> Vec<u8> {
        self.end();
        self.bytes
    }
}

/// A `timestamptz` in its binary form. Times outside PostgreSQL's range are clamped to it.
pub fn timestamp(unix_ms: i64) -> [u8; 8] {
    let micros = unix_ms.saturating_sub(EPOCH_2000_MS).saturating_mul(1_000);
    micros
        .clamp(*TIMESTAMP_MICROS.start(), *TIMESTAMP_MICROS.end())
        .to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout in the manual, byte by byte.
    #[test]
    fn a_row_is_laid_out_as_the_manual_says() {
        let mut rows = Rows::new(2);
        rows.push([Some(b"ab"), None]);
        let bytes = rows.finish();
        assert_eq!(&bytes[..19], b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        assert_eq!(&bytes[19..], b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff\xff\xff");
    }

    #[test]
    fn timestamps_count_from_2000_and_stay_in_range() {
        assert_eq!(timestamp(EPOCH_2000_MS), [0; 8]);
        assert_eq!(timestamp(0), (-946_684_800_000_000_i64).to_be_bytes());
        assert_eq!(timestamp(i64::MAX), TIMESTAMP_MICROS.end().to_be_bytes());
        assert_eq!(timestamp(i64::MIN), TIMESTAMP_MICROS.start().to_be_bytes());
    }
}
