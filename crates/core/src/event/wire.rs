//! The primitives of both encodings: framing, the Avro cursor, and the writers.

/// First byte of the Confluent wire format; a schema id of four bytes follows, big endian.
pub(super) const CONFLUENT: u8 = 0;
/// First two bytes of an Avro single object; a fingerprint of eight bytes follows (Avro 1.12, "Single-object
/// encoding").
pub(super) const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];
/// A position in a datum. Its methods return `None` at the end of the bytes and for bytes that no encoder writes.
pub(super) struct Cursor<'v> {
    pub bytes: &'v [u8],
    pub at: usize,
}

impl<'v> Cursor<'v> {
    pub fn take(&mut self, length: usize) -> Option<&'v [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    /// Reads a zigzag varint of at most ten bytes; most have one.
    #[inline]
    pub fn long(&mut self) -> Option<i64> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Some(unzigzag(u64::from(byte)))
            }
            _ => self.long_of_many(),
        }
    }

    fn long_of_many(&mut self) -> Option<i64> {
        let mut encoded = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            encoded |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(unzigzag(encoded));
            }
        }
        None
    }

    pub fn int(&mut self) -> Option<i32> {
        i32::try_from(self.long()?).ok()
    }

    pub fn boolean(&mut self) -> Option<bool> {
        match self.take(1)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    pub fn float(&mut self) -> Option<f32> {
        self.take(4)?.try_into().ok().map(f32::from_le_bytes)
    }

    pub fn double(&mut self) -> Option<f64> {
        self.take(8)?.try_into().ok().map(f64::from_le_bytes)
    }

    pub fn prefixed(&mut self) -> Option<&'v [u8]> {
        let length = usize::try_from(self.long()?).ok()?;
        self.take(length)
    }

    pub fn string(&mut self) -> Option<&'v str> {
        std::str::from_utf8(self.prefixed()?).ok()
    }

    /// Reads the branch of a union and returns whether it is the one that is not null.
    pub fn present(&mut self, null_branch: Option<u8>) -> Option<bool> {
        let Some(null_branch) = null_branch else {
            return Some(true);
        };
        match self.long()? {
            branch @ (0 | 1) => Some(branch != i64::from(null_branch)),
            _ => None,
        }
    }
}

fn unzigzag(encoded: u64) -> i64 {
    (encoded >> 1).cast_signed() ^ -(encoded & 1).cast_signed()
}

/// Writes a JSON string of standard base64 with padding (RFC 4648 §4).
pub(super) fn write_json_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    base64_simd::STANDARD.encode_append(bytes, out);
    out.push(b'"');
}

/// Writes a JSON string of text that needs no escapes: a token or a year.
pub(super) fn write_json_ascii(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
}

/// Writes Avro `bytes` or `string`: the length, then the bytes.
pub(super) fn write_avro_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_avro_long(i64::try_from(bytes.len()).unwrap_or(i64::MAX), out);
    out.extend_from_slice(bytes);
}

/// Writes an Avro `int` or `long`: a zigzag varint.
pub(super) fn write_avro_long(number: i64, out: &mut Vec<u8>) {
    let mut encoded = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while encoded > 0x7f {
        out.push((encoded & 0x7f) as u8 | 0x80);
        encoded >>= 7;
    }
    out.push(encoded as u8);
}
