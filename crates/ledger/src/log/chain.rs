//! Turns the ledger records of one lane into entries of its log: each record, preceded by alerts about its faults. A
//! pure function of the records, so every reader of the topic arrives at the same entries.

use sha2::{Digest, Sha256};

use super::entry::{self, Alert, Fault, VERSION};
use crate::entry as ledger;

/// State of one lane's ledger chain.
#[derive(Clone, Debug)]
pub struct Chain {
    lane: String,
    /// The last readable record.
    last: Option<Link>,
}

#[derive(Clone, Debug)]
struct Link {
    seq: u64,
    hash: String,
    next: i64,
}

/// `prev` of the first record.
const NOTHING: [u8; 32] = [0; 32];

impl Chain {
    /// An empty chain of `lane` (`<raw topic>/<partition>`).
    #[must_use]
    pub fn new(lane: &str) -> Self {
        Self {
            lane: lane.to_owned(),
            last: None,
        }
    }

    /// Name of the lane, `<raw topic>/<partition>`.
    #[must_use]
    pub fn lane(&self) -> &str {
        &self.lane
    }

    /// Continues after a record that was observed earlier. Returns false, and leaves the chain as it is, if `value` is
    /// not a ledger record.
    pub fn resume(&mut self, value: &[u8]) -> bool {
        let link = ledger::Entry::parse(value)
            .ok()
            .map(|entry| Link::of(&entry, value));
        let is_record = link.is_some();
        self.last = link.or(self.last.take());
        is_record
    }

    /// Returns the log entries for the record at `offset` of the ledger topic.
    pub fn observe(&mut self, offset: i64, value: &[u8]) -> Vec<Vec<u8>> {
        let (alerts, kept) = self.judge(offset, value);
        let mut entries: Vec<Vec<u8>> = alerts.iter().map(entry::bytes).collect();
        if kept {
            entries.push(value.to_vec());
        }
        entries
    }

    /// Returns the faults of a record whose offset is unknown, and advances the chain past it.
    pub(crate) fn alerts(&mut self, value: &[u8]) -> Vec<Alert> {
        self.judge(0, value).0
    }

    /// Returns the record's faults, and whether it is a ledger record at all.
    fn judge(&mut self, offset: i64, value: &[u8]) -> (Vec<Alert>, bool) {
        let mut alerts = Vec::new();
        let lane = self.lane.clone();
        let mut alert = |alert, expected: String, found: String| {
            alerts.push(Alert {
                v: VERSION,
                alert,
                lane: lane.clone(),
                ledger_offset: offset,
                expected,
                found,
            });
        };
        let Ok(read) = ledger::Entry::parse(value) else {
            let found = format!("{} bytes with SHA-256 {}", value.len(), entry::digest(value));
            alert(Fault::Unreadable, "a ledger record".to_owned(), found);
            return (alerts, false);
        };
        if read.lane != self.lane {
            alert(
                Fault::Foreign,
                self.lane.clone(),
                entry::digest(read.lane.as_bytes()),
            );
        }
        let canonical = serde_json::to_vec(&read).unwrap_or_default();
        if canonical != value {
            alert(
                Fault::NotCanonical,
                entry::digest(&canonical),
                entry::digest(value),
            );
        }
        self.check_link(&read, &mut alert);
        self.last = Some(Link::of(&read, value));
        (alerts, true)
    }

    fn check_link(&self, read: &ledger::Entry, alert: &mut impl FnMut(Fault, String, String)) {
        let nothing = hex::encode(NOTHING);
        let (seq, prev) = match &self.last {
            Some(last) => (last.seq.checked_add(1), last.hash.as_str()),
            None => (Some(0), nothing.as_str()),
        };
        if Some(read.seq) != seq {
            let expected = seq.map_or("nothing".to_owned(), |seq| seq.to_string());
            alert(Fault::Sequence, expected, read.seq.to_string());
        }
        if read.prev != prev {
            // The field can hold arbitrary text: only its digest is kept.
            let found = match hex::decode(&read.prev) {
                Ok(bytes) if bytes.len() == NOTHING.len() => read.prev.clone(),
                _ => entry::digest(read.prev.as_bytes()),
            };
            alert(Fault::Previous, prev.to_owned(), found);
        }
        let first = match (&self.last, read.rewind) {
            (_, Some(rewind)) => rewind.to,
            (Some(last), None) => last.next,
            (None, None) => read.first,
        };
        if read.first != first || read.next < read.first {
            alert(
                Fault::Range,
                first.to_string(),
                format!("{}..{}", read.first, read.next),
            );
        }
        if let (Some(rewind), Some(last)) = (read.rewind, &self.last)
            && rewind.from != last.next
        {
            alert(Fault::Range, last.next.to_string(), rewind.from.to_string());
        }
        if let Some(lost) = read.lost
            && (lost.first, lost.next, read.records) != (read.first, read.next, 0)
        {
            let found = format!("lost {}..{} with {} records", lost.first, lost.next, read.records);
            alert(Fault::Range, format!("lost {}..{}", read.first, read.next), found);
        }
        if read
            .outcomes
            .values()
            .try_fold(0_u64, |sum, count| sum.checked_add(*count))
            != Some(read.records)
        {
            alert(
                Fault::Range,
                read.records.to_string(),
                "other outcomes".to_owned(),
            );
        }
    }
}

impl Link {
    fn of(entry: &ledger::Entry, value: &[u8]) -> Self {
        Self {
            seq: entry.seq,
            hash: hex::encode(Sha256::digest(value)),
            next: entry.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lane of `tests/vectors/ledger.json`, whose three records are a batch, a lost range and a rewind.
    const LANE: &str = "biometrics.raw/3";

    fn vectors() -> Vec<Vec<u8>> {
        let texts: Vec<String> =
            serde_json::from_str(include_str!("../../tests/vectors/ledger.json")).expect("vectors");
        texts.into_iter().map(String::into_bytes).collect()
    }

    fn faults(records: &[Vec<u8>]) -> Vec<Vec<Fault>> {
        let mut chain = Chain::new(LANE);
        let judge = |(offset, value): (usize, &Vec<u8>)| {
            let (alerts, _) = chain.judge(offset as i64, value);
            alerts.iter().map(|alert| alert.alert).collect()
        };
        records.iter().enumerate().map(judge).collect()
    }

    #[test]
    fn an_unbroken_chain_yields_exactly_its_records() {
        let records = vectors();
        assert_eq!(faults(&records), [vec![], vec![], vec![]]);
        let mut chain = Chain::new(LANE);
        let entries: Vec<_> = records
            .iter()
            .flat_map(|record| chain.observe(0, record))
            .collect();
        assert_eq!(entries, records);
        let mut resumed = Chain::new(LANE);
        assert!(!resumed.resume(b"{}") && resumed.resume(&records[1]));
        assert_eq!(resumed.observe(2, &records[2]), [records[2].clone()]);
    }

    #[test]
    fn what_breaks_the_chain_gets_an_alert_and_is_kept() {
        let good = vectors();
        let text = |index: usize| String::from_utf8(good[index].clone()).expect("JSON");
        let changed = |index: usize, from: &str, to: &str| {
            assert!(text(index).contains(from), "{from}");
            text(index).replacen(from, to, 1).into_bytes()
        };
        let with = |index: usize, record: Vec<u8>| {
            let mut records = good.clone();
            records[index] = record;
            records
        };
        let cases = [
            (
                vec![good[1].clone(), good[2].clone()],
                vec![vec![Fault::Sequence, Fault::Previous], vec![]],
            ),
            (
                vec![good[0].clone(), good[2].clone()],
                vec![vec![], vec![Fault::Sequence, Fault::Previous, Fault::Range]],
            ),
            (
                with(0, changed(0, "gate-a-0", "gate-b-0")),
                vec![vec![], vec![Fault::Previous], vec![]],
            ),
            (
                with(1, changed(1, "\"lost\":{\"first\":9", "\"lost\":{\"first\":8")),
                vec![vec![], vec![Fault::Range], vec![Fault::Previous]],
            ),
            (
                with(1, b"not a record".to_vec()),
                vec![
                    vec![],
                    vec![Fault::Unreadable],
                    vec![Fault::Sequence, Fault::Previous, Fault::Range],
                ],
            ),
            (
                with(2, changed(2, "biometrics.raw/3", "biometrics.raw/4")),
                vec![vec![], vec![], vec![Fault::Foreign]],
            ),
            (
                with(2, changed(2, ",", ", ")),
                vec![vec![], vec![], vec![Fault::NotCanonical]],
            ),
            (
                with(0, changed(0, "\"records\":3", "\"records\":4")),
                vec![vec![Fault::Range], vec![Fault::Previous], vec![]],
            ),
        ];
        for (records, expected) in cases {
            assert_eq!(faults(&records), expected);
        }
    }

    #[test]
    fn only_the_digest_of_an_unreadable_record_is_kept() {
        let mut chain = Chain::new(LANE);
        let entries = chain.observe(5, b"Jane Roe, born 1970");
        let [alert] = entries.as_slice() else {
            panic!("one entry")
        };
        let text = String::from_utf8(alert.clone()).expect("JSON");
        assert!(
            text.starts_with(r#"{"v":1,"alert":"unreadable","lane":"biometrics.raw/3","ledger_offset":5,"#),
            "{text}"
        );
        assert!(!text.contains("Jane") && text.contains(&entry::digest(b"Jane Roe, born 1970")));
    }
}
