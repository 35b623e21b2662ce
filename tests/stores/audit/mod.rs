//! The audit log on a real PostgreSQL and Kafka: appended exactly once, fenced, killed mid-write, and tampered with.

mod lab;
mod tampering;

use std::time::Duration;

use jiff::Timestamp;
use lab::{Lab, PARTITION, database_only, ledger_records};
use pulsegate::io::audit::log::BATCH_RECORDS_MAX;
use pulsegate::io::audit::{AuditError, AuditLog, keys};
use pulsegate::io::postgres::WriteError;
use pulsegate::io::postgres::logins;
use pulsegate::roles::verify::Kind;
use pulsegate_ledger::log::entry::{Alert, Entry, Fault};
use pulsegate_ledger::log::{lane_of, origin};
use pulsegate_ledger::merkle::{MerkleRoot, leaf};
use pulsegate_ledger::note::Note;
use pulsegate_testkit::corner::in_a_corner;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _};

#[tokio::test]
async fn every_record_extends_its_lane_once_and_the_log_continues_where_it_stopped() {
    in_a_corner("append", |corner| async move {
        let lab = Lab::new(corner).await;
        let records = ledger_records(&lab.config, 50);
        for batch in [0..7, 7..7, 7..8, 8..50] {
            let log = AuditLog::connect(&lab.config.audit_settings())
                .await
                .expect("connected");
            let claim = log.claim(PARTITION).await.expect("claimed");
            let expected = (batch.start as u64, batch.start as i64);
            assert_eq!((claim.size, claim.next.unwrap_or(0)), expected);
            lab.append(&log, &claim, &records, batch).await.expect("appended");
            log.checkpoint(Timestamp::now()).await.expect("signed");
            log.close().await;
        }
        assert_eq!(lab.entries().await, records, "every record once, byte for byte");
        let mut tree = MerkleRoot::new();
        records.iter().for_each(|record| tree.push(leaf(&[record])));
        let trusted = keys::trusted(&lab.config.audit_settings()).expect("beside the logins");
        let newest = Note::parse(lab.newest_checkpoint().await.as_bytes());
        let signed = newest.and_then(|note| note.open(&trusted)).expect("signed");
        assert_eq!(
            (signed.checkpoint.size, signed.checkpoint.root),
            (50, tree.root())
        );
        let lane = lane_of(&lab.config.topics.raw, PARTITION);
        assert_eq!(signed.checkpoint.origin, origin("local", &lane));
        let report = lab.verify(&database_only()).await;
        assert!(report.is_good(), "{:?}", report.problems);
    })
    .await;
}

/// A watch has such a backlog after it was stopped for a while.
#[tokio::test]
async fn a_backlog_is_one_batch_up_to_the_limit() {
    in_a_corner("backlog", |corner| async move {
        let lab = Lab::new(corner).await;
        let records = ledger_records(&lab.config, BATCH_RECORDS_MAX + 1);
        let log = AuditLog::connect(&lab.config.audit_settings())
            .await
            .expect("connected");
        let claim = log.claim(PARTITION).await.expect("claimed");
        let refused = lab.append(&log, &claim, &records, 0..BATCH_RECORDS_MAX + 1).await;
        assert!(matches!(refused, Err(WriteError::Refused(_))), "{refused:?}");
        let appended = lab.append(&log, &claim, &records, 0..BATCH_RECORDS_MAX).await;
        assert_eq!(appended.expect("appended").entries, BATCH_RECORDS_MAX);
        assert!(lab.verify(&database_only()).await.is_good());
    })
    .await;
}

#[tokio::test]
async fn checkpoints_are_signed_for_lanes_that_grew_and_periodically_for_the_rest() {
    in_a_corner("idle", |corner| async move {
        let lab = Lab::new(corner).await;
        let log = AuditLog::connect(&lab.config.audit_settings())
            .await
            .expect("connected");
        let claim = log.claim(PARTITION).await.expect("claimed");
        let signed = async |second: i64| {
            let at = Timestamp::from_second(1_800_000_000 + second).expect("a time");
            log.checkpoint(at).await.expect("signed")
        };
        assert_eq!(signed(0).await, 2, "the lane, and the administration lane");
        assert_eq!(
            (signed(5).await, signed(59).await),
            (0, 0),
            "there is nothing new to sign"
        );
        assert_eq!(signed(60).await, 2, "unchanged lanes are signed periodically");
        // A late release of an earlier claim changes nothing.
        log.release(PARTITION, claim.epoch - 1);
        let records = ledger_records(&lab.config, 1);
        lab.append(&log, &claim, &records, 0..1).await.expect("appended");
        assert_eq!(signed(65).await, 1, "one lane has grown");
        log.release(PARTITION, claim.epoch);
        assert_eq!(signed(120).await, 1, "a released lane is not signed");
        let report = lab.verify(&database_only()).await;
        assert!(report.is_good(), "{:?}", report.problems);
        let checkpoints: Vec<_> = report
            .lanes
            .iter()
            .map(|lane| (lane.entries, lane.checkpoints))
            .collect();
        assert_eq!(checkpoints, [(0, 3), (1, 3)]);
    })
    .await;
}

#[tokio::test]
async fn a_second_appender_fences_the_first() {
    in_a_corner("fence", |corner| async move {
        let lab = Lab::new(corner).await;
        let records = ledger_records(&lab.config, 20);
        let first = AuditLog::connect(&lab.config.audit_settings())
            .await
            .expect("connected");
        let second = AuditLog::connect(&lab.config.audit_settings())
            .await
            .expect("connected");
        let before = first.claim(PARTITION).await.expect("claimed");
        lab.append(&first, &before, &records, 0..5)
            .await
            .expect("appended");
        let after = second.claim(PARTITION).await.expect("claimed");
        assert_eq!(
            (after.next, after.size, after.epoch),
            (Some(5), 5, before.epoch + 1)
        );
        let stale = pulsegate::io::audit::Claim {
            next: Some(5),
            ..before
        };
        let refused = lab
            .append(&first, &stale, &records, 5..10)
            .await
            .expect_err("fenced");
        assert!(matches!(refused, WriteError::Fenced { .. }), "{refused}");
        lab.append(&second, &after, &records, 5..20)
            .await
            .expect("appended");
        first
            .checkpoint(Timestamp::now())
            .await
            .expect("an older head is still valid");
        assert_eq!(lab.entries().await, records);
        assert!(lab.verify(&database_only()).await.is_good());
    })
    .await;
}

/// The future of an append is dropped, or its backend killed, at moments spread over the whole append.
#[tokio::test]
async fn a_writer_killed_in_mid_append_leaves_all_of_a_batch_or_nothing() {
    in_a_corner("killed", |corner| async move {
        let lab = Lab::new(corner).await;
        let records = ledger_records(&lab.config, 400);
        let (mut stored, mut broken) = (0, 0);
        for round in 0..40_u64 {
            let log = AuditLog::connect(&lab.config.audit_settings())
                .await
                .expect("connected");
            let claim = log.claim(PARTITION).await.expect("claimed");
            stored = claim.size as usize;
            assert_eq!(
                claim.next.unwrap_or(0),
                stored as i64,
                "head and offset are updated together"
            );
            let part = stored..(stored + 10).min(records.len());
            let append = lab.append(&log, &claim, &records, part);
            if round % 4 == 3 {
                let mut hand = lab.hand().await;
                let kill = hand.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity
                     where datname = current_database() and pid <> pg_backend_pid()",
                );
                let (appended, _) = tokio::join!(append, kill);
                broken += usize::from(appended.is_err());
            } else {
                let moment = Duration::from_micros(150 * round);
                broken += usize::from(tokio::time::timeout(moment, append).await.is_err());
            }
            log.close().await;
        }
        assert!(broken > 5, "the kills came too late: {broken}");
        let log = AuditLog::connect(&lab.config.audit_settings())
            .await
            .expect("connected");
        let claim = log.claim(PARTITION).await.expect("claimed");
        assert!(claim.size as usize >= stored);
        let part = claim.size as usize..records.len();
        lab.append(&log, &claim, &records, part).await.expect("appended");
        assert_eq!(lab.entries().await, records, "every record once");
        assert!(lab.verify(&database_only()).await.is_good());
    })
    .await;
}

/// The commit succeeded but its response was lost: a repeated batch is recognised.
#[tokio::test]
async fn a_batch_that_was_stored_is_not_stored_again() {
    in_a_corner("again", |corner| async move {
        let lab = Lab::new(corner).await;
        let records = ledger_records(&lab.config, 6);
        let log = AuditLog::connect(&lab.config.audit_settings())
            .await
            .expect("connected");
        log.claim(PARTITION).await.expect("claimed");
        let claim = log
            .claim(PARTITION)
            .await
            .expect("claimed once more, for an epoch to go back to");
        let twin = AuditLog::connect(&lab.config.audit_settings())
            .await
            .expect("connected");
        lab.append(&log, &claim, &records, 0..3).await.expect("appended");
        // The writer's state if it missed the commit: the lane as it was claimed.
        lab.tamper("update sink_offset set epoch = epoch - 1; update audit_lane set size = 0, frontier = ''")
            .await;
        lab.tamper("create table kept as table audit_entry; delete from audit_entry")
            .await;
        lab.tamper("update sink_offset set next = null").await;
        let again = twin.claim(PARTITION).await.expect("claimed");
        assert_eq!((again.epoch, again.size), (claim.epoch, 0));
        lab.tamper("insert into audit_entry table kept; update sink_offset set next = 3")
            .await;
        let head = hex::encode(tree_of(&records[..3]).frontier().concat());
        lab.tamper(&format!(
            "update audit_lane set size = 3, frontier = '\\x{head}' where lane = 'LANE'"
        ))
        .await;
        lab.append(&twin, &again, &records, 0..3)
            .await
            .expect("recognised");
        let on = pulsegate::io::audit::Claim {
            next: Some(3),
            ..again
        };
        lab.append(&twin, &on, &records, 3..6).await.expect("appended");
        assert_eq!(lab.entries().await, records);
        assert!(lab.verify(&database_only()).await.is_good());
    })
    .await;
}

fn tree_of(records: &[Vec<u8>]) -> MerkleRoot {
    let mut tree = MerkleRoot::new();
    records.iter().for_each(|record| tree.push(leaf(&[record])));
    tree
}

#[tokio::test]
async fn a_broken_ledger_is_stored_and_found_by_verification() {
    in_a_corner("alerts", |corner| async move {
        let lab = Lab::new(corner).await;
        let mut records = ledger_records(&lab.config, 12);
        records.remove(5);
        records[8] = b"Jane Roe, not a ledger record".to_vec();
        let log = AuditLog::connect(&lab.config.audit_settings())
            .await
            .expect("connected");
        let claim = log.claim(PARTITION).await.expect("claimed");
        let appended = lab.append(&log, &claim, &records, 0..11).await.expect("appended");
        assert_eq!((appended.entries, appended.alerts), (10 + 3 + 1 + 3, 3 + 1 + 3));
        let entries = lab.entries().await;
        let alert = |seq: usize| match Entry::read(&entries[seq]) {
            Some(Entry::Alert(Alert {
                alert, ledger_offset, ..
            })) => (alert, ledger_offset),
            other => panic!("entry {seq} is {other:?}"),
        };
        assert_eq!(
            [alert(5), alert(6), alert(7)],
            [(Fault::Sequence, 5), (Fault::Previous, 5), (Fault::Range, 5),]
        );
        assert_eq!(alert(11), (Fault::Unreadable, 8));
        assert!(
            entries
                .iter()
                .all(|entry| !entry.windows(4).any(|word| word == b"Jane"))
        );
        log.checkpoint(Timestamp::now()).await.expect("signed");
        let report = lab.verify(&database_only()).await;
        let found: Vec<_> = report
            .problems
            .iter()
            .map(|problem| (problem.kind, problem.entry, problem.offset))
            .collect();
        assert_eq!(
            found,
            [(Kind::LedgerBroken, Some(5), Some(50))],
            "{:?}",
            report.problems
        );

        let again = AuditLog::connect(&lab.config.audit_settings())
            .await
            .expect("connected");
        assert_eq!(
            again.claim(PARTITION).await.expect("claimed").size,
            entries.len() as u64
        );
    })
    .await;
}

#[tokio::test]
async fn a_changed_log_is_not_signed() {
    in_a_corner("refuse", |corner| async move {
        let lab = Lab::with_log(corner, 12, &[5]).await;
        lab.save().await;
        let changes = [
            "update audit_entry set entry = entry || ' ' where lane = 'LANE' and seq = 8",
            "delete from audit_entry where lane = 'LANE' and seq = 11",
            "update audit_lane set size = 11, frontier = decode(repeat('00', 96), 'hex') where lane = 'LANE';
             delete from audit_entry where seq = 11",
            "update audit_lane set size = 0, frontier = '' where lane = 'LANE'; delete from audit_entry",
            "update audit_checkpoint set note = replace(note, E'\\n5\\n', E'\\n4\\n')",
            "update sink_offset set next = null",
        ];
        for change in changes {
            lab.tamper(change).await;
            let log = AuditLog::connect(&lab.config.audit_settings())
                .await
                .expect("connected");
            let refused = log.claim(PARTITION).await.expect_err(change);
            assert!(
                matches!(refused, AuditError::Tampered { .. }),
                "{change}: {refused}"
            );
            lab.restore().await;
        }
        let log = AuditLog::connect(&lab.config.audit_settings())
            .await
            .expect("connected");
        log.claim(PARTITION).await.expect("as it was");
    })
    .await;
}

#[tokio::test]
async fn roles_can_append_but_not_change() {
    in_a_corner("audit_roles", |corner| async move {
        let lab = Lab::with_log(corner, 3, &[2]).await;
        let forbidden = [
            "update audit_entry set entry = 'x'",
            "delete from audit_entry",
            "truncate audit_entry cascade",
            "update audit_checkpoint set note = 'x'",
            "delete from audit_checkpoint",
            "delete from audit_lane",
            "update audit_lane set lane = 'x'",
            "alter table audit_lane disable trigger all",
        ];
        for role in ["watch_audit", "gate_audit", "operator_audit", "verify_audit"] {
            let url = logins::read(&lab.config.databases, role).expect("written");
            let options: PgConnectOptions = url.expose().parse().expect("a URL");
            let mut connection = options.connect().await.expect("connected");
            for statement in forbidden {
                let refused = connection
                    .execute(statement)
                    .await
                    .expect_err(statement)
                    .to_string();
                assert!(
                    refused.contains("permission denied") || refused.contains("must be owner"),
                    "{role}: {refused}"
                );
            }
            if role != "verify_audit" {
                let back = "update audit_lane set size = 0, frontier = '' where size > 0";
                let refused = connection.execute(back).await.expect_err("goes back").to_string();
                assert!(refused.contains("only goes forward"), "{role}: {refused}");
            }
        }
    })
    .await;
}
