//! Every change to the log or the ledger is found and reported.

use pulsegate::config::Config;
use pulsegate::io::audit::{AuditLog, keys};
use pulsegate::roles::verify::{Kind, Options, Problem, Report};
use pulsegate_ledger::note::{Checkpoint, LogKey, Note};
use pulsegate_testkit::corner::in_a_corner;
use sqlx::{AssertSqlSafe, Executor as _};

use super::lab::{
    Lab, PARTITION, another_topic, database_only, ledger_records, produce, remove_topic, with_ledger,
};

/// Number of entries of the lane; checkpoints are at 10, 20 and 30.
const ENTRIES: usize = 30;

/// The only problem in the report.
fn only(report: &Report, what: &str) -> Problem {
    match report.problems.as_slice() {
        [problem] => problem.clone(),
        problems => panic!("{what}: {problems:#?}"),
    }
}

const LAST: &str = "the last entry changed, which only the checkpoints reveal";

/// Kind of the problem, and the entry.
type Found = (Kind, u64);

/// Changes to the rows, and the findings from the database alone and with the ledger: kind and entry.
const ROWS: [(&str, &str, Found, Found); 9] = [
    (
        "changed",
        "update audit_entry set entry = convert_to(replace(convert_from(entry, 'UTF8'), '\"clean\":8', '\"clean\":7'), 'UTF8')
         where lane = 'LANE' and seq = 12",
        (Kind::EntryChanged, 12),
        (Kind::EntryChanged, 12),
    ),
    (
        LAST,
        "update audit_entry set entry = convert_to(replace(convert_from(entry, 'UTF8'), 'gate-0', 'gate-9'), 'UTF8')
         where lane = 'LANE' and seq = 29",
        (Kind::EntryChanged, 20),
        (Kind::EntryChanged, 29),
    ),
    (
        "made unreadable",
        "update audit_entry set entry = '\\x00ff' where lane = 'LANE' and seq = 0",
        (Kind::EntryChanged, 0),
        (Kind::EntryChanged, 0),
    ),
    (
        "deleted",
        "delete from audit_entry where lane = 'LANE' and seq = 12",
        (Kind::EntryMissing, 12),
        (Kind::EntryMissing, 12),
    ),
    (
        "deleted, and the gap closed",
        "delete from audit_entry where lane = 'LANE' and seq = 12;
         update audit_entry set seq = seq + 1000 where lane = 'LANE' and seq > 12;
         update audit_entry set seq = seq - 1001 where lane = 'LANE' and seq > 1000",
        (Kind::EntryMissing, 12),
        (Kind::EntryMissing, 12),
    ),
    (
        "inserted",
        "update audit_entry set seq = seq + 1000 where lane = 'LANE' and seq > 12;
         update audit_entry set seq = seq - 999 where lane = 'LANE' and seq > 1000;
         insert into audit_entry select lane, 13, convert_to(replace(convert_from(entry, 'UTF8'), 'gate-0', 'gate-9'), 'UTF8')
         from audit_entry where lane = 'LANE' and seq = 14",
        (Kind::EntryInserted, 13),
        (Kind::EntryInserted, 13),
    ),
    (
        "appended by hand",
        "insert into audit_entry select lane, 30, entry from audit_entry where lane = 'LANE' and seq = 29",
        (Kind::EntryInserted, 30),
        (Kind::EntryInserted, 30),
    ),
    (
        "reordered",
        "update audit_entry set seq = 1000 where lane = 'LANE' and seq = 12;
         update audit_entry set seq = 12 where lane = 'LANE' and seq = 13;
         update audit_entry set seq = 13 where lane = 'LANE' and seq = 1000",
        (Kind::EntriesReordered, 12),
        (Kind::EntriesReordered, 12),
    ),
    (
        "truncated",
        "delete from audit_entry where lane = 'LANE' and seq >= 25",
        (Kind::Truncated, 25),
        (Kind::Truncated, 25),
    ),
];

#[tokio::test]
async fn each_change_of_a_row_is_reported() {
    in_a_corner("rows", |corner| async move {
        let lab = Lab::with_log(corner, ENTRIES, &[10, 20, 30]).await;
        let good = lab.verify(&with_ledger()).await;
        assert!(good.is_good(), "{:#?}", good.problems);
        let lane = good
            .lanes
            .iter()
            .find(|lane| lane.lane == lab.lane)
            .expect("verified");
        assert_eq!(
            (
                lane.entries,
                lane.checkpoints,
                lane.ledger_records,
                lane.ledger_pending
            ),
            (30, 3, Some(30), Some(0))
        );
        lab.save().await;
        for (what, change, alone, with_topic) in ROWS {
            lab.tamper(change).await;
            for (options, (kind, entry)) in [(database_only(), alone), (with_ledger(), with_topic)] {
                let problem = only(&lab.verify(&options).await, what);
                assert_eq!(
                    (problem.kind, problem.entry),
                    (kind, Some(entry)),
                    "{what}: {problem}"
                );
                assert_eq!(problem.lane, lab.lane, "{what}");
                // From the database alone the last change can only be narrowed down to ten entries.
                let expected = (entry > 0 && (what, entry) != (LAST, 20)).then_some(entry as i64 * 10);
                assert_eq!(problem.offset, expected, "{what}: {problem}");
            }
            lab.restore().await;
        }
        assert!(
            lab.verify(&with_ledger()).await.is_good(),
            "the restored log is good"
        );
    })
    .await;
}

/// The end is truncated in all tables consistently: only sources outside the database reveal it.
#[tokio::test]
async fn a_consistent_truncation_is_found_with_a_held_checkpoint_or_the_ledger() {
    in_a_corner("cut", |corner| async move {
        let lab = Lab::with_log(corner, ENTRIES, &[10, 20, 30]).await;
        let held = hold(&lab, &lab.newest_checkpoint().await);
        let head: Vec<u8> = sqlx::query_scalar("select frontier from audit_checkpoint where lane = $1 and size = 20")
            .bind(&lab.lane)
            .fetch_one(&mut lab.hand().await)
            .await
            .expect("signed");
        lab.tamper(&format!(
            "delete from audit_entry where lane = 'LANE' and seq >= 20; delete from audit_checkpoint where size > 20;
             update audit_lane set size = 20, frontier = '\\x{}' where lane = 'LANE'",
            hex::encode(head)
        ))
        .await;
        assert!(lab.verify(&database_only()).await.is_good(), "the database alone does not reveal it");
        for options in [&with_ledger(), &held] {
            let problem = only(&lab.verify(options).await, "truncated");
            assert_eq!((problem.kind, problem.entry), (Kind::Truncated, Some(20)), "{problem}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_completely_deleted_lane_is_reported() {
    in_a_corner("taken_out", |corner| async move {
        let lab = Lab::with_log(corner, ENTRIES, &[10, 20, 30]).await;
        let rows =
            "delete from audit_entry where lane = 'LANE'; delete from audit_checkpoint where lane = 'LANE';
                    delete from audit_lane where lane = 'LANE'";
        lab.tamper(rows).await;
        for options in [&database_only(), &with_ledger()] {
            let problem = only(&lab.verify(options).await, "its offset remains");
            assert_eq!(
                (problem.kind, problem.entry),
                (Kind::Truncated, Some(0)),
                "{problem}"
            );
        }
        // Nothing shows that the log ever had the lane; only the ledger has the missing records.
        lab.tamper("delete from sink_offset").await;
        let report = lab.verify(&with_ledger()).await;
        let lane = report
            .lanes
            .iter()
            .find(|lane| lane.lane == lab.lane)
            .expect("an empty log");
        assert_eq!((lane.entries, lane.ledger_pending), (0, Some(ENTRIES as u64)));
    })
    .await;
}

fn hold(lab: &Lab, note: &str) -> Options {
    let note = Note::parse(note.as_bytes()).expect("a note");
    let held = vec![(format!("held of {}", lab.lane), note)];
    Options {
        held,
        ..database_only()
    }
}

#[tokio::test]
async fn held_checkpoints_are_proved_consistent_with_the_log() {
    in_a_corner("held", |corner| async move {
        let lab = Lab::with_log(corner, ENTRIES, &[7, 20, 30]).await;
        let early: String = sqlx::query_scalar("select note from audit_checkpoint where lane = $1 and size = 7")
            .bind(&lab.lane)
            .fetch_one(&mut lab.hand().await)
            .await
            .expect("signed");
        let report = lab.verify(&hold(&lab, &early)).await;
        assert!(report.is_good(), "{:#?}", report.problems);
        let lane = report.lanes.iter().find(|lane| lane.lane == lab.lane).expect("verified");
        let [continued] = lane.continued.as_slice() else { panic!("{:?}", lane.continued) };
        assert_eq!((continued.from, continued.to), (7, 30));
        assert!(!continued.proof.is_empty());

        // The whole log is rewritten with a trusted key: a fork.
        lab.tamper("delete from audit_entry; delete from audit_checkpoint; delete from audit_lane; delete from sink_offset")
            .await;
        let mut records = ledger_records(&lab.config, 31);
        records.remove(0);
        let log = AuditLog::connect(&lab.config.audit_settings()).await.expect("connected");
        let claim = log.claim(PARTITION).await.expect("claimed");
        lab.append(&log, &claim, &records, 0..30).await.expect("appended");
        log.checkpoint(jiff::Timestamp::now()).await.expect("signed");
        let found = lab.verify(&hold(&lab, &early)).await.problems;
        let contradicted = |problem: &Problem| problem.kind == Kind::EntryChanged && problem.entry == Some(0);
        assert!(found.iter().any(contradicted), "{found:#?}");

        lab.tamper("delete from audit_entry; delete from audit_checkpoint; delete from audit_lane; delete from sink_offset")
            .await;
        let problem = only(&lab.verify(&hold(&lab, &early)).await, "everything is deleted");
        assert_eq!(problem.kind, Kind::Truncated, "{problem}");
    })
    .await;
}

#[tokio::test]
async fn a_checkpoint_of_another_key_or_another_place_is_reported() {
    in_a_corner("forged", |corner| async move {
        let lab = Lab::with_log(corner, ENTRIES, &[10, 20, 30]).await;
        let newest = lab.newest_checkpoint().await;
        let parsed = Note::parse(newest.as_bytes()).expect("a note");
        let signed = parsed
            .open(&keys::trusted(&lab.config.audit_settings()).expect("keys"))
            .expect("signed");
        let at = signed.signed_s.expect("dated");
        let stranger = LogKey::new(&[66; 32]);
        let forged = stranger.sign(&signed.checkpoint, at).expect("signed").to_string();
        let own = keys::signing(&lab.config.audit_settings()).expect("the key");
        let wrong_root = Checkpoint {
            root: [1; 32],
            ..signed.checkpoint.clone()
        };
        let lying = own.sign(&wrong_root, at).expect("signed").to_string();
        let redated = own.sign(&signed.checkpoint, at - 60).expect("signed").to_string();
        lab.save().await;
        let cases = [
            ("another key", forged.clone(), (Kind::CheckpointForged, Some(30))),
            (
                "changed",
                newest.replace("\n30\n", "\n31\n"),
                (Kind::CheckpointForged, Some(30)),
            ),
            ("another time", redated, (Kind::CheckpointForged, Some(30))),
            (
                "not a note",
                "hello".to_owned(),
                (Kind::CheckpointForged, Some(30)),
            ),
        ];
        for (what, note, expected) in cases {
            set_note(&lab, &note).await;
            let problem = only(&lab.verify(&with_ledger()).await, what);
            assert_eq!((problem.kind, problem.entry), expected, "{what}: {problem}");
            lab.restore().await;
        }
        // The owner of the key decides whether an entry or the signer has to be investigated.
        set_note(&lab, &lying).await;
        let problem = only(
            &lab.verify(&with_ledger()).await,
            "a root that matches no entries",
        );
        assert_eq!(
            (problem.kind, problem.entry),
            (Kind::CheckpointContradicted, Some(30)),
            "{problem}"
        );
        lab.restore().await;

        let held = hold(&lab, &forged);
        let problem = only(&lab.verify(&held).await, "held, of another key");
        assert_eq!(problem.kind, Kind::CheckpointForged, "{problem}");
        lab.tamper("update audit_lane set frontier = decode(repeat('00', 128), 'hex') where lane = 'LANE'")
            .await;
        let problem = only(&lab.verify(&with_ledger()).await, "another head");
        assert_eq!(problem.kind, Kind::HeadChanged, "{problem}");
    })
    .await;
}

async fn set_note(lab: &Lab, note: &str) {
    let mut hand = lab.hand().await;
    sqlx::query("update audit_checkpoint set note = $1 where lane = $2 and size = 30")
        .bind(note)
        .bind(&lab.lane)
        .execute(&mut hand)
        .await
        .expect("by hand");
}

/// A topic cannot be changed in place, so the log is verified against another topic that contains the change.
#[tokio::test]
async fn each_change_of_the_ledger_topic_is_reported() {
    in_a_corner("ledger", |corner| async move {
        let lab = Lab::with_log(corner, ENTRIES, &[10, 20, 30]).await;
        let good = ledger_records(&lab.config, ENTRIES);
        let changed = |record: &[u8]| {
            let text = std::str::from_utf8(record).expect("JSON");
            text.replace("\"bad_signature\":1", "\"bad_signature\":2").into_bytes()
        };
        let mut cases = Vec::new();
        let mut case = |kind, entry: Option<u64>, change: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let mut records = good.clone();
            change(&mut records);
            cases.push((kind, entry, records));
        };
        case(Kind::LedgerChanged, Some(12), &|records| records[12] = changed(&records[12]));
        case(Kind::LedgerMissing, Some(12), &|records| drop(records.remove(12)));
        case(Kind::LedgerMissing, Some(29), &|records| drop(records.pop()));
        case(Kind::LedgerInserted, Some(12), &|records| records.insert(12, changed(&records[12])));
        case(Kind::LedgerReordered, Some(12), &|records| records.swap(12, 13));
        for (number, (kind, entry, records)) in cases.into_iter().enumerate() {
            let topic = another_topic(&lab.config, &format!("ledger{number}")).await;
            produce(&lab.config, &topic, &records);
            let mut config: Config = lab.config.clone();
            config.topics.ledger.clone_from(&topic);
            let stands = format!("insert into sink_offset (topic, partition, next, epoch) values ('{topic}', {PARTITION}, 31, 1)");
            lab.hand().await.execute(sqlx::raw_sql(AssertSqlSafe(stands))).await.expect("by hand");
            let problem = only(&lab.verify_with(&config, &with_ledger()).await, &format!("{kind:?}"));
            assert_eq!((problem.kind, problem.entry), (kind, entry), "{problem}");
            if records.len() >= ENTRIES - 1 && entry != Some(29) {
                assert_eq!(problem.place, Some(format!("{topic}/{PARTITION}/12")), "{problem}");
            }
            remove_topic(&lab.config, &topic).await;
        }
    })
    .await;
}
