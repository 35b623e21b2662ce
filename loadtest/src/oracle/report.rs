//! The oracle's findings: the conservation table, and every kind of disagreement with its first place.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::outcome::Outcome;

/// A kind of disagreement between the topics, or between them and the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// A raw record that no ledger record covers.
    Unaccounted,
    /// A raw record that must be in clean but is not.
    CleanMissing,
    /// A second clean record for the same raw record.
    CleanDoubled,
    /// A clean record that belongs to no raw record.
    CleanWithoutRaw,
    /// A clean record whose event id cannot be read.
    CleanUnreadable,
    /// Clean records in a different order than their raw records.
    OrderViolated,
    /// A raw record that must be in the deadletter but is not.
    DeadletterMissing,
    /// A second deadletter record for the same raw record.
    DeadletterDoubled,
    /// A deadletter record that belongs to no raw record.
    DeadletterWithoutRaw,
    /// A deadletter record whose headers do not follow the contract.
    DeadletterMalformed,
    /// An outcome that the record does not deserve.
    WrongOutcome,
    /// A ledger record that is not in canonical form, or belongs to another lane.
    LedgerMalformed,
    /// A ledger record that does not continue the preceding one (sequence, hash).
    LedgerChain,
    /// Ledger ranges that leave a gap or overlap.
    LedgerRange,
    /// A ledger record whose counts differ from the topics.
    LedgerCounts,
    /// A ledger record whose Merkle root differs from the topics.
    LedgerRoot,
    /// A raw record without the broker's `LogAppendTime`.
    RawWithoutAppendTime,
    /// A planted string found behind the gate.
    PlantedPhi,
}

/// Place of a disagreement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Topic of the record.
    pub topic: String,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset of the record.
    pub offset: i64,
    /// What is wrong, in words; never a value of the record.
    pub detail: String,
}

/// Number of occurrences of a kind of disagreement, and the first place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Occurrences {
    /// Number of occurrences.
    pub count: u64,
    /// First place in the oracle's order: lane by lane, by offset.
    pub first: Place,
}

/// Account of one lane, or the total of all lanes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Number of raw records.
    pub records: u64,
    /// Raw records by the outcome that the topics show.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Raw records that no ledger record covers and no topic shows.
    pub unaccounted: u64,
    /// Records by the outcome that the ledger claims.
    pub ledger: BTreeMap<Outcome, u64>,
    /// Number of ledger records.
    pub ledger_records: u64,
    /// Number of ledger records whose Merkle root was recomputed. The others cover offsets outside the range, or
    /// offsets covered twice because of a rewind.
    pub roots_checked: u64,
    /// Number of offsets in ranges that the ledger reports as lost.
    pub lost_offsets: u64,
    /// Number of rewinds in the ledger.
    pub rewinds: u64,
}

/// Result of a verification.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Accounts by raw partition.
    pub lanes: BTreeMap<i32, Account>,
    /// Total of all lanes.
    pub total: Account,
    /// Every problem found; empty if the topics are good.
    pub problems: BTreeMap<Problem, Occurrences>,
    /// Number of clean records read.
    pub clean_records: u64,
    /// Number of deadletter records read.
    pub deadletter_records: u64,
    /// Number of planted strings searched for.
    pub planted_strings: u64,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Account {
    fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.unaccounted += other.unaccounted;
        self.ledger_records += other.ledger_records;
        self.roots_checked += other.roots_checked;
        self.lost_offsets += other.lost_offsets;
        self.rewinds += other.rewinds;
        for (outcome, count) in &other.outcomes {
            *self.outcomes.entry(*outcome).or_default() += count;
        }
        for (outcome, count) in &other.ledger {
            *self.ledger.entry(*outcome).or_default() += count;
        }
    }

    /// Whether every record has one outcome.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.unaccounted == 0 && self.records == self.outcomes.values().sum::<u64>()
    }
}

impl Report {
    /// Whether no problem was found.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn note(
        &mut self,
        problem: Problem,
        topic: &str,
        partition: i32,
        offset: i64,
        detail: impl Into<String>,
    ) {
        let first = || Place {
            topic: topic.to_owned(),
            partition,
            offset,
            detail: detail.into(),
        };
        let occurrences = self.problems.entry(problem).or_insert_with(|| Occurrences {
            count: 0,
            first: first(),
        });
        occurrences.count += 1;
    }

    pub(super) fn close(&mut self) {
        for account in self.lanes.values() {
            self.total.add(account);
        }
    }

    /// Conservation table: one row per outcome, one column per lane if there are at most twelve, then the total and the
    /// ledger's own count.
    #[must_use]
    pub fn table(&self) -> Table {
        let lanes: Vec<_> = if self.lanes.len() <= 12 {
            self.lanes.iter().collect()
        } else {
            Vec::new()
        };
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        let mut header = vec!["outcome".to_owned()];
        header.extend(lanes.iter().map(|(lane, _)| format!("lane {lane}")));
        header.extend(["total".to_owned(), "ledger".to_owned()]);
        table.set_header(header);
        let accounts = || lanes.iter().map(|(_, account)| *account).chain([&self.total]);
        let mut row = |name: &str, of: &dyn Fn(&Account) -> u64, ledger: String| {
            let counts = accounts().map(|account| grouped(of(account)));
            table.add_row(
                [name.to_owned()]
                    .into_iter()
                    .chain(counts)
                    .chain([ledger])
                    .collect::<Vec<_>>(),
            );
        };
        let ledger = |outcome| self.total.ledger.get(&outcome).copied().unwrap_or_default();
        for outcome in Outcome::ALL {
            let of = |account: &Account| account.outcomes.get(&outcome).copied().unwrap_or_default();
            if of(&self.total) > 0 || ledger(outcome) > 0 {
                row(outcome.as_str(), &of, grouped(ledger(outcome)));
            }
        }
        if self.total.unaccounted > 0 {
            row("unaccounted", &|account| account.unaccounted, String::new());
        }
        row(
            "records",
            &|account| account.records,
            grouped(self.total.ledger.values().sum()),
        );
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// A count with commas between the thousands.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unaccounted => "raw record in no ledger range",
            Self::CleanMissing => "clean record missing",
            Self::CleanDoubled => "clean record duplicated",
            Self::CleanWithoutRaw => "clean record without a raw one",
            Self::CleanUnreadable => "clean record without a readable event id",
            Self::OrderViolated => "clean records out of order",
            Self::DeadletterMissing => "deadletter record missing",
            Self::DeadletterDoubled => "deadletter record duplicated",
            Self::DeadletterWithoutRaw => "deadletter record without a raw one",
            Self::DeadletterMalformed => "deadletter headers malformed",
            Self::WrongOutcome => "wrong outcome",
            Self::LedgerMalformed => "ledger record malformed",
            Self::LedgerChain => "ledger chain broken",
            Self::LedgerRange => "ledger ranges do not tile",
            Self::LedgerCounts => "ledger counts differ from the topics",
            Self::LedgerRoot => "ledger root differs from the topics",
            Self::RawWithoutAppendTime => "raw record without LogAppendTime",
            Self::PlantedPhi => "planted PHI found behind the gate",
        })
    }
}

impl fmt::Display for Report {
    /// Writes the table and the verdict below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.table())?;
        for (problem, Occurrences { count, first }) in &self.problems {
            let Place {
                topic,
                partition,
                offset,
                detail,
            } = first;
            writeln!(
                f,
                "WRONG  {problem}: {}, first at {topic}/{partition}/{offset}: {detail}",
                grouped(*count)
            )?;
        }
        let Account {
            records,
            ledger_records,
            roots_checked,
            lost_offsets,
            rewinds,
            ..
        } = &self.total;
        if *lost_offsets > 0 || *rewinds > 0 {
            writeln!(
                f,
                "The ledger reports {lost_offsets} lost offsets and {rewinds} rewinds."
            )?;
        }
        let verdict = if self.is_good() { "Good" } else { "Wrong" };
        let lanes = self.lanes.len();
        write!(
            f,
            "{verdict}: {} raw records of {lanes} lanes against {} clean, {} deadletter and {} ledger records ({} roots \
             recomputed) in {:.1} s.",
            grouped(*records),
            grouped(self.clean_records),
            grouped(self.deadletter_records),
            grouped(*ledger_records),
            grouped(*roots_checked),
            self.seconds,
        )
    }
}
