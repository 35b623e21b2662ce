//! Subject keys on a real PostgreSQL: two gates agree on them, they rotate and are counted, they outlast an unavailable
//! vault, and a dump of the database reveals nothing.

mod events;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pulsegate::config::Config;
use pulsegate::io::postgres::DatabaseError;
use pulsegate::io::vault::opening::Opener;
use pulsegate::io::vault::registrar::Registrar;
use pulsegate::io::vault::{Vault, VaultFault};
use pulsegate_core::crypto::envelope::Nonce;
use pulsegate_testkit::corner::{Corner, admin, in_a_corner};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

use crate::registrar::{gate, import, line, registry, within};

/// A gate with tenants `acme` (0) and `other` (1).
async fn gate_of_two_tenants(config: &Config) -> Arc<Vault> {
    let registrar = registry(config).await;
    import(&registrar, &line("acme", "d1", "d1-a"))
        .await
        .expect("imported");
    import(&registrar, &line("other", "d2", "d2-a"))
        .await
        .expect("imported");
    let gate = gate(config).await.expect("started");
    let tenants: HashSet<String> = gate.keys().keyring().tenants().map(str::to_owned).collect();
    assert_eq!(tenants, HashSet::from(["acme".to_owned(), "other".to_owned()]));
    gate
}

#[tokio::test]
async fn two_gates_that_race_for_the_same_subjects_end_with_the_same_keys() {
    in_a_corner("race", |Corner { config }| async move {
        let first = gate_of_two_tenants(&config).await;
        let second = gate(&config).await.expect("started");
        let ids: Vec<String> = (0..2_000).map(|number| format!("patient-{number}")).collect();
        let forward: Vec<(u16, &[u8])> = ids.iter().map(|id| (0, id.as_bytes())).collect();
        let backward: Vec<(u16, &[u8])> = forward.iter().rev().copied().collect();
        let (one, other) = tokio::join!(
            first.subjects().fetch_or_create(&forward),
            second.subjects().fetch_or_create(&backward)
        );
        let (one, other) = (one.expect("made"), other.expect("made"));
        let mut key_ids = HashSet::new();
        for (mine, theirs) in one.iter().zip(other.iter().rev()) {
            assert_eq!((mine.token(), mine.salt()), (theirs.token(), theirs.salt()));
            let mut sealed = Vec::new();
            mine.field_key()
                .expand()
                .seal_into(Nonce::from_random([1; 12]), b"aad", b"x", &mut sealed)
                .expect("fresh");
            assert_eq!(
                *theirs
                    .field_key()
                    .expand()
                    .open(b"aad", &sealed)
                    .expect("the same key"),
                b"x"
            );
            key_ids.insert(mine.field_key().key_id());
        }
        assert_eq!(key_ids.len(), ids.len(), "one key per subject");

        let known = first.subjects().get(0, b"patient-7").expect("in memory");
        assert_eq!(known.field_key().key_id(), one[7].field_key().key_id());
        assert!(first.subjects().get(0, b"patient-unheard-of").is_none());
        let stranger = first
            .subjects()
            .fetch_or_create(&[(1, b"patient-7"), (1, b"patient-7")])
            .await
            .expect("made");
        assert_eq!(stranger.len(), 2);
        assert_ne!(
            stranger[0].token(),
            known.token(),
            "the same id of another tenant is another subject"
        );
        for vault in [first, second] {
            vault.close().await;
        }
    })
    .await;
}

async fn scalar(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query)
        .fetch_one(connection)
        .await
        .expect(query)
}

#[tokio::test]
async fn keys_rotate_by_use_and_by_age_and_old_ones_still_open() {
    in_a_corner("rotate", |Corner { mut config }| async move {
        config.vault.subject_fresh_s = 1;
        let gate = gate_of_two_tenants(&config).await;
        let mut vault = admin(&config, "vault").await;
        let asked: [(u16, &[u8]); 1] = [(0, b"patient-1")];
        let key = async || {
            gate.subjects()
                .fetch_or_create(&asked)
                .await
                .expect("fetched")
                .remove(0)
        };

        let first = key().await;
        let mut sealed = Vec::new();
        first
            .field_key()
            .expand()
            .seal_into(Nonce::from_random([1; 12]), b"aad", b"x", &mut sealed)
            .expect("fresh");
        assert_eq!(
            key().await.field_key().key_id(),
            first.field_key().key_id(),
            "nothing is due"
        );
        for due in [
            "encryptions = 16777216",
            "created_at = now() - interval '30 days'",
        ] {
            let before = key().await.field_key().key_id();
            let update = format!("update subject_key set {due} where key_id = {before}");
            vault
                .execute(sqlx::raw_sql(AssertSqlSafe(update)))
                .await
                .expect("by hand");
            let after = key().await;
            assert_ne!(after.field_key().key_id(), before, "{due}");
            assert_eq!(after.token(), first.token(), "the token stays");
        }
        assert_eq!(scalar(&mut vault, "select count(*) from subject_key").await, 3);
        gate.close().await;
        assert_eq!(
            scalar(&mut vault, "select min(encryptions) from subject_key").await,
            0
        );
        let reported = sqlx::query_scalar::<_, i64>("select encryptions from subject_key where key_id = $1")
            .bind(i64::from(first.field_key().key_id()))
            .fetch_one(&mut vault)
            .await
            .expect("there");
        assert_eq!(reported, 16_777_217, "the single use was reported");

        let opener = Opener::connect(&config.vault_settings())
            .await
            .expect("the reader's login works");
        let id = first.field_key().key_id();
        let keys = opener.keys_by_id(&[id, 0]).await.expect("read");
        assert_eq!(
            *keys[&id]
                .expand()
                .open(b"aad", &sealed)
                .expect("an old key opens"),
            b"x"
        );
        assert_eq!(keys.len(), 1, "an unassigned id has no key");
    })
    .await;
}

#[tokio::test]
async fn quarantine_keys_are_shared_counted_and_renewed() {
    in_a_corner("quarantine", |Corner { mut config }| async move {
        config.vault.report_interval_s = 1;
        let gate = gate_of_two_tenants(&config).await;
        let twin = crate::registrar::gate(&config).await.expect("started");
        let (house, acme) = (gate.keys().quarantine(None), gate.keys().quarantine(Some(0)));
        assert_ne!(house.key_id(), acme.key_id());
        assert_eq!(twin.keys().quarantine(None).key_id(), house.key_id());
        let mut sealed = Vec::new();
        house
            .expand()
            .seal_into(Nonce::from_random([1; 12]), b"aad", b"x", &mut sealed)
            .expect("fresh");

        let mut vault = admin(&config, "vault").await;
        vault
            .execute(sqlx::raw_sql("update quarantine_key set encryptions = 16777216"))
            .await
            .expect("by hand");
        within(Duration::from_secs(5), "new quarantine keys", || {
            let renewed = |vault: &Vault| vault.keys().quarantine(None).key_id() != house.key_id();
            renewed(&gate) && renewed(&twin)
        })
        .await;
        assert_eq!(
            twin.keys().quarantine(None).key_id(),
            gate.keys().quarantine(None).key_id()
        );
        let opener = Opener::connect(&config.vault_settings())
            .await
            .expect("the reader's login works");
        let keys = opener.quarantine_keys(&[house.key_id()]).await.expect("read");
        assert_eq!(
            *keys[&house.key_id()]
                .expand()
                .open(b"aad", &sealed)
                .expect("an old key opens"),
            b"x"
        );
        for vault in [gate, twin] {
            vault.close().await;
        }
    })
    .await;
}

/// Closes a database and ends all connections to it, or opens it again.
async fn doors(config: &Config, database: &str, open: bool) {
    let prefix = &config.databases.prefix;
    let mut root = admin(config, "operations").await;
    let alter = format!("alter database {prefix}{database} with allow_connections {open}");
    root.execute(sqlx::raw_sql(AssertSqlSafe(alter)))
        .await
        .expect("altered");
    sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and not $2")
        .bind(format!("{prefix}{database}"))
        .bind(open)
        .execute(&mut root)
        .await
        .expect("thrown out");
}

#[tokio::test]
async fn while_the_vault_is_down_known_subjects_continue_and_others_wait() {
    in_a_corner("down", |Corner { mut config }| async move {
        config.vault.subject_fresh_s = 1;
        config.vault.subject_stale_s = 12;
        let gate = gate_of_two_tenants(&config).await;
        let known: [(u16, &[u8]); 1] = [(0, b"patient-1")];
        gate.subjects().fetch_or_create(&known).await.expect("fetched");
        let read = Instant::now();

        // A server that accepts the connection and does not answer.
        let mut silent = admin(&config, "vault").await;
        silent
            .execute(sqlx::raw_sql("begin; lock table subject"))
            .await
            .expect("locked");
        let since = Instant::now();
        let fault = gate
            .subjects()
            .fetch_or_create(&[(0, b"patient-2")])
            .await
            .expect_err("no answer");
        assert!(
            since.elapsed() < Duration::from_millis(4_500),
            "{:?}",
            since.elapsed()
        );
        assert!(
            matches!(fault, VaultFault::Database(DatabaseError::Unreachable { .. })),
            "{fault}"
        );
        silent.execute(sqlx::raw_sql("rollback")).await.expect("unlocked");

        // A server that refuses connections.
        doors(&config, "vault", false).await;

        let since = Instant::now();
        let fault = gate
            .subjects()
            .fetch_or_create(&[(0, b"patient-2")])
            .await
            .expect_err("the vault is down");
        assert!(
            since.elapsed() < Duration::from_millis(4_500),
            "within the configured time: {:?}",
            since.elapsed()
        );
        println!("{fault} (after {:?})", since.elapsed());
        let later = |seconds| read + Duration::from_secs(seconds);
        assert!(
            gate.subjects().get_at(later(3), 0, b"patient-1").is_some(),
            "stale, but the vault is down"
        );
        assert!(gate.subjects().get(0, b"patient-2").is_none());
        assert_eq!(gate.keys().keyring().keys(), 2, "device keys remain");
        assert!(
            gate.subjects().get_at(later(13), 0, b"patient-1").is_none(),
            "too stale: a shredded subject's key must expire"
        );

        doors(&config, "vault", true).await;
        let limit = Instant::now() + Duration::from_secs(10);
        while let Err(fault) = gate
            .subjects()
            .fetch_or_create(&[(0, b"patient-1"), (0, b"patient-2")])
            .await
        {
            assert!(Instant::now() < limit, "{fault}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(gate.subjects().get(0, b"patient-2").is_some());
        gate.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_vault_with_another_kek_is_refused_with_the_reason() {
    in_a_corner("kek", |Corner { mut config }| async move {
        gate_of_two_tenants(&config).await.close().await;
        let other = config.databases.logins_directory.with_file_name("other-kek");
        std::fs::write(&other, [0xA6; 32]).expect("writable");
        config.kek.file = Some(other);
        let refused = [
            gate(&config).await.err().map(|fault| fault.to_string()),
            Opener::connect(&config.vault_settings())
                .await
                .err()
                .map(|fault| fault.to_string()),
        ];
        for refused in refused {
            let refused = refused.expect("another KEK");
            assert!(refused.contains("the vault was made with KEK"), "{refused}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_dump_reveals_no_subject_and_no_secret() {
    in_a_corner("dump", |Corner { config }| async move {
        let gate = gate_of_two_tenants(&config).await;
        let registrar = Registrar::connect(&config.vault_settings()).await.expect("the registrar's login works");
        let secret = "PLANTED-secret-of-forty-characters-or-so";
        let webhook = format!(
            r#"{{"device":"d3","kid":"d3-a","tenant":"acme","class":"wearable","profile":"webhook","secret":"whsec_{}"}}"#,
            STANDARD.encode(secret)
        );
        import(&registrar, &webhook).await.expect("imported");
        gate.subjects().fetch_or_create(&[(0, b"PLANTED-patient-1"), (1, b"PLANTED-patient-2")]).await.expect("made");
        gate.close().await;

        let mut dump = Vec::new();
        for database in ["vault", "audit", "analytics", "operations"] {
            let mut connection = admin(&config, database).await;
            let tables = sqlx::query("select format('select t::text from %I.%I t', schemaname, tablename) from pg_tables where schemaname = 'public'");
            for row in tables.fetch_all(&mut connection).await.expect("listed") {
                let query: String = row.get(0);
                let rows: Vec<String> =
                    sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&mut connection).await.expect("dumped");
                dump.extend(rows);
            }
        }
        let dump = dump.join("\n");
        assert!(dump.contains("d3-a") && dump.len() > 1_000, "the dump has content");
        for planted in [secret, "PLANTED-patient-1", "PLANTED-patient-2", "PLANTED"] {
            let hex: String = planted.bytes().map(|byte| format!("{byte:02x}")).collect();
            let base64 = STANDARD.encode(planted);
            for form in [planted, hex.as_str(), base64.trim_end_matches('=')] {
                assert!(!dump.contains(form), "{planted} as {form}");
            }
        }
    })
    .await;
}
