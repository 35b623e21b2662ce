//! The vault against a real PostgreSQL: device keys that reach a running gate, subject keys that two gates agree on, and
//! a database whose dump tells nothing.

mod support;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pulsegate::config::Config;
use pulsegate::crypto::envelope::Nonce;
use pulsegate::io::topology;
use pulsegate::io::vault::import::{ImportError, Imported};
use pulsegate::io::vault::opening::Opener;
use pulsegate::io::vault::registrar::{Filter, Registrar};
use pulsegate::io::vault::{Vault, VaultFault};
use pulsegate::telemetry::metrics::Metrics;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use support::{Corner, admin, in_a_corner};

/// The line of an HS256 key whose secret is made of its name.
fn line(tenant: &str, device: &str, kid: &str) -> String {
    let secret = STANDARD.encode(format!("{kid:-<40}"));
    format!(
        r#"{{"device":"{device}","kid":"{kid}","tenant":"{tenant}","class":"wearable","profile":"jws","alg":"HS256","secret":"{secret}"}}"#
    )
}

async fn import(registrar: &Registrar, text: &str) -> Result<Imported, ImportError> {
    registrar.import(&mut Cursor::new(text.as_bytes())).await
}

async fn gate(config: &Config) -> Result<Arc<Vault>, VaultFault> {
    Vault::connect(config, Arc::new(Metrics::new())).await
}

/// Waits until `reached` holds, and says how long that took.
async fn within(limit: Duration, what: &str, reached: impl Fn() -> bool) -> Duration {
    let since = Instant::now();
    while !reached() {
        assert!(since.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    since.elapsed()
}

/// An applied topology and a registrar, without any device.
async fn registry(config: &Config) -> Registrar {
    topology::apply(config).await.expect("applied");
    Registrar::connect(config)
        .await
        .expect("the registrar's login works")
}

#[tokio::test]
async fn a_change_reaches_a_running_gate_within_two_seconds() {
    in_a_corner("follow", |Corner { config, .. }| async move {
        let registrar = registry(&config).await;
        let gate = gate(&config).await.expect("a vault without devices will do");
        assert_eq!((gate.keys().keyring().keys(), gate.keys().revision()), (0, 0));

        // A new device of a new tenant, a second key of it, and a revocation.
        let limit = Duration::from_secs(2);
        import(&registrar, &line("acme", "d1", "d1-a"))
            .await
            .expect("imported");
        let took = within(limit, "a new device", || gate.keys().keyring().keys() == 1).await;
        println!("a new device reached the gate after {took:?}");
        import(&registrar, &line("acme", "d1", "d1-b"))
            .await
            .expect("imported");
        within(limit, "a second key", || gate.keys().keyring().keys() == 2).await;
        let before = gate.keys().revision();
        assert_eq!(
            registrar.revoke(&["d1-a".to_owned()]).await.expect("revoked"),
            [""; 0]
        );
        within(limit, "a revocation", || gate.keys().revision() > before).await;
        assert_eq!(
            (gate.keys().keyring().devices(), gate.keys().keyring().keys()),
            (1, 2)
        );
        // There is room for another one only because the revocation is known.
        import(&registrar, &line("acme", "d1", "d1-c"))
            .await
            .expect("imported");
        within(limit, "a third key", || gate.keys().keyring().keys() == 3).await;

        let later = self::gate(&config).await.expect("started");
        assert_eq!(
            (later.keys().keyring().keys(), later.keys().revision()),
            (3, gate.keys().revision()),
            "read is as followed"
        );
        for vault in [gate, later] {
            vault.close().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_change_that_commits_late_is_not_missed() {
    in_a_corner("order", |Corner { config, .. }| async move {
        let registrar = registry(&config).await;
        import(
            &registrar,
            &[line("acme", "d1", "d1-a"), line("acme", "d2", "d2-a")].join("\n"),
        )
        .await
        .expect("imported");
        let gate = gate(&config).await.expect("started");
        let start = gate.keys().revision();

        // The first writer takes its revision and does not commit; the second one has to wait for it.
        let revoke = |kid: &str| {
            format!("update device_key set state = 'revoked', revoked_at = now() where kid = '{kid}'")
        };
        let (mut first, mut second) = (admin(&config, "vault").await, admin(&config, "vault").await);
        let mut open = first.begin().await.expect("begun");
        open.execute(sqlx::raw_sql(AssertSqlSafe(revoke("d1-a"))))
            .await
            .expect("updated");
        let late = revoke("d2-a");
        let waiting = tokio::task::spawn_local(async move {
            second.execute(sqlx::raw_sql(AssertSqlSafe(late))).await.map(drop)
        });
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert!(
            !waiting.is_finished(),
            "a later revision can't become visible before an earlier one"
        );
        assert_eq!(gate.keys().revision(), start);
        open.commit().await.expect("committed");
        waiting.await.expect("ran").expect("updated");
        within(Duration::from_secs(2), "both changes", || {
            gate.keys().revision() == start + 2
        })
        .await;

        // Both have arrived: each device has room for two more keys.
        let fresh = ["d1-b", "d1-c", "d2-b", "d2-c"].map(|kid| line("acme", &kid[..2], kid));
        import(&registrar, &fresh.join("\n")).await.expect("imported");
        within(Duration::from_secs(2), "new keys", || {
            gate.keys().keyring().keys() == 6
        })
        .await;
        gate.close().await;
    })
    .await;
}

/// `PULSEGATE_TEST_DEVICES` sets the size; the contract's million takes a minute.
#[tokio::test]
async fn many_devices_are_imported_and_read_in_seconds() {
    in_a_corner("many", |Corner { config, .. }| async move {
        let count = std::env::var("PULSEGATE_TEST_DEVICES")
            .ok()
            .and_then(|count| count.parse().ok())
            .unwrap_or(100_000);
        let registrar = registry(&config).await;
        let mut text = String::new();
        for number in 0..count {
            let device = format!("7d5c8b1e-0f2a-4c3d-9e8f-{number:012x}");
            writeln!(text, "{}", line("acme", &device, &format!("{device}-a"))).expect("in memory");
        }
        let since = Instant::now();
        let first = import(&registrar, &text).await.expect("imported");
        println!("imported {count} lines in {:?}", since.elapsed());
        let all = count as u64;
        assert_eq!(
            first,
            Imported {
                lines: all,
                keys: all,
                unchanged: 0,
                devices: all,
                tenants: 1
            }
        );

        let since = Instant::now();
        let again = import(&registrar, &text).await.expect("the same again is fine");
        println!("compared them in {:?}", since.elapsed());
        assert_eq!(
            again,
            Imported {
                lines: all,
                keys: 0,
                unchanged: all,
                devices: 0,
                tenants: 0
            }
        );

        let since = Instant::now();
        let gate = gate(&config).await.expect("started");
        println!("read {count} devices in {:?}", since.elapsed());
        assert_eq!(gate.keys().keyring().devices() as usize, count);
        gate.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_bad_line_is_named_and_nothing_is_imported() {
    in_a_corner("lines", |Corner { config, ..}| async move {
        let registrar = registry(&config).await;
        let known = [line("acme", "d1", "d1-a"), line("acme", "d1", "d1-b")].join("\n");
        import(&registrar, &known).await.expect("imported");
        let good = line("newcomer", "d9", "d9-a");
        let other_secret = line("acme", "d1", "d1-a").replace("ZDEtYS0t", "ZDEtYS0u");
        let hmac = line("acme", "d1", "d1-a");
        let (head, _) = hmac.split_once(r#""alg""#).expect("it has one");
        let ed25519 =
            format!(r#"{head}"alg":"Ed25519","public_key":"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="}}"#);
        let cases = [
            (format!("{good}\n{{\"device\":\"d2\"}}"), "line 2, field \"kid\": is missing"),
            (format!("{good}\n\n{good}"), "line 2: is not JSON"),
            (format!("{good}\n{good}"), "line 2, field \"kid\": stands in an earlier line"),
            (format!("{good}\n{}", line("acme", "d9", "d9-b")), "line 2, field \"tenant\""),
            (format!("{good}\n{}", line("other", "d1", "d1-c")), "line 2, field \"tenant\""),
            (
                format!("{good}\n{}", line("newcomer", "d9", "d9-b").replace("wearable", "bedside")),
                "line 2, field \"class\"",
            ),
            (format!("{good}\n{}", line("acme", "d2", "d1-a")), "line 2, field \"kid\": is in the vault already"),
            (format!("{good}\n{other_secret}"), "line 2, field \"kid\": is in the vault already, with another secret"),
            (format!("{good}\n{ed25519}"), "line 2, field \"kid\": is in the vault already"),
            (format!("{good}\n{}", line("acme", "d1", "d1-c")), "line 2, field \"device\": would have more than two"),
            (
                ["a", "b", "c"].map(|kid| line("acme", "d8", &format!("d8-{kid}"))).join("\n"),
                "line 3, field \"device\": would have more than two",
            ),
            (format!("{good}\n{}", "x".repeat(5_000)), "line 2: is longer than 4096 bytes"),
        ];
        for (text, expected) in cases {
            let error = import(&registrar, &text).await.expect_err(expected).to_string();
            assert!(error.contains(expected) && error.ends_with("nothing was imported"), "{expected}: {error}");
        }
        let keys = registrar.list(&Filter { keys_max: 100, ..Filter::default() }).await.expect("listed");
        assert_eq!(keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["d1-a", "d1-b"]);
        let mut vault = admin(&config, "vault").await;
        let tenants: i64 =
            sqlx::query_scalar("select count(*) from tenant").fetch_one(&mut vault).await.expect("counted");
        assert_eq!(tenants, 1, "the tenants of refused lines are not there either");
        assert_eq!(import(&registrar, &known).await.expect("identical is fine").unchanged, 2);
        let third = "insert into device_key (kid, device_id, profile, alg, state, secret_wrapped)
                     select 'by-hand', device_id, profile, alg, state, secret_wrapped from device_key limit 1";
        let refused = vault.execute(sqlx::raw_sql(third)).await.expect_err("by hand neither").to_string();
        assert!(refused.contains("more than two keys"), "{refused}");
    })
    .await;
}

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
    in_a_corner("race", |Corner { config, .. }| async move {
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
        assert_eq!(key_ids.len(), ids.len(), "a key of its own for each subject");

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
    in_a_corner("rotate", |Corner { mut config, .. }| async move {
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
        assert_eq!(reported, 16_777_217, "the one use was reported");

        let opener = Opener::connect(&config).await.expect("the reader's login works");
        let id = first.field_key().key_id();
        let keys = opener.keys_by_id(&[id, 0]).await.expect("read");
        assert_eq!(
            *keys[&id]
                .expand()
                .open(b"aad", &sealed)
                .expect("an old key opens"),
            b"x"
        );
        assert_eq!(keys.len(), 1, "an id that was never given has no key");
    })
    .await;
}

#[tokio::test]
async fn quarantine_keys_are_shared_counted_and_renewed() {
    in_a_corner("quarantine", |Corner { mut config, .. }| async move {
        config.vault.report_interval_s = 1;
        let gate = gate_of_two_tenants(&config).await;
        let twin = self::gate(&config).await.expect("started");
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
        let opener = Opener::connect(&config).await.expect("the reader's login works");
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

/// Lets nobody in and throws everybody out, or opens the doors again.
async fn doors(config: &Config, open: bool) {
    let prefix = &config.databases.prefix;
    let mut root = admin(config, "audit").await;
    let alter = format!("alter database {prefix}vault with allow_connections {open}");
    root.execute(sqlx::raw_sql(AssertSqlSafe(alter)))
        .await
        .expect("altered");
    sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and not $2")
        .bind(format!("{prefix}vault"))
        .bind(open)
        .execute(&mut root)
        .await
        .expect("thrown out");
}

#[tokio::test]
async fn while_the_vault_is_down_known_subjects_go_on_and_others_wait() {
    in_a_corner("down", |Corner { mut config, .. }| async move {
        config.vault.subject_fresh_s = 1;
        config.vault.subject_stale_s = 6;
        let gate = gate_of_two_tenants(&config).await;
        let known: [(u16, &[u8]); 1] = [(0, b"patient-1")];
        gate.subjects().fetch_or_create(&known).await.expect("fetched");
        let read = Instant::now();
        doors(&config, false).await;

        let since = Instant::now();
        let fault = gate
            .subjects()
            .fetch_or_create(&[(0, b"patient-2")])
            .await
            .expect_err("the vault is down");
        assert!(
            since.elapsed() < Duration::from_millis(4_500),
            "in the time that is configured: {:?}",
            since.elapsed()
        );
        println!("{fault} (after {:?})", since.elapsed());
        tokio::time::sleep(Duration::from_millis(2_500).saturating_sub(read.elapsed())).await;
        assert!(
            gate.subjects().get(0, b"patient-1").is_some(),
            "stale, but the vault is down"
        );
        assert!(gate.subjects().get(0, b"patient-2").is_none());
        assert_eq!(gate.keys().keyring().keys(), 2, "device keys stay");
        tokio::time::sleep(Duration::from_millis(7_500).saturating_sub(read.elapsed())).await;
        assert!(
            gate.subjects().get(0, b"patient-1").is_none(),
            "too stale: a shredded subject must end"
        );

        doors(&config, true).await;
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
async fn a_vault_of_another_kek_is_refused_by_name() {
    in_a_corner("kek", |Corner { mut config }| async move {
        gate_of_two_tenants(&config).await.close().await;
        let other = config.databases.logins_directory.with_file_name("other-kek");
        std::fs::write(&other, [0xA6; 32]).expect("writable");
        config.kek.file = Some(other);
        let refused = [
            gate(&config).await.err().map(|fault| fault.to_string()),
            Opener::connect(&config)
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
async fn a_dump_tells_no_subject_and_no_secret() {
    in_a_corner("dump", |Corner { config, ..}| async move {
        let gate = gate_of_two_tenants(&config).await;
        let registrar = Registrar::connect(&config).await.expect("the registrar's login works");
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
        assert!(dump.contains("d3-a") && dump.len() > 1_000, "the dump is a dump");
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
