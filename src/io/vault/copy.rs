//! PostgreSQL's binary COPY format, as far as an import needs it ("COPY", section "Binary Format").

/// Rows for `COPY … FROM STDIN (FORMAT binary)`.
pub(super) struct Rows {
    bytes: Vec<u8>,
    columns: i16,
}

impl Rows {
    /// None yet; each will have `columns` values.
    pub(super) fn new(columns: i16) -> Self {
        // Signature, flags, length of the header's extension.
        let bytes = [b"PGCOPY\n\xff\r\n\0".as_slice(), &[0; 4], &[0; 4]].concat();
        Self { bytes, columns }
    }

    /// Adds a row. Each value is in the binary form of its column's type: texts and byte strings as they are, integers
    /// big endian; `None` is null.
    pub(super) fn push<const N: usize>(&mut self, values: [Option<&[u8]>; N]) {
        debug_assert_eq!(N, usize::from(self.columns.unsigned_abs()));
        self.bytes.extend_from_slice(&self.columns.to_be_bytes());
        for value in values {
            // Every value is at most a few hundred bytes: the limits of a line hold before it comes here.
            let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
            self.bytes.extend_from_slice(&length.to_be_bytes());
            self.bytes.extend_from_slice(value.unwrap_or_default());
        }
    }

    /// The finished stream.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manual's layout, byte by byte.
    #[test]
    fn a_row_is_laid_out_as_the_manual_says() {
        let mut rows = Rows::new(2);
        rows.push([Some(b"ab"), None]);
        let bytes = rows.finish();
        assert_eq!(&bytes[..19], b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        assert_eq!(&bytes[19..], b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff\xff\xff");
    }
}
