//! Selects the ledger records that are compared with the raw and clean topics.

use std::ops::Range;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::TooMany;
use super::account::Account;
use crate::entry as ledger;

/// Most ledger records of one lane compared in one run, at about 300 bytes each.
const ACCOUNTS_MAX: usize = 5_000_000;

/// Start or end of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// An offset of the raw topic, in every lane.
    Offset(i64),
    /// Append time of raw records.
    Time(Timestamp),
}

impl FromStr for Bound {
    type Err = String;

    /// Parses an offset, a date (its midnight in UTC), or an RFC 3339 time.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        let midnight = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
        let time = text.parse::<Timestamp>().ok();
        let time = time.or_else(|| text.parse::<Date>().ok().and_then(midnight));
        time.map(Self::Time).ok_or_else(|| {
            "is neither an offset, nor a date, nor a time such as 2026-11-22T10:00:00Z".to_owned()
        })
    }
}

/// Part of the ledger to compare; without a bound it extends to that end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// First record compared.
    pub from: Option<Bound>,
    /// First record no longer compared.
    pub to: Option<Bound>,
}

impl Window {
    fn has_begun(&self, entry: &ledger::Entry) -> bool {
        match self.from {
            None => true,
            Some(Bound::Offset(offset)) => entry.next > offset,
            Some(Bound::Time(time)) => entry.t_last >= time.as_millisecond(),
        }
    }

    fn has_ended(&self, entry: &ledger::Entry) -> bool {
        match self.to {
            None => false,
            Some(Bound::Offset(offset)) => entry.first >= offset,
            Some(Bound::Time(time)) => entry.t_first >= time.as_millisecond(),
        }
    }
}

/// Ledger records inside the window and just before it.
#[derive(Debug)]
pub struct Accounts {
    window: Window,
    repeat_ms: i64,
    /// The ledger records.
    pub accounts: Vec<Account>,
    /// Index of the first account inside the window; the number of accounts until it has arrived.
    pub from: usize,
    /// Offsets covered by more than one ledger record of the lane, inside the window or not, after a `--rewind`.
    pub covers: Vec<Range<i64>>,
    /// First offset not covered by any ledger record.
    next: i64,
    begun: bool,
    /// A record behind the window was seen.
    pub ended: bool,
    /// Time by which all records of the accounts were in every topic, in ms; known only of a window that has ended.
    pub until_ms: Option<i64>,
}

impl Accounts {
    /// None yet. `repeat_ms` is how long an event can be repeated.
    #[must_use]
    pub fn new(window: Window, repeat_ms: i64) -> Self {
        Self {
            window,
            repeat_ms,
            accounts: Vec::new(),
            from: 0,
            covers: Vec::new(),
            next: i64::MIN,
            begun: false,
            ended: false,
            until_ms: None,
        }
    }

    /// Notes a checkpoint over everything taken so far. The log's records were committed before it, in one transaction
    /// with their clean records.
    pub fn signed(&mut self, signed_s: i64) {
        if self.ended && self.until_ms.is_none() {
            self.until_ms = Some((signed_s + 1) * 1_000);
        }
    }

    /// Notes the offsets covered by the lane's next ledger record, which need not be in the log yet.
    pub fn cover(&mut self, offsets: Range<i64>) {
        let again = offsets.start..offsets.end.min(self.next);
        self.next = self.next.max(offsets.end);
        match self.covers.last_mut() {
            _ if again.is_empty() => {}
            Some(last) if last.end == again.start => last.end = again.end,
            _ => self.covers.push(again),
        }
    }

    /// Takes the next ledger record of the lane.
    ///
    /// # Errors
    /// [`TooMany`] where the window has more than can be compared at once.
    pub fn take(&mut self, number: u64, entry: &ledger::Entry) -> Result<(), TooMany> {
        self.cover(entry.first..entry.next);
        self.ended |= self.window.has_ended(entry);
        if self.ended {
            return Ok(());
        }
        if !self.begun {
            self.begun = self.window.has_begun(entry);
            // An event may have been accepted this long before its repeat.
            let old =
                |account: &Account| account.appended_ms.1 < entry.t_first.saturating_sub(self.repeat_ms);
            let gone = self
                .accounts
                .iter()
                .take_while(|account| entry.t_first > 0 && old(account))
                .count();
            // Drained in batches, or every record would move all others. The last of them stays: records this much
            // later cannot repeat a drained one.
            if self.begun || gone > 1_000 {
                self.accounts.drain(..gone.saturating_sub(1));
            }
            self.from = self.accounts.len() + usize::from(!self.begun);
        }
        if self.accounts.len() == ACCOUNTS_MAX {
            return Err(TooMany { limit: ACCOUNTS_MAX });
        }
        self.accounts.push(Account::of(number, entry));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_offsets_dates_or_times() {
        let midnight: Timestamp = "2026-11-22T00:00:00Z".parse().expect("a time");
        assert_eq!("12".parse(), Ok(Bound::Offset(12)));
        assert_eq!("2026-11-22".parse(), Ok(Bound::Time(midnight)));
        assert_eq!("2026-11-22T01:00:00+01:00".parse(), Ok(Bound::Time(midnight)));
        for bad in ["", "yesterday", "2026-13-01", "1.5"] {
            assert!(bad.parse::<Bound>().is_err(), "{bad}");
        }
    }

    fn entry(number: i64) -> ledger::Entry {
        let texts: Vec<String> =
            serde_json::from_str(include_str!("../../tests/vectors/ledger.json")).expect("vectors");
        let mut entry = ledger::Entry::parse(texts[0].as_bytes()).expect("a record");
        (entry.first, entry.next) = (number * 10, number * 10 + 10);
        (entry.t_first, entry.t_last) = (number * 1_000, number * 1_000 + 999);
        entry
    }

    #[test]
    fn accounts_are_kept_from_just_before_the_window() {
        let offsets = |from: &str, to: &str| {
            let window = Window {
                from: from.parse().ok(),
                to: to.parse().ok(),
            };
            let mut accounts = Accounts::new(window, 3_000);
            for number in 0..5_000 {
                accounts.take(number as u64, &entry(number)).expect("few");
            }
            let wanted: Vec<i64> = accounts.accounts[accounts.from..]
                .iter()
                .map(|one| one.offsets.start)
                .collect();
            (accounts.from, wanted.first().copied(), wanted.last().copied())
        };
        assert_eq!(offsets("", ""), (0, Some(0), Some(49_990)));
        assert_eq!(offsets("40015", "40045"), (4, Some(40_010), Some(40_040)));
        assert_eq!(
            offsets("1970-01-01T01:00:00Z", "1970-01-01T01:00:02Z"),
            (4, Some(36_000), Some(36_010))
        );
        assert_eq!(offsets("9999999", "").1, None);
    }

    #[test]
    fn offsets_covered_twice_are_known_wherever_the_window_is() {
        let window = Window {
            from: Some(Bound::Offset(20)),
            to: Some(Bound::Offset(30)),
        };
        let mut accounts = Accounts::new(window, 0);
        for number in [0, 1, 2, 3, 1, 2, 5, 4] {
            accounts.take(0, &entry(number)).expect("few");
        }
        assert_eq!(accounts.covers, [10..30, 40..50]);
        // Records that the log does not have yet are in the ledger.
        accounts.cover(0..5);
        assert_eq!(accounts.covers, [10..30, 40..50, 0..5]);
    }
}
