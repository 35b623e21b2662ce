//! Conclusions about a lane after its last entry.

use super::{Bad, Verification, Verified};
use crate::merkle::MerkleRoot;
use crate::merkle::proof::verify_consistency;
use crate::merkle::tree_of;
use crate::verify::report::{Continued, Kind, Problem};

impl Verification<'_> {
    /// What is known when all entries, checkpoints and ledger records were taken.
    #[must_use]
    pub fn finish(mut self) -> Verified {
        let (size, lane) = (self.tree.leaves(), self.report.lane.clone());
        if size < self.lane.head.size {
            self.change(
                Kind::Truncated,
                size,
                format!("the head counts {} entries", self.lane.head.size),
            );
        }
        let largest_held = self
            .held
            .iter()
            .filter(|held| held.size > size)
            .map(|held| held.size)
            .max();
        if let Some(held) = largest_held {
            self.change(
                Kind::Truncated,
                size,
                format!("a checkpoint kept elsewhere covers {held} entries"),
            );
        }
        if let Some(Bad { size: bad, name, .. }) = self.bad.as_ref().filter(|bad| bad.size > size) {
            let detail = format!("{name} covers {bad} entries");
            self.change(Kind::Truncated, size, detail);
        }
        let vouched = self.bad.as_ref().map_or(self.good.unwrap_or(0), |bad| bad.good);
        let mut pending_clean = None;
        if let Some(mut comparison) = self.lane.comparison.take() {
            for record in comparison.take_ahead() {
                comparison.take_rest(record, self.raw_next, self.lane.accounts.as_mut());
            }
            let outcome = comparison.finish();
            self.report.ledger_records = Some(outcome.compared);
            self.report.ledger_pending = Some(outcome.pending);
            pending_clean = Some(outcome.pending_clean);
            if let Some(difference) = outcome.difference {
                let at = difference.entry.unwrap_or(size);
                // Entries covered by a signed checkpoint are as signed: then the topic was changed.
                let in_order = self
                    .changed
                    .as_ref()
                    .is_none_or(|changed| changed.entry > Some(at));
                if in_order && at < vouched {
                    self.note(difference.of_topic(&lane));
                } else if self
                    .changed
                    .as_ref()
                    .is_none_or(|changed| changed.kind != Kind::EntryMissing && changed.entry >= Some(at))
                {
                    self.changed = Some(difference.of_log(&lane, size));
                }
            }
        }
        self.check_roots();
        self.check_head();
        self.prove();
        self.report.root = hex::encode(self.tree.root());
        Verified {
            accounts: self.lane.accounts.filter(|_| self.changed.is_none()),
            report: self.report,
            problems: self.changed.into_iter().chain(self.problems).collect(),
            pending_clean,
        }
    }

    /// Attributes a root that differs from the signed one to the entries or to the signer.
    fn check_roots(&mut self) {
        let Some(Bad { size, name, good }) = self.bad.take() else {
            return;
        };
        if self
            .changed
            .as_ref()
            .is_some_and(|changed| changed.entry < Some(size))
        {
            return;
        }
        let compared = self.report.ledger_records.is_some();
        if compared {
            let detail = format!("the entries match the ledger, but not those for which {name} was signed");
            let problem = Problem::new(Kind::CheckpointContradicted, &self.report.lane, detail);
            self.note(problem.at(size, None));
        } else {
            let last = size.saturating_sub(1);
            let detail =
                format!("one of the entries {good} to {last} differs from what {name} was signed for");
            (self.changed, self.raw_next) = (None, self.raw_next.filter(|_| good == last));
            self.change(Kind::EntryChanged, good, detail);
        }
    }

    fn check_head(&mut self) {
        let head = &self.lane.head;
        let stored = tree_of(head.size, &head.frontier).map(|tree| tree.root());
        if self.changed.is_none() && stored != Some(self.tree.root()) {
            let problem = Problem::new(
                Kind::HeadChanged,
                &head.lane,
                "the head does not match the entries",
            );
            self.note(problem.at(head.size, None));
        }
    }

    /// Proves that the log continues the checkpoints kept elsewhere.
    fn prove(&mut self) {
        let (Some(newest_root), lane) = (self.newest.1, self.report.lane.clone()) else {
            return;
        };
        let size = self.tree.leaves();
        for held in std::mem::take(&mut self.held)
            .into_iter()
            .filter(|held| held.size <= size)
        {
            let to_root = if held.to == self.newest.0 {
                newest_root
            } else {
                held.root
            };
            let proof = held.roots.finish().filter(|proof| {
                let empty = held.size == 0 && held.root == MerkleRoot::new().root();
                empty || verify_consistency(held.size, held.to, &held.root, &to_root, proof)
            });
            match proof {
                Some(proof) => self.report.continued.push(Continued {
                    from: held.size,
                    to: held.to,
                    to_root: hex::encode(to_root),
                    proof: proof.iter().map(hex::encode).collect(),
                }),
                None if self.changed.is_some() => {}
                None => {
                    let detail = format!("the log does not continue the checkpoint {}", held.name);
                    self.note(Problem::new(Kind::CheckpointContradicted, &lane, detail).at(held.size, None));
                }
            }
        }
    }
}
