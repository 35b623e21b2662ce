//! The serialisation of encryption contexts, which seals and tokens are bound to.

use thiserror::Error;

/// A key or value of an encryption context does not fit its 16-bit length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a value of {bytes} bytes is too long for an encryption context, the maximum is 65535")]
pub struct TooLong {
    /// Length of the value, in bytes.
    pub bytes: usize,
}

/// Appends the AWS Encryption SDK serialisation of `pairs`: `u16 count ‖ (u16 length, key, u16 length, value)*`, keys
/// in ascending byte order, integers big endian ("Serializing encryption context", AWS Encryption SDK specification).
/// The pairs must be given in that order.
///
/// # Errors
/// [`TooLong`] if a length does not fit 16 bits; `out` is then unspecified.
pub fn write_context<const N: usize>(pairs: [(&str, &[u8]); N], out: &mut Vec<u8>) -> Result<(), TooLong> {
    feed_context(pairs, &mut |bytes| out.extend_from_slice(bytes))
}

/// Passes the bytes of [`write_context`] on as they come, so that a MAC over them needs no buffer.
pub(super) fn feed_context<const N: usize>(
    pairs: [(&str, &[u8]); N],
    sink: &mut impl FnMut(&[u8]),
) -> Result<(), TooLong> {
    debug_assert!(
        pairs.is_sorted_by(|(one, _), (next, _)| one < next),
        "the keys must ascend without repeats"
    );
    let count = u16::try_from(N).map_err(|_| TooLong { bytes: N })?;
    sink(&count.to_be_bytes());
    for (key, value) in pairs {
        feed_text(key.as_bytes(), sink)?;
        feed_text(value, sink)?;
    }
    Ok(())
}

/// Appends one length and its text.
pub(super) fn write_text(text: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    feed_text(text, &mut |bytes| out.extend_from_slice(bytes))
}

fn feed_text(text: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<(), TooLong> {
    let length = u16::try_from(text.len()).map_err(|_| TooLong { bytes: text.len() })?;
    sink(&length.to_be_bytes());
    sink(text);
    Ok(())
}
