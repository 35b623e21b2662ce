//! Random bytes of a batch, each used once.

use super::error::SealError;
use crate::crypto::envelope::Nonce;

/// How many IVs are drawn at once: a system call for a few thousand costs less than 1 % of what sealing with them does,
/// and as little of the time of a batch that needs one.
pub const NONCES: usize = 4096;

/// Size of one IV, in bytes.
const NONCE_BYTES: usize = 12;

/// Random bytes from the operating system, provided by the shell and taken twelve at a time, each once.
///
/// No nonce outlives the batch that it was drawn for: a forked or restored virtual machine can repeat IVs only for the
/// records of the batch that was open, which the fork then reads and seals in the same way.
#[derive(Default)]
pub struct Nonces {
    bytes: Vec<u8>,
    taken: usize,
}

impl Nonces {
    /// Creates an empty supply, which [`Nonces::refill`] fills.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the remaining nonces by `count` fresh ones. `fill` must overwrite its whole argument with random bytes.
    ///
    /// # Errors
    /// The error of `fill`; no nonce is then left.
    pub fn refill<E>(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.bytes.resize(count * NONCE_BYTES, 0);
        self.taken = self.bytes.len();
        fill(&mut self.bytes)?;
        self.taken = 0;
        Ok(())
    }

    /// Discards the remaining nonces.
    pub fn discard(&mut self) {
        self.taken = self.bytes.len();
    }

    /// Number of nonces that are left.
    #[must_use]
    pub fn left(&self) -> usize {
        (self.bytes.len() - self.taken) / NONCE_BYTES
    }

    pub(super) fn take(&mut self) -> Result<Nonce, SealError> {
        let bytes = self.bytes[self.taken..].first_chunk().ok_or(SealError::Nonces)?;
        self.taken += NONCE_BYTES;
        Ok(Nonce::from_random(*bytes))
    }
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nonces({} left)", self.left())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Distinguishable nonces, for tests.
    pub fn nonces(count: usize) -> Nonces {
        let mut nonces = Nonces::new();
        let mut next = 0;
        let counting = |bytes: &mut [u8]| {
            bytes.chunks_mut(NONCE_BYTES).for_each(|chunk| {
                next += 1;
                chunk.fill(next);
            });
            Ok::<_, ()>(())
        };
        nonces.refill(count, counting).expect("infallible");
        nonces
    }

    #[test]
    fn nonces_are_taken_once_each_and_run_out() {
        let mut nonces = nonces(2);
        assert_eq!(nonces.left(), 2);
        assert!(nonces.take().is_ok() && nonces.take().is_ok());
        assert_eq!(nonces.take().err(), Some(SealError::Nonces));
        assert_eq!(nonces.refill(4, |_| Err("no entropy")), Err("no entropy"));
        assert_eq!(nonces.left(), 0);
    }

    #[test]
    fn discarded_nonces_are_not_taken() {
        let mut nonces = nonces(2);
        assert!(nonces.take().is_ok());
        nonces.discard();
        assert_eq!((nonces.left(), nonces.take().err()), (0, Some(SealError::Nonces)));
    }
}
