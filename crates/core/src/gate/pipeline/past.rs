//! A lane's past: what its next decisions depend on, as a pure function of its log.

use super::{Missing, Pipeline, admit};
use crate::event::{Ids, Verdict};
use crate::gate::Rules;
use crate::gate::admit::Admission;
use crate::gate::verify::Budget;
use pulsegate_ledger::record::Received;

/// A lane's state as rebuilt from its log.
pub struct Past {
    /// Replay windows and rate limits.
    pub admission: Admission,
    /// Remaining budget for signature checks that fail.
    pub budget: Budget,
    /// The registry's answers about schema ids, if there is a registry; including those that have expired meanwhile.
    ids: Option<Ids>,
    /// Limit on the answers, since senders can make up ids.
    ids_max: usize,
}

impl Past {
    /// The past of a lane that has seen no record. `ids` holds the registry's answers so far, `ids_max` bounds them.
    #[must_use]
    pub fn new(admission: Admission, budget: Budget, ids: Option<Ids>, ids_max: usize) -> Self {
        Self {
            admission,
            budget,
            ids,
            ids_max,
        }
    }

    /// Replays the next record of the log: verified, decoded and admitted, with nothing produced. `ask` has the registry
    /// judge a schema id that is not known yet.
    ///
    /// # Errors
    ///
    /// The error of `ask`; the lane cannot be rebuilt until the registry has answered.
    pub fn replay<E>(
        &mut self,
        pipeline: &mut Pipeline,
        record: Received<'_>,
        rules: &Rules<'_>,
        mut ask: impl FnMut(u32) -> Result<Verdict, E>,
    ) -> Result<(), E> {
        let verified = pipeline.verify(record, rules, &mut self.budget);
        loop {
            let ids = self.ids.as_ref();
            let decoded = pipeline.decode(verified.clone(), &Rules { ids, ..*rules });
            let Some(Missing::Schema(id)) = decoded.missing() else {
                // A record that is rejected before the replay check leaves no mark.
                if let super::Step::Passed(_) = decoded.step {
                    // The verdict does not matter: the call updates the admission's state.
                    let _ = admit(decoded, &mut self.admission);
                }
                return Ok(());
            };
            self.learn(id, ask(id)?);
        }
    }

    fn learn(&mut self, id: u32, verdict: Verdict) {
        let kept = self.ids.take().filter(|ids| ids.len() < self.ids_max);
        self.ids = Some(kept.unwrap_or_default().with(id, verdict));
    }
}
