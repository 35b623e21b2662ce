//! One lane: its raw records, compared with clean, deadletter and ledger.

use hashbrown::{HashMap, HashSet};

use super::judge::{Judgement, Rate, Rules};
use super::ledger::{Chain, Entry, hex};
use super::merkle;
use super::once::Once;
use super::report::{Account, Problem, Report};
use super::topics::Topics;
use crate::kafka::Range;
use crate::outcome::{Outcome, Outcomes};

/// A raw record, reduced to what the comparison needs: about a hundred bytes.
pub(super) struct Raw {
    offset: i64,
    appended_ms: i64,
    digest: [u8; 32],
    event: Option<u128>,
    once: Option<Once>,
    allowed: Outcomes,
}

/// Deadletter records of one raw offset.
struct Dead {
    outcome: Outcome,
    count: u32,
    received_ms: i64,
    /// Offset of the first one in the deadletter topic.
    at: i64,
}

/// Clean records of a lane, indexed by event id.
#[derive(Default)]
struct Clean {
    offsets: Vec<i64>,
    /// The next record with the same event id.
    same: Vec<Option<u32>>,
    /// The first unclaimed record with an event id, and the last one.
    ends: HashMap<u128, (Option<u32>, u32)>,
}

pub(super) struct Lane {
    /// Raw offsets to account for.
    pub range: Range,
    pub chain: Chain,
    raw: Vec<Raw>,
    clean: Clean,
    dead: HashMap<i64, Dead>,
    /// Ids used by records before the range, which the gate may have accepted.
    before: HashSet<Once>,
}

impl Lane {
    pub fn new(range: Range, chain: Chain) -> Self {
        let (raw, clean, dead, before) = Default::default();
        Self {
            range,
            chain,
            raw,
            clean,
            dead,
            before,
        }
    }

    /// Adds a raw record. A record before the range only contributes the id that it may have used.
    pub fn push_raw(&mut self, offset: i64, appended_ms: i64, digest: [u8; 32], judgement: &Judgement) {
        let Judgement { allowed, event, once } = *judgement;
        if offset < self.range.first {
            self.before.extend(once);
        } else {
            self.raw.push(Raw {
                offset,
                appended_ms,
                digest,
                event,
                once,
                allowed,
            });
        }
    }

    pub fn push_clean(&mut self, offset: i64, event: u128) {
        // A lane has far fewer than 2^32 clean records: the readers stop at their limit first.
        let index = u32::try_from(self.clean.offsets.len()).unwrap_or(u32::MAX);
        self.clean.offsets.push(offset);
        self.clean.same.push(None);
        let ends = self.clean.ends.entry(event).or_insert((Some(index), index));
        if ends.1 != index {
            self.clean.same[ends.1 as usize] = Some(index);
            ends.1 = index;
        }
    }

    pub fn push_dead(&mut self, at: i64, origin: i64, received_ms: i64, outcome: Outcome) {
        let dead = self.dead.entry(origin).or_insert(Dead {
            outcome,
            count: 0,
            received_ms,
            at,
        });
        dead.count += 1;
    }

    /// Compares, and returns the lane's account.
    pub fn settle(mut self, rules: &Rules, topics: &Topics, report: &mut Report) -> Account {
        let covers = self.covers();
        let observed = self.observe(&covers, topics, report);
        self.judge(&observed, rules, topics, report);
        self.check_leftovers(topics, report);
        let mut account = self.account(&observed);
        self.check_ledger(&observed, &covers, &mut account, topics, report);
        account
    }

    /// Number of ledger records that cover each raw record: one, or more after a rewind.
    fn covers(&self) -> Vec<u32> {
        let mut covers = vec![0; self.raw.len()];
        for entry in self.chain.entries.iter().filter(|entry| entry.lost.is_none()) {
            let (start, end) = self.span(entry);
            covers[start..end].iter_mut().for_each(|count| *count += 1);
        }
        covers
    }

    /// Indices of the raw records that a ledger record covers.
    fn span(&self, entry: &Entry) -> (usize, usize) {
        let at = |offset| self.raw.partition_point(|raw| raw.offset < offset);
        let start = at(entry.first);
        (start, at(entry.next).max(start))
    }

    /// What the topics show for each raw record; `None` if nothing.
    fn observe(&mut self, covers: &[u32], topics: &Topics, report: &mut Report) -> Vec<Option<Outcome>> {
        let partition = self.range.partition;
        let mut newest_clean = None;
        let mut observed = Vec::with_capacity(self.raw.len());
        for (raw, covers) in self.raw.iter().zip(covers) {
            let mut wrong =
                |problem, detail: String| report.note(problem, &topics.raw, partition, raw.offset, detail);
            if *covers == 0 {
                wrong(Problem::Unaccounted, "no ledger record covers it".to_owned());
            }
            if let Some(dead) = self.dead.remove(&raw.offset) {
                if dead.count > (*covers).max(1) {
                    wrong(
                        Problem::DeadletterDoubled,
                        format!("{} deadletter records, one at {}", dead.count, dead.at),
                    );
                }
                if dead.received_ms != raw.appended_ms {
                    wrong(
                        Problem::DeadletterMalformed,
                        format!("pg-received at {} differs from its append time", dead.at),
                    );
                }
                observed.push(Some(dead.outcome));
                continue;
            }
            let mut found = self.clean.take(raw.event);
            if let (Some(position), Some(newest)) = (found, newest_clean)
                && position < newest
            {
                let offset = self.clean.offsets[position as usize];
                wrong(
                    Problem::OrderViolated,
                    format!("its clean record at {offset} precedes that of an earlier raw record"),
                );
            }
            newest_clean = newest_clean.max(found);
            let outcome = match found {
                Some(_) => Some(Outcome::Clean),
                None if *covers > 0 => Some(Outcome::Duplicate),
                None => None,
            };
            // After a rewind a record may be in clean once for each time it was covered.
            for _ in 1..*covers {
                found = found.and_then(|_| self.clean.take(raw.event));
            }
            observed.push(outcome);
        }
        observed
    }

    /// Compares what the topics show with what each record deserves.
    fn judge(&self, observed: &[Option<Outcome>], rules: &Rules, topics: &Topics, report: &mut Report) {
        let mut history = History::new(rules, &self.before);
        for (raw, observed) in self.raw.iter().zip(observed) {
            let allowed = history.allow(raw);
            let Some(observed) = *observed else { continue };
            history.take(raw, observed);
            if allowed.contains(observed) {
                continue;
            }
            let (problem, detail) = match observed {
                Outcome::Duplicate if allowed.contains(Outcome::Clean) => (
                    Problem::CleanMissing,
                    "covered by the ledger, not a repeat, and in no topic".to_owned(),
                ),
                Outcome::Duplicate => (Problem::DeadletterMissing, format!("expected there as {allowed}")),
                Outcome::Clean if allowed.contains(Outcome::Duplicate) => {
                    (Problem::CleanDoubled, "a repeat, but present in clean".to_owned())
                }
                _ => (
                    Problem::WrongOutcome,
                    format!("{observed}, but it deserves {allowed}"),
                ),
            };
            report.note(problem, &topics.raw, self.range.partition, raw.offset, detail);
        }
    }

    /// Reports clean and deadletter records without a raw record.
    fn check_leftovers(&self, topics: &Topics, report: &mut Report) {
        let partition = self.range.partition;
        let raw: HashSet<u128> = self.raw.iter().filter_map(|raw| raw.event).collect();
        let mut left: Vec<(u32, bool)> = Vec::new();
        for (event, (first, _)) in &self.clean.ends {
            let rest = std::iter::successors(*first, |index| self.clean.same[*index as usize]);
            left.extend(rest.map(|index| (index, raw.contains(event))));
        }
        left.sort_unstable();
        for (index, known) in left {
            let offset = self.clean.offsets[index as usize];
            if known {
                report.note(
                    Problem::CleanDoubled,
                    &topics.clean,
                    partition,
                    offset,
                    "more clean records with this event id than raw records",
                );
            } else {
                report.note(
                    Problem::CleanWithoutRaw,
                    &topics.clean,
                    partition,
                    offset,
                    "no raw record has its event id",
                );
            }
        }
        let inside = |(origin, _): &(&i64, &Dead)| (self.range.first..self.range.next).contains(*origin);
        for (origin, dead) in self.dead.iter().filter(inside) {
            let detail = format!("no raw record at its pg-origin offset {origin}");
            report.note(
                Problem::DeadletterWithoutRaw,
                &topics.deadletter,
                partition,
                dead.at,
                detail,
            );
        }
    }

    fn account(&self, observed: &[Option<Outcome>]) -> Account {
        let mut account = Account {
            records: self.raw.len() as u64,
            ..Account::default()
        };
        for outcome in observed {
            match outcome {
                Some(outcome) => *account.outcomes.entry(*outcome).or_default() += 1,
                None => account.unaccounted += 1,
            }
        }
        account
    }

    /// Recomputes every ledger record whose offsets are all read and covered once.
    fn check_ledger(
        &self,
        observed: &[Option<Outcome>],
        covers: &[u32],
        account: &mut Account,
        topics: &Topics,
        report: &mut Report,
    ) {
        for entry in &self.chain.entries {
            account.ledger_records += 1;
            account.rewinds += u64::from(entry.rewind.is_some());
            if entry.lost.is_some() {
                account.lost_offsets += entry.next.saturating_sub(entry.first).unsigned_abs();
            }
            for (name, count) in &entry.outcomes {
                if let Some(outcome) = Outcome::from_name(name.as_bytes()) {
                    *account.ledger.entry(outcome).or_default() += count;
                }
            }
            let (start, end) = self.span(entry);
            let here = self.range.first <= entry.first && entry.next <= self.range.next;
            if !here || covers[start..end].iter().any(|count| *count != 1) {
                continue;
            }
            account.roots_checked += 1;
            let mut wrong = |problem, detail: String| {
                report.note(
                    problem,
                    &topics.ledger,
                    self.range.partition,
                    entry.offset,
                    detail,
                )
            };
            self.recompute(entry, &observed[start..end], &self.raw[start..end], &mut wrong);
        }
    }

    fn recompute(
        &self,
        entry: &Entry,
        observed: &[Option<Outcome>],
        raw: &[Raw],
        wrong: &mut impl FnMut(Problem, String),
    ) {
        let outcomes = observed
            .iter()
            .map(|outcome| outcome.unwrap_or(Outcome::Duplicate));
        let mut counts = std::collections::BTreeMap::<String, u64>::new();
        for outcome in outcomes.clone() {
            *counts.entry(outcome.as_str().to_owned()).or_default() += 1;
        }
        let Entry { first, next, .. } = entry;
        if entry.records != raw.len() as u64 || entry.outcomes != counts {
            wrong(
                Problem::LedgerCounts,
                format!(
                    "range {first}..{next}: {} records, but the topics have {}",
                    entry.records,
                    raw.len()
                ),
            );
        }
        let times = raw.iter().map(|raw| raw.appended_ms);
        let (t_first, t_last) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(0));
        if (entry.t_first, entry.t_last) != (t_first, t_last) {
            wrong(
                Problem::LedgerCounts,
                format!("range {first}..{next}: t_first and t_last differ from those of the records"),
            );
        }
        let leaves: Vec<_> = raw
            .iter()
            .zip(outcomes)
            .map(|(raw, outcome)| merkle::leaf(raw.offset, outcome, &raw.digest))
            .collect();
        if entry.root != hex(&merkle::root(&leaves)) {
            wrong(Problem::LedgerRoot, format!("range {first}..{next}"));
        }
    }
}

impl Clean {
    /// Takes the first record with that event id that has not been taken yet.
    fn take(&mut self, event: Option<u128>) -> Option<u32> {
        let first = &mut self.ends.get_mut(&event?)?.0;
        let index = (*first)?;
        *first = self.same[index as usize];
        Some(index)
    }
}

/// State of a lane's past that decides its next records.
struct History<'l> {
    rules: &'l Rules,
    before: &'l HashSet<Once>,
    accepted: HashSet<Once>,
    /// Ids rejected by the rate limit: the contract does not say whether rejection uses an id up.
    limited: HashSet<Once>,
    newest: HashMap<u32, (u64, u64)>,
    /// When each device last passed, and how many events of its burst it had used then.
    used: HashMap<u32, (i64, f64)>,
    failures: u64,
}

impl<'l> History<'l> {
    fn new(rules: &'l Rules, before: &'l HashSet<Once>) -> Self {
        let (accepted, limited, newest, used) = Default::default();
        Self {
            rules,
            before,
            accepted,
            limited,
            newest,
            used,
            failures: 0,
        }
    }

    /// Outcomes that the record may have at this point.
    fn allow(&self, raw: &Raw) -> Outcomes {
        let Some(once) = raw.once.filter(|_| raw.allowed.contains(Outcome::Clean)) else {
            // A lane that has spent its budget of failed verifications rejects unverified what would fail.
            let spent = self.failures >= self.rules.failures_burst;
            return if spent {
                raw.allowed.with(Outcome::RateLimited)
            } else {
                raw.allowed
            };
        };
        let mut allowed = match self.accepted.contains(&once) {
            true => Outcome::Duplicate.into(),
            false => self.rated(raw, once),
        };
        if self.before.contains(&once) || self.limited.contains(&once) {
            allowed = allowed.with(Outcome::Duplicate);
        }
        if self.is_behind(once) {
            allowed = allowed.with(Outcome::Stale);
        }
        allowed
    }

    /// Applies the device's rate to an otherwise clean record, as a leaky bucket: the bucket loses one event per
    /// interval of the sustained rate. A difference of one event is allowed for the gate's rounding.
    fn rated(&self, raw: &Raw, once: Once) -> Outcomes {
        const ROUNDING: f64 = 1.0;
        let either = raw.allowed.with(Outcome::RateLimited);
        let Some(rate) = self.rules.rate else {
            return either;
        };
        let free = f64::from(rate.burst) - self.used(rate, raw, once);
        match free {
            free if free < -ROUNDING => Outcome::RateLimited.into(),
            // Records before the range have used some of the burst, too.
            free if free >= 1.0 + ROUNDING && self.before.is_empty() => raw.allowed,
            _ => either,
        }
    }

    /// Number of events of its burst that a device has used.
    fn used(&self, rate: Rate, raw: &Raw, once: Once) -> f64 {
        let Some((then_ms, used)) = self.used.get(&once.device()) else {
            return 0.0;
        };
        let leaked = (raw.appended_ms - then_ms).max(0) as f64 / 60_000.0 * f64::from(rate.events_per_minute);
        (used - leaked).max(0.0)
    }

    /// Whether the device's window may have advanced too far to tell a repeat from a late message.
    fn is_behind(&self, once: Once) -> bool {
        let Once::Counted { device, boot, number } = once else {
            return false;
        };
        let Some((newest_boot, newest)) = self.newest.get(&device) else {
            return false;
        };
        boot < *newest_boot
            || (boot == *newest_boot && number.saturating_add(self.rules.replay_window) <= *newest)
    }

    /// Records the outcome.
    fn take(&mut self, raw: &Raw, observed: Outcome) {
        self.failures += u64::from(matches!(observed, Outcome::BadSignature | Outcome::UnknownKey));
        let Some(once) = raw.once else { return };
        match observed {
            Outcome::Clean => {
                if let Some(rate) = self.rules.rate {
                    let used = self.used(rate, raw, once) + 1.0;
                    self.used.insert(once.device(), (raw.appended_ms, used));
                }
                self.accepted.insert(once)
            }
            Outcome::RateLimited => self.limited.insert(once),
            _ => return,
        };
        if let Once::Counted { device, boot, number } = once {
            let newest = self.newest.entry(device).or_default();
            *newest = (*newest).max((boot, number));
        }
    }
}

#[cfg(test)]
mod tests;
