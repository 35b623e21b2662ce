//! The last verb: seals what a record leaves behind into the open batch.

use std::ops::Deref;

use thiserror::Error;

use super::{Admissible, Rejected, Verdict};
use crate::crypto::envelope::FieldKey;
use crate::crypto::keys::{SubjectKey, Tenant};
use crate::event::Arena;
use crate::gate::seal::{Event, Keys, NONCES, Nonces, SealError, SealedBatch, Sealer};
use pulsegate_ledger::outcome::Outcome;
use pulsegate_ledger::record::Received;

/// The keys of tenants, by their number in the keyring.
pub trait TenantKeys {
    /// The tenant's keys, if it is known.
    fn tenant(&self, number: u16) -> Option<&Tenant>;

    /// The key that the deadletters of a tenant are sealed to; `None` for records without a known signer.
    fn quarantine(&self, number: Option<u16>) -> impl Deref<Target = FieldKey>;
}

/// The open batch, and what sealing into it needs.
pub struct Output {
    sealer: Sealer,
    nonces: Nonces,
    batch: SealedBatch,
}

/// What sealing made of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The record's outcome.
    pub outcome: Outcome,
    /// Why an admitted record was rejected after all.
    pub refused: Option<SealError>,
}

/// Why a record could not be sealed. The record is not at fault, and the batch must not be committed.
#[derive(Debug, Error)]
pub enum OutputError<E> {
    /// A key is exhausted or missing.
    #[error(transparent)]
    Seal(SealError),
    /// There are no random bytes.
    #[error("failed to draw random bytes: {0}")]
    Random(E),
}

impl Output {
    /// An empty batch.
    #[must_use]
    pub fn new(sealer: Sealer) -> Self {
        Self {
            sealer,
            nonces: Nonces::new(),
            batch: SealedBatch::default(),
        }
    }

    /// Returns the batch and opens the next one, which reuses the memory of `spare`.
    pub fn close(&mut self, spare: SealedBatch) -> SealedBatch {
        self.nonces.discard();
        std::mem::replace(&mut self.batch, spare)
    }

    /// Discards the open batch.
    pub fn clear(&mut self) {
        self.nonces.discard();
        self.batch.clear();
    }

    /// Seals a decided record into the batch: an admitted one into the clean topic, a rejected one into the deadletter
    /// topic. `random` must overwrite its whole argument with random bytes; `arena` is that of the record's walk.
    ///
    /// # Errors
    ///
    /// [`OutputError`]; the batch then has nothing of this record.
    pub fn seal<E>(
        &mut self,
        record: &Received<'_>,
        verdict: &Verdict<'_, impl Deref<Target = SubjectKey>>,
        arena: &Arena,
        keys: &impl TenantKeys,
        random: impl Fn(&mut [u8]) -> Result<(), E>,
    ) -> Result<Sealed, OutputError<E>> {
        loop {
            match self.try_seal(record, verdict, arena, keys) {
                Err(SealError::Nonces) => self.nonces.refill(NONCES, &random).map_err(OutputError::Random)?,
                result => return result.map_err(OutputError::Seal),
            }
        }
    }

    fn try_seal(
        &mut self,
        record: &Received<'_>,
        verdict: &Verdict<'_, impl Deref<Target = SubjectKey>>,
        arena: &Arena,
        keys: &impl TenantKeys,
    ) -> Result<Sealed, SealError> {
        let decided = |outcome| Sealed {
            outcome,
            refused: None,
        };
        let (reason, signer, refused) = match verdict {
            Verdict::Admitted(found) => match self.seal_clean(record, found, arena, keys) {
                Ok(()) => return Ok(decided(Outcome::Clean)),
                Err(error) => (error.reason().ok_or(error)?, Some(found.bound.key), Some(error)),
            },
            Verdict::Duplicate => return Ok(decided(Outcome::Duplicate)),
            Verdict::Rejected(Rejected { reason, signer, .. }) => (*reason, *signer, None),
        };
        let quarantine = keys.quarantine(signer.map(|key| key.tenant));
        let device = signer.map(|key| key.device);
        self.sealer.seal_deadletter(
            record,
            reason,
            device,
            &quarantine,
            &mut self.nonces,
            &mut self.batch,
        )?;
        Ok(Sealed {
            outcome: reason.into(),
            refused,
        })
    }

    fn seal_clean(
        &mut self,
        record: &Received<'_>,
        found: &Admissible<'_, impl Deref<Target = SubjectKey>>,
        arena: &Arena,
        keys: &impl TenantKeys,
    ) -> Result<(), SealError> {
        let key = found.bound.key;
        let event = Event {
            plan: found.plan,
            walk: &found.walk,
            arena,
        };
        let keys = Keys {
            tenant: keys.tenant(key.tenant).ok_or(SealError::Tenant)?,
            subject: &found.subject,
            device_token: key.device_token,
        };
        self.sealer
            .seal_clean(record, event, keys, &mut self.nonces, &mut self.batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::seal::Topics;

    #[test]
    fn no_nonce_outlives_its_batch() {
        let topics = Topics {
            raw: "raw",
            clean: "clean",
            deadletter: "deadletter",
        };
        let sealer = Sealer::new("test", topics).expect("short names");
        let mut output = Output::new(sealer);
        let end: [fn(&mut Output); 2] = [|output| drop(output.close(SealedBatch::default())), Output::clear];
        for end in end {
            let zeros = |bytes: &mut [u8]| {
                bytes.fill(0);
                Ok::<_, ()>(())
            };
            output.nonces.refill(9, zeros).expect("infallible");
            end(&mut output);
            assert_eq!(output.nonces.left(), 0);
        }
    }
}
