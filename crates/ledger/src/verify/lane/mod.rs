//! Verifies one lane's entries against its head, its checkpoints, checkpoints kept elsewhere, and the ledger topic.

mod finish;

use std::collections::VecDeque;

use super::account::Pending;
use super::compare::{Link, Where, diagnose};
use super::comparison::Comparison;
use super::report::{Kind, LaneReport, Problem, entry_kind};
use super::stored::{Head, LedgerRecord, Row, StoredCheckpoint};
use super::window::Accounts;
use super::{TooMany, timestamp};
use crate::log::chain::Chain;
use crate::log::entry::{ADMINISTRATION, Alert, Entry, Fault};
use crate::merkle::proof::{RangeRoots, consistency_ranges};
use crate::merkle::{self, Hash, MerkleRoot};
use crate::note::{Note, NoteError, PublicKey, Signed};

/// Rows read ahead of an entry that does not follow, alerts included, to classify the alteration.
pub const AHEAD_ROWS: usize = 64;

/// A lane and what it is verified against.
pub struct LaneEvidence<'a> {
    /// Its head.
    pub head: Head,
    /// The name under which its checkpoints are signed.
    pub origin: String,
    /// The keys whose checkpoints are trusted.
    pub keys: &'a [PublicKey],
    /// Checkpoints of this lane kept elsewhere, with their names.
    pub held: Vec<(String, Signed)>,
    /// Comparison with the ledger topic, if requested.
    pub comparison: Option<Comparison>,
    /// Collects the ledger records to recompute, if requested.
    pub accounts: Option<Accounts>,
}

/// Result of verifying a lane.
pub struct Verified {
    /// What was looked at.
    pub report: LaneReport,
    /// Discrepancies; the first change of the lane's entries comes first.
    pub problems: Vec<Problem>,
    /// The ledger records to recompute; `None` if the log itself was changed.
    pub accounts: Option<Accounts>,
    /// Accepted records of the ledger that have not reached the log yet.
    pub pending_clean: Option<Pending>,
}

/// A checkpoint kept elsewhere, while its proof is being collected.
struct Held {
    name: String,
    size: u64,
    root: Hash,
    to: u64,
    roots: RangeRoots,
}

/// A checkpoint with a valid signature that does not match the entries.
struct Bad {
    size: u64,
    name: String,
    /// Size of the largest matching checkpoint before it.
    good: u64,
}

/// A verification in progress over a lane's entries.
pub struct Verification<'a> {
    lane: LaneEvidence<'a>,
    tree: MerkleRoot,
    chain: Chain,
    /// Alerts since the last ledger record, each with its number.
    alerts: Vec<(u64, Alert)>,
    /// Last two entries of the chain, newest last.
    links: [Option<(u64, Link)>; 2],
    /// Expected number of the next entry.
    next: u64,
    /// First raw offset not covered yet.
    raw_next: Option<i64>,
    /// The value of `raw_next` before the last entry.
    raw_before: Option<i64>,
    held: Vec<Held>,
    /// Size and root of the newest checkpoint.
    newest: (u64, Option<Hash>),
    /// Size of the largest checkpoint whose root matches; `bad` is the smallest whose root does not.
    good: Option<u64>,
    bad: Option<Bad>,
    /// First change of the sequence of entries.
    changed: Option<Problem>,
    problems: Vec<Problem>,
    report: LaneReport,
}

impl<'a> Verification<'a> {
    /// Before the first entry of a lane whose newest checkpoint has the size `newest`.
    #[must_use]
    pub fn new(mut lane: LaneEvidence<'a>, newest: u64) -> Self {
        let name = lane.head.lane.clone();
        let held = std::mem::take(&mut lane.held).into_iter().map(|(name, signed)| {
            let size = signed.checkpoint.size;
            Held {
                name,
                size,
                root: signed.checkpoint.root,
                to: newest.max(size),
                roots: RangeRoots::new(consistency_ranges(size, newest.max(size))),
            }
        });
        let held = held.collect();
        Self {
            lane,
            tree: MerkleRoot::new(),
            chain: Chain::new(&name),
            alerts: Vec::new(),
            links: [None, None],
            next: 0,
            raw_next: None,
            raw_before: None,
            held,
            newest: (newest, None),
            good: None,
            bad: None,
            changed: None,
            problems: Vec::new(),
            report: LaneReport {
                lane: name,
                ..LaneReport::default()
            },
        }
    }

    /// How many entries were taken: checkpoints up to this size are due.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.leaves()
    }

    /// Whether [`Self::offer`] has to be called before the next entry is taken.
    #[must_use]
    pub fn needs_record(&self) -> bool {
        self.lane
            .comparison
            .as_ref()
            .is_some_and(Comparison::needs_record)
    }

    /// Takes the next record of the ledger topic; `None` at its end.
    pub fn offer(&mut self, record: Option<LedgerRecord>) {
        if let Some(comparison) = &mut self.lane.comparison {
            comparison.offer(record);
        }
    }

    /// Takes a record of the ledger topic that is left when all entries were taken.
    pub fn take_rest(&mut self, record: LedgerRecord) {
        let lane = &mut self.lane;
        if let Some(comparison) = &mut lane.comparison {
            for record in comparison.take_ahead().into_iter().chain([record]) {
                comparison.take_rest(record, self.raw_next, lane.accounts.as_mut());
            }
        }
    }

    /// Checks what held checkpoints say of the tree as it is now. Called before each entry and after the last one, when the
    /// stored checkpoints of its size were checked.
    pub fn check_held(&mut self) {
        let size = self.tree.leaves();
        if self.newest.0 == size {
            self.newest.1 = Some(self.tree.root());
        }
        for held in self.held.iter().filter(|held| held.size == size) {
            if self.tree.root() == held.root {
                self.good = self.good.max(Some(size));
            } else {
                self.bad.get_or_insert_with(|| Bad {
                    size,
                    name: format!("the checkpoint {}", held.name),
                    good: self.good.unwrap_or(0),
                });
            }
        }
    }

    /// Checks the next stored checkpoint; they come by size.
    pub fn check_checkpoint(&mut self, stored: &StoredCheckpoint) {
        let name = format!(
            "the checkpoint of size {} of {}",
            stored.size,
            timestamp(stored.signed_at_s)
        );
        let opened = Note::parse(stored.note.as_bytes()).and_then(|note| note.open(self.lane.keys));
        let forged = match &opened {
            Err(NoteError::UnknownKey) => Some("is not signed by a trusted key".to_owned()),
            Err(error) => Some(format!("is invalid: {error}")),
            Ok(signed) => {
                let said = (
                    signed.checkpoint.origin.as_str(),
                    signed.checkpoint.size,
                    signed.signed_s,
                );
                let row = (
                    self.lane.origin.as_str(),
                    stored.size,
                    Some(stored.signed_at_s.unsigned_abs()),
                );
                (said != row).then(|| "was moved: its note names another lane, size or time".to_owned())
            }
        };
        if let Some(reason) = forged {
            let problem = Problem::new(
                Kind::CheckpointForged,
                &self.report.lane,
                format!("{name} {reason}"),
            );
            self.note(problem.at(stored.size, None));
            return;
        }
        let Ok(signed) = opened else { return };
        if signed.checkpoint.size == self.tree.leaves() && signed.checkpoint.root == self.tree.root() {
            self.good = self.good.max(Some(stored.size));
            self.report.checkpoints += 1;
            if let Some(accounts) = &mut self.lane.accounts {
                accounts.signed(stored.signed_at_s);
            }
            self.report.signed_at = Some(timestamp(stored.signed_at_s)).max(self.report.signed_at.take());
        } else {
            // Checkpoints are ordered by size, so the first is the smallest.
            self.bad.get_or_insert_with(|| Bad {
                size: stored.size,
                name,
                good: self.good.unwrap_or(0),
            });
        }
    }

    /// Takes the next entry. Behind it `ahead` has at least [`AHEAD_ROWS`] more, where there are as many.
    ///
    /// # Errors
    /// [`TooMany`] where it has more ledger records than can be recomputed at once.
    pub fn take(&mut self, row: &Row, ahead: &VecDeque<Row>) -> Result<(), TooMany> {
        if row.seq != self.next {
            let found = format!("the next entry is {}", row.seq);
            self.change(Kind::EntryMissing, self.next, found);
        }
        if row.seq >= self.lane.head.size {
            self.change(
                Kind::EntryInserted,
                row.seq,
                "the entry lies beyond the head of its lane".to_owned(),
            );
        }
        self.next = row.seq.saturating_add(1);
        self.check_chain(row, ahead);
        if let (Some(comparison), Some(Entry::Ledger(entry))) = (&mut self.lane.comparison, &row.entry) {
            let records = std::iter::once(row).chain(ahead);
            let records = records.filter(|row| matches!(row.entry, Some(Entry::Ledger(_))));
            comparison.take(entry, records, self.raw_next);
        }
        if let Some(Entry::Ledger(entry)) = &row.entry {
            self.raw_before = self.raw_next.replace(entry.next);
            if let Some(accounts) = &mut self.lane.accounts {
                accounts.take(row.seq, entry)?;
            }
        }
        let hash = merkle::leaf(&[&row.bytes]);
        self.tree.push(hash);
        self.held.iter_mut().for_each(|held| held.roots.push(hash));
        self.report.entries += 1;
        Ok(())
    }

    /// Checks that the entry follows from those before it.
    fn check_chain(&mut self, row: &Row, ahead: &VecDeque<Row>) {
        let administration = self.report.lane == ADMINISTRATION;
        match &row.entry {
            None => self.change(
                Kind::EntryChanged,
                row.seq,
                "the entry has no known form".to_owned(),
            ),
            Some(Entry::Alert(alert)) if !administration => self.alerts.push((row.seq, alert.clone())),
            Some(Entry::Ledger(_)) if !administration => self.check_record(row, ahead),
            Some(Entry::Action(_)) if administration => {
                let follows = |link: &Link| match &self.links[1] {
                    Some((_, last)) => link.seq == last.seq.wrapping_add(1) && link.prev == last.hash,
                    None => link.seq == 0 && link.prev.bytes().all(|byte| byte == b'0'),
                };
                if !row.link.as_ref().is_some_and(follows) {
                    self.diagnose(row, ahead);
                }
            }
            Some(entry) => {
                let found = format!("an entry of kind {} does not belong in this lane", entry.kind());
                self.change(Kind::EntryInserted, row.seq, found);
            }
        }
        if let Some(link) = &row.link {
            self.links.rotate_left(1);
            self.links[1] = Some((row.seq, link.clone()));
        }
    }

    /// Checks that a ledger record is preceded by exactly the alerts that its faults require.
    fn check_record(&mut self, row: &Row, ahead: &VecDeque<Row>) {
        let alerts = std::mem::take(&mut self.alerts);
        let reasons = self.chain.alerts(&row.bytes);
        let said: Vec<&(u64, Alert)> = alerts
            .iter()
            .filter(|(_, alert)| alert.alert != Fault::Unreadable)
            .collect();
        let same = |(said, reason): (&&(u64, Alert), &Alert)| {
            let placed = Alert {
                ledger_offset: said.1.ledger_offset,
                ..reason.clone()
            };
            said.1 == placed
        };
        if said.len() == reasons.len() && said.iter().zip(&reasons).all(same) {
            for (seq, alert) in &alerts {
                self.broken(*seq, alert);
            }
        } else if let ([first, ..], []) = (said.as_slice(), reasons.as_slice()) {
            self.change(
                Kind::EntryInserted,
                first.0,
                "the alert does not correspond to any fault".to_owned(),
            );
        } else {
            self.diagnose(row, ahead);
        }
    }

    fn broken(&mut self, seq: u64, alert: &Alert) {
        let Alert {
            alert: fault,
            expected,
            found,
            ledger_offset,
            ..
        } = alert;
        let fault = serde_json::to_value(fault).unwrap_or_default();
        let detail = format!(
            "the ledger had a fault when the log read it: {}, expected {expected}, found {found}",
            fault.as_str().unwrap_or_default()
        );
        let problem = Problem::new(Kind::LedgerBroken, &self.report.lane, detail);
        let (problem, partition) = (problem.at(seq, self.raw_next), self.partition());
        self.note(match &self.lane.comparison {
            Some(comparison) => problem.in_topic(&comparison.topic, partition, *ledger_offset),
            None => problem,
        });
    }

    /// Classifies how the entries were altered where `row` does not follow.
    fn diagnose(&mut self, row: &Row, ahead: &VecDeque<Row>) {
        let behind = ahead.iter().filter_map(|row| row.link.as_ref()).take(2);
        let after: Vec<&Link> = row.link.as_ref().into_iter().chain(behind).collect();
        let before = self
            .links
            .each_ref()
            .map(|link| link.as_ref().map(|(_, link)| link));
        let (change, place) = diagnose(before, &after);
        let at = match (place, &self.links[1]) {
            (Where::Before, Some((seq, _))) => (*seq, self.raw_before),
            _ => (row.seq, self.raw_next),
        };
        let detail = "the chain of entries breaks here".to_owned();
        self.changed_at(entry_kind(change), at, detail);
    }

    /// Notes the first change of the sequence of entries, at the next raw offset.
    fn change(&mut self, kind: Kind, entry: u64, detail: String) {
        self.changed_at(kind, (entry, self.raw_next), detail);
    }

    fn changed_at(&mut self, kind: Kind, (entry, offset): (u64, Option<i64>), detail: String) {
        if self.changed.is_none() {
            let problem = Problem::new(kind, &self.report.lane, detail);
            self.changed = Some(problem.at(entry, offset));
        }
    }

    /// Notes a problem unless the lane already has one of its kind.
    fn note(&mut self, problem: Problem) {
        if !self.problems.iter().any(|noted| noted.kind == problem.kind) {
            self.problems.push(problem);
        }
    }

    fn partition(&self) -> i32 {
        let number = self.report.lane.rsplit('/').next();
        number.and_then(|number| number.parse().ok()).unwrap_or(-1)
    }
}
