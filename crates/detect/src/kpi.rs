//! KPIs of the pipeline, minute by minute: the gate's outcomes for the raw topic, counted from its ledger, and the
//! quality of the readings.
//!
//! A ledger record belongs to the minute in which the broker appended it, which is when its records were settled. The
//! records of one transaction are never split, and a count does not depend on when it is taken or by which worker:
//! counted again from the ledger, a minute has the same KPIs.

use std::collections::BTreeMap;

use super::reading::FleetMinute;
use crate::time::{DAY_MS, MINUTE_MS};
use pulsegate_ledger::entry as ledger;
use pulsegate_ledger::outcome::{Outcome, Reason};

/// Number of records that the gate settled in the minute. Has no label.
pub const THROUGHPUT: &str = "throughput";
/// Fraction of the settled records that was rejected, by reason.
pub const REJECT_RATE: &str = "reject_rate";
/// Fraction of the settled records that was a duplicate.
pub const DUPLICATE_RATE: &str = "duplicate_rate";
/// Seconds from the append of a raw record to the append of the ledger record that settles it, on the broker's clock:
/// the mean over the records, each counted as old as the oldest of its transaction. It therefore exceeds the true mean
/// by the time a transaction collects records (tens of milliseconds unless there is a backlog). The commit itself comes
/// after it.
pub const LATENCY_SECONDS: &str = "latency_seconds";
/// Number of readings measured in the minute.
pub const READINGS: &str = "readings";
/// Fraction of the readings measured in the minute that is good.
pub const QUALITY_RATE: &str = "quality_rate";

/// Longer waits count as this: 30 days, which keeps their sums far from overflow.
const WAIT_MAX_MS: i64 = 30 * DAY_MS;

/// One KPI of one minute.
#[derive(Clone, Debug, PartialEq)]
pub struct Kpi {
    /// The minute, counted since 1970.
    pub minute: i64,
    /// The KPI, such as `reject_rate`.
    pub name: &'static str,
    /// The subset it covers, such as a reason; empty if it covers everything.
    pub label: String,
    /// The value. NaN is not stored.
    pub value: f64,
    /// Number of records or readings it is computed from.
    pub records: u64,
}

/// Records of one outcome that were settled in one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Number of records.
    pub records: i64,
    /// Sum of their waiting times, in ms; see [`LATENCY_SECONDS`].
    pub waited_ms: i64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.records = self.records.saturating_add(other.records);
        self.waited_ms = self.waited_ms.saturating_add(other.waited_ms);
    }
}

/// Settled records, counted by minute (since 1970) and outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled(BTreeMap<(i64, &'static str), Count>);

impl Settled {
    /// Counts the ledger record with this value, which the broker appended at `append_ms`. An invalid or
    /// self-contradictory record is ignored; the audit reports it.
    pub fn add(&mut self, value: &[u8], append_ms: i64) {
        let Ok(entry) = ledger::Entry::parse(value) else {
            return;
        };
        let covered = entry
            .next
            .checked_sub(entry.first)
            .and_then(|covered| u32::try_from(covered).ok());
        let told = entry
            .outcomes
            .values()
            .try_fold(0_u64, |sum, count| sum.checked_add(*count));
        if told != Some(entry.records) || covered.is_none_or(|covered| entry.records > covered.into()) {
            return;
        }
        let wait_ms = append_ms.saturating_sub(entry.t_first).clamp(0, WAIT_MAX_MS);
        for outcome in Outcome::all() {
            let Some(&records) = entry.outcomes.get(outcome.as_str()) else {
                continue;
            };
            let records = i64::try_from(records).unwrap_or(i64::MAX);
            let count = Count {
                records,
                waited_ms: records.saturating_mul(wait_ms),
            };
            self.add_count(append_ms.div_euclid(MINUTE_MS), outcome, count);
        }
    }

    /// Adds to the count of one outcome in one minute.
    pub fn add_count(&mut self, minute: i64, outcome: Outcome, count: Count) {
        self.0.entry((minute, outcome.as_str())).or_default().add(count);
    }

    /// Removes all counts.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Number of counts: pairs of minute and outcome.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was settled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All counts with their minute and outcome, ordered by both.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &'static str, Count)> {
        self.0
            .iter()
            .map(|(&(minute, outcome), &count)| (minute, outcome, count))
    }

    /// The KPIs of each minute. A reason that did not occur has a rate of 0, so that its series has no gaps.
    #[must_use]
    pub fn kpis(&self) -> Vec<Kpi> {
        let mut minutes: BTreeMap<i64, Count> = BTreeMap::new();
        for (minute, _, count) in self.iter() {
            minutes.entry(minute).or_default().add(count);
        }
        minutes
            .into_iter()
            .flat_map(|(minute, all)| self.kpis_of(minute, all))
            .collect()
    }

    fn kpis_of(&self, minute: i64, all: Count) -> Vec<Kpi> {
        let records = all.records.max(0).cast_unsigned();
        let kpi = |name, label: &str, value| Kpi {
            minute,
            name,
            label: label.to_owned(),
            value,
            records,
        };
        let rate = |outcome: Outcome| {
            let count = self
                .0
                .get(&(minute, outcome.as_str()))
                .copied()
                .unwrap_or_default();
            count.records as f64 / all.records as f64
        };
        let mut kpis = vec![
            kpi(THROUGHPUT, "", all.records as f64),
            kpi(
                LATENCY_SECONDS,
                "",
                all.waited_ms as f64 / 1e3 / all.records as f64,
            ),
            kpi(DUPLICATE_RATE, "", rate(Outcome::Duplicate)),
        ];
        let rejected = |reason: Reason| kpi(REJECT_RATE, reason.as_str(), rate(reason.into()));
        kpis.extend(Reason::ALL.map(rejected));
        kpis
    }
}

/// The [`READINGS`] and [`QUALITY_RATE`] of each minute.
#[must_use]
pub fn of_readings(minutes: &[FleetMinute]) -> Vec<Kpi> {
    let of = |minute: &FleetMinute| {
        let kpi = |name, value| Kpi {
            minute: minute.minute,
            name,
            label: String::new(),
            value,
            records: minute.readings,
        };
        [
            kpi(READINGS, minute.readings as f64),
            kpi(QUALITY_RATE, minute.good as f64 / minute.readings.max(1) as f64),
        ]
    };
    minutes.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets 5 to 8: a clean record, a duplicate and one without a signature; the oldest was appended at 1,005 ms.
    fn record() -> String {
        let vectors: Vec<String> =
            serde_json::from_str(include_str!("../../ledger/tests/vectors/ledger.json")).expect("vectors");
        vectors.into_iter().next().expect("one")
    }

    fn told(kpis: &[Kpi]) -> Vec<(i64, &str, &str, f64)> {
        let known = kpis
            .iter()
            .filter(|kpi| kpi.name != REJECT_RATE || kpi.value > 0.0);
        known
            .map(|kpi| (kpi.minute, kpi.name, kpi.label.as_str(), kpi.value))
            .collect()
    }

    #[test]
    fn a_minute_counts_the_records_appended_in_it_in_any_order() {
        let mut settled = Settled::default();
        settled.add(record().as_bytes(), 59_999);
        settled.add(record().as_bytes(), 61_005);
        settled.add(record().as_bytes(), 63_005);
        let third = 1.0 / 3.0;
        assert_eq!(
            told(&settled.kpis()),
            [
                (0, THROUGHPUT, "", 3.0),
                (0, LATENCY_SECONDS, "", 58.994),
                (0, DUPLICATE_RATE, "", third),
                (0, REJECT_RATE, "missing_signature", third),
                (1, THROUGHPUT, "", 6.0),
                (1, LATENCY_SECONDS, "", 61.0),
                (1, DUPLICATE_RATE, "", third),
                (1, REJECT_RATE, "missing_signature", third),
            ]
        );
        let (reasons, all) = (Reason::ALL.len(), settled.kpis().len());
        assert_eq!(
            all,
            2 * (3 + reasons),
            "reasons that did not occur have a rate of 0"
        );
        // In another order, and from the counts alone.
        let mut again = Settled::default();
        again.add(record().as_bytes(), 63_005);
        for (minute, outcome, count) in settled.iter().filter(|(minute, ..)| *minute == 0) {
            let outcome = Outcome::all().find(|one| one.as_str() == outcome);
            again.add_count(minute, outcome.expect("its own names"), count);
        }
        again.add(record().as_bytes(), 61_005);
        assert_eq!(again, settled);
    }

    #[test]
    fn invalid_ledger_records_are_ignored() {
        let mut settled = Settled::default();
        let more = record().replace("\"records\":3", "\"records\":4");
        let huge = record().replace("\"clean\":1", "\"clean\":18446744073709551615");
        let beyond = more
            .replace("\"clean\":1", "\"clean\":2")
            .replace("\"next\":9", "\"next\":8");
        for bad in ["", "{}", &more, &huge, &beyond] {
            settled.add(bad.as_bytes(), 1);
            assert!(settled.is_empty(), "{bad}");
        }
        settled.add(more.replace("\"clean\":1", "\"clean\":2").as_bytes(), i64::MIN);
        let waited: i64 = settled.iter().map(|(_, _, count)| count.waited_ms).sum();
        assert_eq!(
            (settled.len(), waited),
            (3, 0),
            "a broker clock that runs behind gives no negative wait"
        );
        assert_eq!(Settled::default().kpis(), []);
    }

    #[test]
    fn readings_have_a_count_and_a_fraction_that_is_good() {
        let minute = FleetMinute {
            minute: 7,
            readings: 40,
            good: 20,
        };
        let kpis = of_readings(&[minute]);
        assert_eq!(told(&kpis), [(7, READINGS, "", 40.0), (7, QUALITY_RATE, "", 0.5)]);
        assert!(kpis.iter().all(|kpi| kpi.records == 40));
    }
}
