//! Device keys on a real PostgreSQL: imported completely or not at all, listed, revoked, and followed by running gates.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pulsegate::config::Config;
use pulsegate::io::vault::Vault;
use pulsegate::io::vault::import::Imported;
use pulsegate::io::vault::registrar::Filter;
use pulsegate_core::gate::keyring::CLASSES_MAX;
use pulsegate_testkit::corner::{Corner, admin, in_a_corner};
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::registrar::{gate, import, line, registry, within};

#[tokio::test]
async fn a_change_reaches_a_running_gate_within_two_seconds() {
    in_a_corner("follow", |Corner { config }| async move {
        let registrar = registry(&config).await;
        let gate = gate(&config).await.expect("a gate starts without devices");
        assert_eq!((gate.keys().keyring().keys(), gate.keys().revision()), (0, 0));

        // A new device of a new tenant, a second key for it, and a revocation.
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
        // There is room for a third key only because the gate has seen the revocation.
        import(&registrar, &line("acme", "d1", "d1-c"))
            .await
            .expect("imported");
        within(limit, "a third key", || gate.keys().keyring().keys() == 3).await;

        let later = crate::registrar::gate(&config).await.expect("started");
        assert_eq!(
            (later.keys().keyring().keys(), later.keys().revision()),
            (3, gate.keys().revision()),
            "a fresh read equals the followed changes"
        );
        for vault in [gate, later] {
            vault.close().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_change_that_commits_late_is_not_missed() {
    in_a_corner("order", |Corner { config }| async move {
        let registrar = registry(&config).await;
        import(
            &registrar,
            &[line("acme", "d1", "d1-a"), line("acme", "d2", "d2-a")].join("\n"),
        )
        .await
        .expect("imported");
        let gate = gate(&config).await.expect("started");
        let start = gate.keys().revision();

        // The first writer takes its revision and does not commit; the second writer has to wait for it.
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
        // A later revision can't become visible before an earlier one.
        held_up(&config).await;
        assert!(!waiting.is_finished());
        assert_eq!(gate.keys().revision(), start);
        open.commit().await.expect("committed");
        waiting.await.expect("ran").expect("updated");
        within(Duration::from_secs(2), "both changes", || {
            gate.keys().revision() == start + 2
        })
        .await;

        // Both changes have arrived: each device has room for two more keys.
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

#[tokio::test]
async fn a_class_above_the_gates_limit_is_not_imported_and_delays_no_revocation() {
    in_a_corner("classes", |Corner { config }| async move {
        let registrar = registry(&config).await;
        let of_class = |number: usize| {
            line("acme", &format!("d{number}"), &format!("d{number}-a"))
                .replace("wearable", &format!("c{number}"))
        };
        let all: Vec<_> = (0..CLASSES_MAX).map(of_class).collect();
        import(&registrar, &all.join("\n"))
            .await
            .expect("as many classes as are allowed");
        let one_more = format!("{}\n{}", all[0].replace("d0-a", "d0-b"), of_class(CLASSES_MAX));
        let error = import(&registrar, &one_more)
            .await
            .expect_err("one class too many")
            .to_string();
        assert!(
            error.starts_with("line 2, field \"class\": would exceed the 256 device classes"),
            "{error}"
        );

        // A class added by manual SQL does not keep a revocation from a gate.
        let gate = gate(&config).await.expect("started");
        let before = gate.keys().revision();
        let by_hand = "insert into device (tenant_id, name, class, token_salt)
                           select tenant_id, 'by-hand', 'by-hand', token_salt from device limit 1;
                       insert into device_key (kid, device_id, profile, alg, state, public_key)
                           select 'by-hand', id, 'jws', 'Ed25519', 'active',
                               decode('11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=', 'base64')
                           from device where name = 'by-hand';
                       update device_key set state = 'revoked', revoked_at = now() where kid = 'd1-a'";
        let mut vault = admin(&config, "vault").await;
        vault
            .execute(sqlx::raw_sql(by_hand))
            .await
            .expect("the vault takes it");
        within(Duration::from_secs(2), "the revocation", || {
            gate.keys().revision() == before + 2
        })
        .await;
        assert_eq!(gate.keys().keyring().keys() as usize, CLASSES_MAX);
        gate.close().await;
    })
    .await;
}

/// A key for which its device has no room until a change several pages later: the gate reads everything again, and
/// known entries keep their numbers.
#[tokio::test]
async fn rereading_everything_renumbers_nothing() {
    in_a_corner("renumber", |Corner { config }| async move {
        let registrar = registry(&config).await;
        let mut text = [
            line("first", "d0", "d0-a"),
            line("first", "d0", "d0-b"),
            line("second", "d1", "d1-a"),
        ]
        .join("\n");
        // More than a page of changes.
        for number in 0..20_001 {
            write!(
                text,
                "\n{}",
                line("second", &format!("b{number}"), &format!("b{number}-a"))
            )
            .expect("in memory");
        }
        import(&registrar, &text).await.expect("imported");
        let gate = gate(&config).await.expect("started");
        let numbered =
            |vault: &Vault| -> Vec<String> { vault.keys().keyring().tenants().map(str::to_owned).collect() };
        let before = numbered(&gate);
        let revision = gate.keys().revision();
        // The rows of the first tenant move behind the others', and the revocation behind the page with the new key.
        let late = "update device_key set state = 'revoked', revoked_at = now() where kid = 'd0-a';
                    insert into device_key (kid, device_id, profile, alg, state, public_key)
                        select 'd0-c', device_id, 'jws', 'Ed25519', 'active',
                            decode('11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=', 'base64')
                        from device_key where kid = 'd0-b';
                    update device_key set state = state where kid like 'b%';
                    update device_key set state = state where kid in ('d0-a', 'd0-b')";
        let mut vault = admin(&config, "vault").await;
        let mut transaction = vault.begin().await.expect("begun");
        transaction.execute(sqlx::raw_sql(late)).await.expect("changed");
        transaction.commit().await.expect("committed");
        within(Duration::from_secs(20), "all changes", || {
            gate.keys().revision() == revision + 20_001 + 4
        })
        .await;
        assert_eq!(gate.keys().keyring().keys(), 20_001 + 4);
        assert_eq!(numbered(&gate), before);
        gate.close().await;
    })
    .await;
}

/// Waits until a statement in the vault waits for another one.
async fn held_up(config: &Config) {
    let mut watcher = admin(config, "vault").await;
    let asked = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let waiting: i64 = sqlx::query_scalar(asked)
            .fetch_one(&mut watcher)
            .await
            .expect("asked");
        if waiting > 0 {
            return;
        }
        assert!(Instant::now() < limit, "no statement waits for a lock");
    }
}

/// Limit for importing and for reading a hundred thousand devices, generous for a busy machine: they take 2 and 1 s.
/// One row at a time takes a minute.
const SECONDS_MAX: Duration = Duration::from_secs(20);

/// `PULSEGATE_TEST_DEVICES` sets the number; the contract's million takes a minute.
#[tokio::test]
async fn many_devices_are_imported_and_read_in_seconds() {
    in_a_corner("many", |Corner { config }| async move {
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
        in_seconds("import", count, since);
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
        let again = import(&registrar, &text)
            .await
            .expect("a repeated import succeeds");
        in_seconds("comparison", count, since);
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
        in_seconds("reading", count, since);
        assert_eq!(gate.keys().keyring().devices() as usize, count);
        gate.close().await;
    })
    .await;
}

fn in_seconds(what: &str, devices: usize, since: Instant) {
    let took = since.elapsed();
    println!("{what} of {devices} devices: {took:?}");
    let most = SECONDS_MAX.mul_f64(devices as f64 / 100_000.0);
    assert!(took < most, "{what} of {devices} devices took {took:?}");
}

#[tokio::test]
async fn a_bad_line_is_reported_and_nothing_is_imported() {
    in_a_corner("lines", |Corner { config }| async move {
        let registrar = registry(&config).await;
        let known = [line("acme", "d1", "d1-a"), line("acme", "d1", "d1-b")].join("\n");
        import(&registrar, &known).await.expect("imported");
        let good = line("newcomer", "d9", "d9-a");
        let other_secret = line("acme", "d1", "d1-a").replace("ZDEtYS0t", "ZDEtYS0u");
        let hmac = line("acme", "d1", "d1-a");
        let (head, _) = hmac.split_once(r#""alg""#).expect("the line has alg");
        let ed25519 =
            format!(r#"{head}"alg":"Ed25519","public_key":"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="}}"#);
        let cases = [
            (format!("{good}\n{{\"device\":\"d2\"}}"), "line 2, field \"kid\": is missing"),
            (format!("{good}\n\n{good}"), "line 2: is not JSON"),
            (format!("{good}\n{good}"), "line 2, field \"kid\": is already in an earlier line"),
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
        assert_eq!(tenants, 1, "refused lines leave no tenants behind");
        assert_eq!(import(&registrar, &known).await.expect("identical lines are accepted").unchanged, 2);
        let third = "insert into device_key (kid, device_id, profile, alg, state, secret_wrapped)
                     select 'by-hand', device_id, profile, alg, state, secret_wrapped from device_key limit 1";
        let refused = vault.execute(sqlx::raw_sql(third)).await.expect_err("refused by the database too").to_string();
        assert!(refused.contains("more than two keys"), "{refused}");
    })
    .await;
}

/// The binary, configured for a corner through its environment only.
fn pulsegate(config: &Config, arguments: &[&str]) -> (Option<i32>, String, String) {
    let directory = config
        .databases
        .logins_directory
        .parent()
        .expect("the corner's directory");
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_pulsegate"));
    command
        .current_dir(directory)
        .args(arguments)
        .env("PULSEGATE_KAFKA__BROKERS", &config.kafka.brokers)
        .env(
            "PULSEGATE_DATABASES__ADMIN_URL",
            config.databases.admin_url.expose(),
        )
        .env("PULSEGATE_DATABASES__PREFIX", &config.databases.prefix)
        .env(
            "PULSEGATE_DATABASES__LOGINS_DIRECTORY",
            &config.databases.logins_directory,
        )
        .env("PHI_MASTER_KEY", STANDARD.encode([0xA5; 32]));
    let output = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("answers are UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_commands_say_what_they_did_and_show_a_secret_once() {
    in_a_corner("commands", |Corner { config }| async move {
        let registrar = registry(&config).await;
        let add = ["device", "add", "d1", "--tenant", "acme", "--kid", "d1-a"];
        let (code, out, err) = pulsegate(&config, &add);
        assert_eq!(code, Some(0), "{err}");
        let secret = out.lines().last().expect("the secret's line").to_owned();
        assert_eq!(STANDARD.decode(&secret).expect("base64").len(), 32, "{out}");
        let (code, _, err) = pulsegate(&config, &add);
        assert_eq!(
            (code, err.contains("is in the vault already")),
            (Some(1), true),
            "{err}"
        );

        let (code, out, err) = pulsegate(
            &config,
            &[
                "device", "add", "d2", "--tenant", "acme", "--sign", "ed25519", "--json",
            ],
        );
        assert_eq!(code, Some(0), "{err}");
        let made: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert!(
            made["private_key"].is_string() && made["public_key"].is_string(),
            "{out}"
        );

        let file = config.databases.logins_directory.with_file_name("keys.jsonl");
        std::fs::write(&file, format!("{}\n{{}}\n", line("acme", "d3", "d3-a"))).expect("writable");
        let import = ["device", "import", file.to_str().expect("UTF-8")];
        let (code, _, err) = pulsegate(&config, &import);
        assert_eq!(
            (code, err.contains("line 2, field \"device\": is missing")),
            (Some(1), true),
            "{err}"
        );
        std::fs::write(&file, line("acme", "d3", "d3-a")).expect("writable");
        let (code, out, err) = pulsegate(&config, &import);
        assert_eq!(
            (code, out.contains("added 1 keys, 1 devices and 0 tenants")),
            (Some(0), true),
            "{out}{err}"
        );

        assert_eq!(pulsegate(&config, &["device", "revoke", "d1-a"]).0, Some(0));
        assert_eq!(
            pulsegate(&config, &["device", "revoke", "d1-a", "nobody"]).0,
            Some(1)
        );
        let (code, out, _) = pulsegate(&config, &["device", "list", "--state", "revoked", "--json"]);
        let listed: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(
            (code, listed.as_array().map(Vec::len), &listed[0]["kid"]),
            (Some(0), Some(1), &"d1-a".into())
        );
        assert!(
            !pulsegate(&config, &["device", "list"]).1.contains(&secret),
            "a secret is shown once"
        );
        registrar.close().await;

        let mut away = config.clone();
        std::fs::remove_dir_all(&away.databases.logins_directory).expect("there");
        assert_eq!(pulsegate(&away, &["device", "list"]).0, Some(2), "no login");
        away.databases.admin_url = "postgres://nobody:nothing@127.0.0.1:9/postgres".into();
        assert_eq!(
            pulsegate(&away, &["topology", "check"]).0,
            Some(3),
            "the vault is unreachable"
        );
    })
    .await;
}
