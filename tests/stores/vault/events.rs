//! Key events: each change to keys leaves an event, and events reach the audit log even after outages.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pulsegate::config::Config;
use pulsegate::io::postgres::logins;
use pulsegate::io::vault::Vault;
use pulsegate::telemetry::metrics::Metrics;
use pulsegate_core::crypto::keys::SubjectKey;
use pulsegate_testkit::corner::{Corner, admin, in_a_corner};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, PgConnection, Row as _};

use super::{doors, scalar};
use crate::registrar::{import, line, registry};

/// A vault with the tenants `acme` and `other`, which no gate has used yet.
async fn two_tenants(config: &Config) {
    let registrar = registry(config).await;
    for (tenant, device) in [("acme", "d1"), ("other", "d2")] {
        import(&registrar, &line(tenant, device, device))
            .await
            .expect("imported");
    }
    registrar.close().await;
}

async fn login(config: &Config, role: &str) -> PgConnection {
    let url = logins::read(&config.databases, role).expect("written");
    let options: PgConnectOptions = url.expose().parse().expect("a URL");
    options.connect().await.expect("its own database")
}

/// Requests the keys of a tenant's subjects as a gate does; new keys get the ids from `first` on.
async fn ask(gate: &mut PgConnection, tenant: &str, subjects: std::ops::Range<i64>, first: i64) {
    let query = "
        select count(*) from (
            select array_agg(t.id) tenants, array_agg(substr(sha256(convert_to('s' || n, 'UTF8')), 1, 16)) lookups,
                   array_agg(substr(sha256(convert_to('t' || n, 'UTF8')), 1, 16)) salts, array_agg($4 + n - $2) ids,
                   array_agg(sha256('w') || sha256('w')) wraps, array_agg(sha256('c')) commitments
            from generate_series($2, $3 - 1) n, tenant t where t.name = any(string_to_array($1, ' '))
        ) a, subject_keys(tenants, lookups, salts, ids, wraps, commitments, '30 days', 100)";
    sqlx::query(query)
        .bind(tenant)
        .bind(subjects.start)
        .bind(subjects.end)
        .bind(first)
        .execute(gate)
        .await
        .expect("answered");
}

/// Events of the vault since the last call: kind, tenant, keys, rotations, key ids.
async fn events(vault: &mut PgConnection) -> Vec<Value> {
    let query = "
        with gone as (delete from key_event returning *)
        select jsonb_build_array(kind, tenant, keys, rotations, to_jsonb(key_ids))::text from gone order by id";
    let rows: Vec<String> = sqlx::query_scalar(query)
        .fetch_all(vault)
        .await
        .expect("readable");
    let parsed = rows.iter().map(|row| serde_json::from_str(row).expect("JSON"));
    parsed.collect()
}

#[tokio::test]
async fn a_statement_leaves_one_event_per_tenant_and_a_rolled_back_one_none() {
    in_a_corner("events", |Corner { config }| async move {
        two_tenants(&config).await;
        let mut vault = admin(&config, "vault").await;
        let none: [i64; 0] = [];
        assert_eq!(
            events(&mut vault).await,
            [
                json!(["kek.add", null, 1, 0, none]),
                json!(["tenant.add", "acme", 1, 0, none]),
                json!(["tenant.add", "other", 1, 0, none]),
            ]
        );

        let mut gate = login(&config, "gate_vault").await;
        ask(&mut gate, "acme", 0..3, 100).await;
        assert_eq!(
            events(&mut vault).await,
            [json!(["data_key.make", "acme", 3, 0, [100, 101, 102]])],
            "three keys, one event"
        );
        ask(&mut gate, "acme", 0..3, 200).await;
        assert_eq!(events(&mut vault).await, [json!(null); 0], "no key was made");
        for used_up in [
            "begin",
            "update subject_key set encryptions = 100 where key_id > 100",
        ] {
            vault.execute(used_up).await.expect("by hand");
        }
        vault.execute("commit").await.expect("by hand");
        ask(&mut gate, "acme", 0..4, 300).await;
        assert_eq!(
            events(&mut vault).await,
            [json!(["data_key.make", "acme", 3, 2, [301, 302, 303]])],
            "two replacements and a first key"
        );

        gate.execute("begin").await.expect("begun");
        ask(&mut gate, "acme", 10..12, 400).await;
        gate.execute("rollback").await.expect("rolled back");
        assert_eq!(
            events(&mut vault).await,
            [json!(null); 0],
            "a rolled-back statement leaves no event"
        );

        gate.execute(
            "select quarantine_keys(array_agg(id order by name), array[7, 8], '30 days', 9)
             from tenant where name in ('acme', 'other')",
        )
        .await
        .expect("answered");
        assert_eq!(
            events(&mut vault).await,
            [
                json!(["quarantine_key.make", "acme", 1, 0, [7]]),
                json!(["quarantine_key.make", "other", 1, 0, [8]]),
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn manual_changes_leave_events_too_and_no_event_exceeds_an_entry() {
    in_a_corner("by_hand", |Corner { config }| async move {
        two_tenants(&config).await;
        let mut gate = login(&config, "gate_vault").await;
        ask(&mut gate, "acme", 0..1_201, 4_294_960_000).await;
        let mut vault = admin(&config, "vault").await;
        vault
            .execute("insert into kek (id, commitment) values ('0123456789abcdef', sha256('k'))")
            .await
            .expect("by hand");
        let written = events(&mut vault).await.split_off(3);
        let counts: Vec<&Value> = written.iter().map(|event| &event[2]).collect();
        assert_eq!(counts, [500, 500, 201, 1]);
        assert_eq!(written[3], json!(["kek.add", null, 1, 1, []]), "a second KEK");
        let ids = written[..3]
            .iter()
            .flat_map(|event| event[4].as_array().expect("ids"));
        assert_eq!(ids.collect::<HashSet<_>>().len(), 1_201, "each id once");
    })
    .await;
}

/// A gate and its metrics.
async fn gate(config: &Config) -> (Arc<Vault>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let gate = Vault::connect(
        &config.vault_settings(),
        config.audit_settings(),
        Arc::clone(&metrics),
    )
    .await;
    (gate.expect("started"), metrics)
}

/// Key ids of these subjects of a gate's first tenant; missing keys are made.
async fn key_ids(gate: &Vault, subjects: &[&str]) -> HashSet<u64> {
    let asked: Vec<(u16, &[u8])> = subjects.iter().map(|subject| (0, subject.as_bytes())).collect();
    let keys = gate.subjects().fetch_or_create(&asked).await.expect("made");
    let id = |key: &Arc<SubjectKey>| u64::from(key.field_key().key_id());
    keys.iter().map(id).collect()
}

/// Number of failed requests to a service.
fn failures(metrics: &Metrics, service: &str) -> u64 {
    let text = metrics.render();
    let series = format!("pulsegate_service_failures_total{{service=\"{service}\"}} ");
    let count = text.lines().find_map(|line| line.strip_prefix(&series));
    count.and_then(|count| count.parse().ok()).expect("a series")
}

async fn reached<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < limit, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn nothing_waits(config: &Config) -> bool {
    let mut vault = admin(config, "vault").await;
    scalar(&mut vault, "select count(*) from key_event").await == 0
}

/// Key-related entries of the audit log in order: action and detail.
async fn recorded(config: &Config) -> Vec<(String, Value)> {
    let query =
        "select convert_from(entry, 'UTF8') from audit_entry where lane = 'administration' order by seq";
    let mut audit = admin(config, "audit").await;
    let rows = sqlx::query(query).fetch_all(&mut audit).await.expect("readable");
    let entries = rows
        .iter()
        .map(|row| serde_json::from_str::<Value>(row.get(0)).expect("JSON"));
    let deed = |mut entry: Value| {
        let action = entry["action"].as_str().expect("an action").to_owned();
        (action, entry["detail"].take())
    };
    entries.map(deed).collect()
}

/// Key ids named by the entries of an action, in order.
fn named(recorded: &[(String, Value)], action: &str) -> Vec<u64> {
    let details = recorded
        .iter()
        .filter(|(one, _)| one == action)
        .map(|(_, detail)| detail);
    let ids = details.flat_map(|detail| detail["key_ids"].as_array().expect("ids").iter());
    ids.filter_map(Value::as_u64).collect()
}

#[tokio::test]
async fn events_reach_the_audit_log_and_wait_while_it_is_unavailable() {
    in_a_corner("relayed", |Corner { mut config }| async move {
        config.vault.report_interval_s = 1;
        two_tenants(&config).await;
        let (gate, metrics) = gate(&config).await;
        let mut ids = key_ids(&gate, &["patient-1", "patient-2", "patient-3"]).await;
        reached("the audit log", || nothing_waits(&config)).await;
        let log = recorded(&config).await;
        let actions: HashSet<&str> = log.iter().map(|(action, _)| action.as_str()).collect();
        let expected = ["kek.add", "tenant.add", "quarantine_key.make", "data_key.make"];
        assert_eq!(actions, HashSet::from(expected), "{log:#?}");
        let (_, made) = log.last().expect("the newest");
        let prefix = &config.databases.prefix;
        assert_eq!(
            [&made["keys"], &made["rotations"], &made["made_by"]],
            [&json!(3), &json!(0), &json!(format!("{prefix}gate_vault"))]
        );
        let tenant = made["tenant"].as_str().expect("a tenant");
        assert!(["acme", "other"].contains(&tenant), "{made}");
        assert_eq!(
            named(&log, "data_key.make").into_iter().collect::<HashSet<_>>(),
            ids
        );

        doors(&config, "audit", false).await;
        let before = failures(&metrics, "audit");
        ids.extend(key_ids(&gate, &["patient-4"]).await);
        reached("failed tries", async || failures(&metrics, "audit") > before + 1).await;
        ids.extend(key_ids(&gate, &["patient-5", "patient-6"]).await);
        assert!(!nothing_waits(&config).await, "the events wait in the vault");
        assert!(!gate.is_down(), "the vault itself is available");
        doors(&config, "audit", true).await;
        reached("the audit log", || nothing_waits(&config)).await;
        gate.close().await;

        let log = recorded(&config).await;
        let made = named(&log, "data_key.make");
        assert_eq!((made.len(), made.into_iter().collect()), (6, ids), "each id once");
        let numbers: Vec<i64> = log
            .iter()
            .filter_map(|(_, detail)| detail["event"].as_i64())
            .collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        for (_, detail) in &log {
            let text = detail.to_string();
            assert!(!text.contains("patient"), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_event_that_was_recorded_but_not_deleted_is_recorded_again_under_its_number() {
    in_a_corner("key_again", |Corner { mut config }| async move {
        // Events are relayed only at the start and at the end of the gate.
        config.vault.report_interval_s = 3_600;
        two_tenants(&config).await;
        let mut vault = admin(&config, "vault").await;
        let refuse = "
            create function refuse() returns trigger language plpgsql as $$ begin raise 'not now'; end $$;
            create constraint trigger refuse after delete on key_event deferrable initially deferred
                for each row execute function refuse();";
        vault
            .execute(sqlx::raw_sql(AssertSqlSafe(refuse)))
            .await
            .expect("by hand");
        let (gate, metrics) = gate(&config).await;
        reached("a failed try", async || failures(&metrics, "vault") == 1).await;
        let once = recorded(&config).await;
        assert!(
            once.len() >= 3,
            "the commit failed after the events were recorded: {once:?}"
        );
        vault
            .execute("drop trigger refuse on key_event")
            .await
            .expect("by hand");
        let ids = key_ids(&gate, &["patient-1"]).await;
        gate.close().await;

        assert!(
            nothing_waits(&config).await,
            "a stopping gate relays the remaining events"
        );
        let log = recorded(&config).await;
        assert_eq!(
            log[..once.len()],
            log[once.len()..2 * once.len()],
            "the same event again"
        );
        assert_eq!(
            named(&log, "data_key.make").into_iter().collect::<HashSet<_>>(),
            ids
        );
    })
    .await;
}

#[tokio::test]
async fn two_gates_record_each_event_once() {
    in_a_corner("twins", |Corner { mut config }| async move {
        config.vault.report_interval_s = 1;
        two_tenants(&config).await;
        let mut writer = login(&config, "gate_vault").await;
        for n in 0..600 {
            ask(&mut writer, "acme", n..n + 1, 1_000 + n).await;
        }
        let ((one, _), (other, _)) = tokio::join!(gate(&config), gate(&config));
        reached("the audit log", || nothing_waits(&config)).await;
        tokio::join!(one.close(), other.close());
        let made = named(&recorded(&config).await, "data_key.make");
        assert_eq!(
            made,
            (1_000..1_600).collect::<Vec<_>>(),
            "every event once and in order"
        );
    })
    .await;
}
