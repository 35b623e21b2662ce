//! Comparison of a lane without Kafka: rewinds, lost ranges, gaps of control records, repeats.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::*;

/// Raw offsets 0, 1, 3, 4 and 6 (the others are control records), appended a millisecond apart: all clean.
const OFFSETS: [i64; 5] = [0, 1, 3, 4, 6];

struct Ledger {
    chain: Chain,
    prev: String,
    seq: u64,
}

impl Ledger {
    fn new() -> Self {
        Self {
            chain: Chain::new("ledger", "raw", 0, true),
            prev: "0".repeat(64),
            seq: 0,
        }
    }

    fn push(&mut self, first: i64, next: i64, also: &str, report: &mut Report) {
        let lost = also.contains("lost");
        let covered: Vec<i64> = OFFSETS
            .into_iter()
            .filter(|at| !lost && (first..next).contains(at))
            .collect();
        let leaf = |offset: &i64| merkle::leaf(*offset, Outcome::Clean, &digest(*offset));
        let root = hex(&merkle::root(&covered.iter().map(leaf).collect::<Vec<_>>()));
        let outcomes = if covered.is_empty() {
            json!({})
        } else {
            json!({ "clean": covered.len() })
        };
        let time = |offset: Option<&i64>| offset.map_or(0, |offset| 1000 + offset);
        let value = format!(
            r#"{{"v":1,"lane":"raw/0","seq":{},"prev":"{}","first":{first},"next":{next},"records":{},"outcomes":{outcomes},"root":"{root}","worker":"w","epoch":0,"schema_rev":"0","key_rev":0,"t_first":{},"t_last":{}{also}}}"#,
            self.seq,
            self.prev,
            covered.len(),
            time(covered.first()),
            time(covered.last()),
        );
        self.chain
            .push(self.seq.cast_signed(), Some(b"raw/0"), value.as_bytes(), report);
        self.prev = hex(&Sha256::digest(value.as_bytes()));
        self.seq += 1;
    }
}

fn digest(offset: i64) -> [u8; 32] {
    Sha256::digest(offset.to_string()).into()
}

/// Settles a lane with those raw records and the clean ones in the order given.
fn settle(ledger: Ledger, clean: &[i64], mut report: Report) -> (Account, Report) {
    let mut lane = Lane::new(
        Range {
            partition: 0,
            first: 0,
            next: 7,
        },
        ledger.chain,
    );
    for offset in OFFSETS {
        let once = Some(Once::Counted {
            device: 1,
            boot: 1,
            number: offset.unsigned_abs(),
        });
        let event = Some(u128::from(offset.unsigned_abs()));
        lane.push_raw(
            offset,
            1000 + offset,
            digest(offset),
            &Judgement {
                allowed: Outcome::Clean.into(),
                event,
                once,
            },
        );
    }
    for (at, offset) in clean.iter().enumerate() {
        lane.push_clean(at as i64, u128::from(offset.unsigned_abs()));
    }
    let account = lane.settle(&Rules::default(), &Topics::default(), &mut report);
    (account, report)
}

#[test]
fn offsets_may_be_missing_as_long_as_ranges_tile() {
    let (mut ledger, mut report) = (Ledger::new(), Report::default());
    ledger.push(0, 3, "", &mut report);
    ledger.push(3, 3, "", &mut report);
    ledger.push(3, 7, "", &mut report);
    let (account, report) = settle(ledger, &OFFSETS, report);
    assert!(report.is_good(), "{:?}", report.problems);
    assert_eq!(
        (account.records, account.ledger_records, account.roots_checked),
        (5, 3, 3)
    );
}

#[test]
fn after_a_rewind_a_record_may_be_in_clean_twice_but_no_more() {
    let rewind = r#","rewind":{"from":7,"to":3}"#;
    let with_clean = |clean: &[i64], rewind: &str| {
        let (mut ledger, mut report) = (Ledger::new(), Report::default());
        ledger.push(0, 3, "", &mut report);
        ledger.push(3, 7, "", &mut report);
        ledger.push(3, 3, rewind, &mut report);
        ledger.push(3, 7, "", &mut report);
        settle(ledger, clean, report)
    };
    let (account, report) = with_clean(&[0, 1, 3, 4, 6, 3, 4, 6], rewind);
    assert!(report.is_good(), "{:?}", report.problems);
    assert_eq!(
        (account.rewinds, account.ledger_records, account.roots_checked),
        (1, 4, 2)
    );
    let problems = |(_, report): (Account, Report)| report.problems.into_keys().collect::<Vec<_>>();
    assert_eq!(
        problems(with_clean(&[0, 1, 3, 4, 6, 3, 4, 6, 6], rewind)),
        [Problem::CleanDoubled]
    );
    assert_eq!(
        problems(with_clean(&[0, 1, 3, 4, 6, 3, 4, 6], "")),
        [Problem::LedgerRange]
    );
    let false_rewind = r#","rewind":{"from":6,"to":3}"#;
    assert_eq!(
        problems(with_clean(&[0, 1, 3, 4, 6, 3, 4, 6], false_rewind)),
        [Problem::LedgerRange]
    );
}

#[test]
fn a_lost_range_accounts_for_nothing_that_is_still_there() {
    let (mut ledger, mut report) = (Ledger::new(), Report::default());
    ledger.push(0, 3, r#","lost":{"first":0,"next":3}"#, &mut report);
    ledger.push(3, 7, "", &mut report);
    let (account, report) = settle(ledger, &[3, 4, 6], report);
    assert_eq!((account.lost_offsets, account.unaccounted), (3, 2));
    assert_eq!(
        report.problems.into_keys().collect::<Vec<_>>(),
        [Problem::Unaccounted]
    );
}

#[test]
fn history_decides_what_a_repeat_may_be() {
    let rules = Rules::default();
    let before = HashSet::from([Once::Named { device: 9, digest: 9 }]);
    let mut history = History::new(&rules, &before);
    let raw = |once| Raw {
        offset: 0,
        appended_ms: 0,
        digest: [0; 32],
        event: None,
        once: Some(once),
        allowed: Outcome::Clean.into(),
    };
    let counted = |boot, number| {
        raw(Once::Counted {
            device: 1,
            boot,
            number,
        })
    };
    // How much of its rate the device used before the range is unknown.
    let fresh = Outcomes::of(&[Outcome::Clean, Outcome::RateLimited]);
    assert_eq!(history.allow(&counted(1, 1000)), fresh);
    history.take(&counted(1, 1000), Outcome::Clean);
    assert_eq!(history.allow(&counted(1, 1000)), Outcome::Duplicate.into());
    assert_eq!(history.allow(&counted(1, 1001)), fresh);
    assert_eq!(history.allow(&counted(1, 489)), fresh);
    assert_eq!(history.allow(&counted(1, 488)), fresh.with(Outcome::Stale));
    assert_eq!(history.allow(&counted(0, 2000)), fresh.with(Outcome::Stale));
    history.take(&counted(1, 1001), Outcome::RateLimited);
    assert_eq!(history.allow(&counted(1, 1001)), fresh.with(Outcome::Duplicate));
    assert_eq!(
        history.allow(&raw(Once::Named { device: 9, digest: 9 })),
        fresh.with(Outcome::Duplicate)
    );
    let forged = Raw {
        once: None,
        allowed: Outcome::BadSignature.into(),
        ..counted(1, 1)
    };
    assert_eq!(history.allow(&forged), Outcome::BadSignature.into());
    (0..rules.failures_burst).for_each(|_| history.take(&forged, Outcome::BadSignature));
    assert_eq!(
        history.allow(&forged),
        Outcomes::of(&[Outcome::BadSignature, Outcome::RateLimited])
    );
}

#[test]
fn a_rate_is_used_up_and_comes_back() {
    let rules = Rules {
        rate: Some(Rate {
            events_per_minute: 60,
            burst: 10,
        }),
        ..Rules::default()
    };
    let nothing = HashSet::new();
    let mut history = History::new(&rules, &nothing);
    let at = |number: u64, appended_ms| Raw {
        offset: 0,
        appended_ms,
        digest: [0; 32],
        event: None,
        once: Some(Once::Counted {
            device: 1,
            boot: 0,
            number,
        }),
        allowed: Outcome::Clean.into(),
    };
    let (clean, limited) = (
        Outcomes::from(Outcome::Clean),
        Outcomes::from(Outcome::RateLimited),
    );
    let either = clean.with(Outcome::RateLimited);
    for number in 0..9 {
        assert_eq!(history.allow(&at(number, 0)), clean, "{number}");
        history.take(&at(number, 0), Outcome::Clean);
    }
    for number in 9..12 {
        assert_eq!(history.allow(&at(number, 0)), either, "{number}");
        history.take(&at(number, 0), Outcome::Clean);
    }
    assert_eq!(history.allow(&at(12, 0)), limited);
    history.take(&at(12, 0), Outcome::RateLimited);
    assert_eq!(
        history.allow(&at(13, 3_000)),
        either,
        "a rejected event uses nothing of the rate"
    );
    assert_eq!(history.allow(&at(13, 4_000)), clean);
}
