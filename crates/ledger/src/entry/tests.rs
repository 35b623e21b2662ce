use super::*;
use crate::outcome::Reason;
use crate::record::SignatureHeaders;

const STAMP: Stamp<'_> = Stamp {
    worker: "gate-a-0",
    schema_rev: "0011223344556677",
    key_rev: 12,
};

fn record(offset: i64, value: &[u8]) -> Received<'_> {
    let signature = SignatureHeaders::default();
    Received {
        partition: 3,
        offset,
        appended_ms: 1_000 + offset,
        key: None,
        value,
        signature,
    }
}

/// Three entries of one lane, as `tests/vectors/ledger.json` has them.
fn chain() -> (Vec<Vec<u8>>, Head) {
    let mut head = Head::genesis(5);
    head.epoch = 1;
    let mut tally = Tally::default();
    tally.add(&record(5, b"one"), Outcome::Clean);
    tally.add(&record(6, b""), Outcome::Rejected(Reason::MissingSignature));
    tally.add(&record(8, b"three"), Outcome::Duplicate);
    let entries = vec![
        head.append("biometrics.raw/3", &tally, 9, &STAMP),
        head.append_lost("biometrics.raw/3", 20, &STAMP),
        head.append_rewind("biometrics.raw/3", 10, &STAMP),
    ];
    (entries, head)
}

#[test]
fn entries_are_byte_for_byte_those_of_the_vectors() {
    let vectors: Vec<String> =
        serde_json::from_str(include_str!("../../tests/vectors/ledger.json")).expect("vectors");
    let (entries, _) = chain();
    let entries: Vec<_> = entries
        .into_iter()
        .map(|entry| String::from_utf8(entry).expect("JSON"))
        .collect();
    assert_eq!(entries, vectors);
}

#[test]
fn a_chain_resumes_where_it_ends() {
    let (entries, head) = chain();
    assert_eq!(
        Head::after(entries.last().expect("three entries")).expect("an entry"),
        head
    );
    assert_eq!((head.seq, head.next), (3, 10));
    let second = Entry::parse(&entries[1]).expect("an entry");
    assert_eq!(second.prev, hex::encode(Sha256::digest(&entries[0])));
    assert_eq!(second.lost, Some(Lost { first: 9, next: 20 }));
}

#[test]
fn an_invalid_entry_is_refused() {
    let other_version = br#"{"v":2}"#;
    for value in [
        &b""[..],
        b"{",
        b"{}",
        other_version,
        &vec![b' '; ENTRY_BYTES_MAX + 1],
    ] {
        assert!(Entry::parse(value).is_err());
    }
}

#[test]
fn a_lane_opens_only_where_group_and_ledger_agree() {
    let head = |next| {
        Some(Head {
            next,
            ..Head::genesis(0)
        })
    };
    let standing = |head, committed, low, high| Standing {
        head,
        committed,
        low,
        high,
    };
    let opened = |standing: Standing, rewind| {
        standing
            .reconcile(rewind)
            .map(|outset| (outset.head.next, outset.notices))
    };
    // Each case: standing, result without `--rewind`, result with it.
    let moved = Refusal::Moved {
        ledger: 10,
        committed: 4,
    };
    let ahead = Refusal::Moved {
        ledger: 10,
        committed: 12,
    };
    let rewind = |to| Notice::Rewind { to };
    let lost = |next| Notice::Lost { next };
    let cases = [
        (standing(None, None, 3, 9), Ok((3, vec![])), (3, vec![])),
        (
            standing(head(10), Some(10), 0, 20),
            Ok((10, vec![])),
            (10, vec![]),
        ),
        (
            standing(head(10), Some(10), 15, 20),
            Ok((10, vec![lost(15)])),
            (10, vec![lost(15)]),
        ),
        (
            standing(head(10), Some(4), 0, 20),
            Err(moved.clone()),
            (10, vec![rewind(4)]),
        ),
        (
            standing(head(10), Some(4), 6, 20),
            Err(moved),
            (10, vec![rewind(4), lost(6)]),
        ),
        (
            standing(head(10), Some(12), 0, 20),
            Err(ahead),
            (10, vec![rewind(12)]),
        ),
        (
            standing(head(10), None, 2, 20),
            Err(Refusal::NotCommitted { ledger: 10, low: 2 }),
            (10, vec![rewind(2)]),
        ),
        (
            standing(None, Some(7), 0, 20),
            Err(Refusal::NoLedger { committed: 7 }),
            (7, vec![rewind(7)]),
        ),
        (
            standing(head(10), Some(10), 0, 5),
            Err(Refusal::Truncated {
                committed: 10,
                high: 5,
                low: 0,
            }),
            (10, vec![rewind(0)]),
        ),
    ];
    for (standing, without, with) in cases {
        assert_eq!(opened(standing.clone(), false), without, "{standing:?}");
        assert_eq!(
            opened(standing.clone(), true),
            Ok(with),
            "{standing:?} with --rewind"
        );
    }
}
