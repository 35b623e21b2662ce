//! The topology against the real stack: applied, checked, changed manually, and the changes detected.

use pulsegate::io::postgres::logins;
use pulsegate::io::topology::{self, Item, Kind};
use pulsegate_settings::Secret;
use pulsegate_testkit::corner::{Corner, admin, in_a_corner};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor};

fn differences(items: &[Item]) -> Vec<String> {
    items
        .iter()
        .filter(|item| !item.agrees())
        .map(ToString::to_string)
        .collect()
}

/// Connects with a service's login.
async fn login(url: &Secret) -> Result<sqlx::PgConnection, sqlx::Error> {
    url.expose().parse::<PgConnectOptions>()?.connect().await
}

#[tokio::test]
async fn apply_makes_everything_and_a_second_one_changes_nothing() {
    in_a_corner("twice", |Corner { config }| async move {
        let missing = topology::inspect(&config.topology_settings())
            .await
            .expect("the stack answers");
        assert!(
            missing.iter().all(|item| !item.agrees()),
            "nothing exists at first"
        );

        let first = topology::apply(&config.topology_settings())
            .await
            .expect("applied");
        assert_eq!(differences(&first.items), [""; 0]);
        for kind in [Kind::Topic, Kind::Database, Kind::Role, Kind::Grant] {
            assert!(
                first.items.iter().any(|item| item.kind == kind),
                "{kind:?} is compared"
            );
        }
        let second = topology::apply(&config.topology_settings())
            .await
            .expect("applied again");
        assert_eq!(second.changes, [""; 0]);
        assert_eq!(second.items, first.items);
    })
    .await;
}

#[tokio::test]
async fn manual_changes_are_reported_and_corrected() {
    in_a_corner("drift", |Corner { config }| async move {
        topology::apply(&config.topology_settings()).await.expect("applied");
        let prefix = config.databases.prefix.clone();

        let mut vault = admin(&config, "vault").await;
        let grants = format!(
            "grant delete on device_key to {prefix}gate_vault; revoke select on tenant from {prefix}open_vault;
             grant select on subject to public; grant update (salt) on subject to {prefix}device_vault;
             alter role {prefix}grafana_analytics createdb; grant pg_read_all_data to {prefix}watch_audit;
             grant connect on database {prefix}audit to {prefix}gate_vault;"
        );
        vault.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(grants))).await.expect("by hand");
        let kafka: AdminClient<DefaultClientContext> = config.kafka.client().create().expect("a client");
        let alter = AlterConfig::new(ResourceSpecifier::Topic(&config.topics.raw))
            .set("message.timestamp.type", "CreateTime")
            .set("segment.bytes", "20971520");
        kafka.alter_configs([&alter], &AdminOptions::new()).await.expect("asked").remove(0).expect("by hand");

        let found = differences(&topology::inspect(&config.topology_settings()).await.expect("the stack answers")).join("\n");
        for expected in [
            format!("{prefix}vault table device_key, {prefix}gate_vault: found DELETE, SELECT, declared SELECT"),
            format!("{prefix}vault table tenant, {prefix}open_vault: found nothing, declared SELECT"),
            format!("{prefix}vault table subject, PUBLIC: found SELECT, declared nothing"),
            format!("{prefix}vault table subject, {prefix}device_vault: found UPDATE(salt), declared nothing"),
            format!("{prefix}audit database {prefix}audit, {prefix}gate_vault: found CONNECT, declared nothing"),
            "message.timestamp.type: found CreateTime, declared LogAppendTime".to_owned(),
            "creates databases".to_owned(),
            "member of pg_read_all_data".to_owned(),
        ] {
            assert!(found.contains(&expected), "{expected}\n-- not in --\n{found}");
        }

        let report = topology::apply(&config.topology_settings()).await.expect("applied");
        assert_eq!(differences(&report.items), [""; 0]);
        let described = kafka
            .describe_configs([&ResourceSpecifier::Topic(&config.topics.raw)], &AdminOptions::new())
            .await
            .expect("asked")
            .remove(0)
            .expect("described");
        let own = described.get("segment.bytes").and_then(|entry| entry.value.clone());
        assert_eq!(own.as_deref(), Some("20971520"), "an undeclared setting is left alone");
    })
    .await;
}

#[tokio::test]
async fn a_partition_count_is_reported_and_never_changed() {
    in_a_corner("count", |Corner { mut config }| async move {
        topology::apply(&config.topology_settings())
            .await
            .expect("applied");
        config.topology.partitions = Some(4);
        let report = topology::apply(&config.topology_settings())
            .await
            .expect("applied");
        let found = differences(&report.items);
        assert_eq!(found.len(), 5, "one per topic: {found:?}");
        assert!(
            found
                .iter()
                .all(|line| line.ends_with("partitions: found 3, declared 4")),
            "{found:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn roles_can_do_what_the_matrix_says_and_nothing_else() {
    in_a_corner("roles", |Corner { config }| async move {
        topology::apply(&config.topology_settings())
            .await
            .expect("applied");
        let url = |role: &str| logins::read(&config.databases, role).expect("apply wrote it");
        let prefix = config.databases.prefix.as_str();

        for role in ["gate_vault", "device_vault", "open_vault"] {
            for database in ["audit", "analytics", "operations"] {
                let elsewhere = url(role)
                    .expose()
                    .replace(&format!("/{prefix}vault"), &format!("/{prefix}{database}"));
                let refused = login(&elsewhere.into())
                    .await
                    .expect_err("another compartment")
                    .to_string();
                assert!(
                    refused.contains("permission denied for database"),
                    "{role} in {database}: {refused}"
                );
            }
        }
        let forbidden = [
            ("gate_vault", "delete from subject_key"),
            ("gate_vault", "update subject_key set wrapped = ''"),
            ("gate_vault", "update tenant set name = 'x'"),
            ("gate_vault", "update device_key set state = 'active'"),
            (
                "gate_vault",
                "insert into key_event (kind, kek, keys, rotations) values ('kek.add', 'x', 1, 0)",
            ),
            ("gate_vault", "update key_event set tenant = 'x'"),
            ("gate_vault", "truncate key_event"),
            ("gate_vault", "create table mine (a int)"),
            ("gate_vault", "create temporary table mine (a int)"),
            ("gate_vault", "copy (select 1) to '/tmp/x'"),
            ("device_vault", "select * from subject"),
            ("device_vault", "select * from subject_key"),
            ("device_vault", "select * from key_event"),
            ("device_vault", "delete from device_key"),
            ("device_vault", "update device_key set public_key = null"),
            ("device_vault", "select setval('device_key_revision', 1)"),
            ("open_vault", "select * from device_key"),
            ("open_vault", "select * from key_event"),
            ("open_vault", "update subject_key set encryptions = 0"),
            (
                "open_vault",
                "select * from subject_keys('{}', '{}', '{}', '{}', '{}', '{}', '1 day', 1)",
            ),
            ("grafana_analytics", "create table mine (a int)"),
        ];
        for (role, statement) in forbidden {
            let mut connection = login(&url(role)).await.expect("its own database");
            let refused = connection
                .execute(sqlx::raw_sql(statement))
                .await
                .expect_err(statement)
                .to_string();
            assert!(
                refused.contains("permission denied"),
                "{role}: {statement}: {refused}"
            );
        }
        let allowed = [
            (
                "gate_vault",
                "select * from subject_keys('{}', '{}', '{}', '{}', '{}', '{}', '1 day', 1)",
            ),
            (
                "gate_vault",
                "update subject_key set encryptions = encryptions + 1",
            ),
            ("gate_vault", "select * from key_event"),
            ("gate_vault", "delete from key_event"),
            ("device_vault", "select * from device_key"),
            ("open_vault", "select * from subject_key"),
            ("watch_audit", "select 1"),
        ];
        for (role, statement) in allowed {
            let mut connection = login(&url(role)).await.expect("its own database");
            connection
                .execute(sqlx::raw_sql(statement))
                .await
                .expect(statement);
        }
    })
    .await;
}

#[tokio::test]
async fn a_lost_login_is_recreated_locally_and_only_reported_elsewhere() {
    in_a_corner("logins", |Corner { mut config }| async move {
        topology::apply(&config.topology_settings())
            .await
            .expect("applied");
        let before = logins::read(&config.databases, "gate_vault").expect("written");
        let file = config
            .databases
            .logins_directory
            .join(format!("{}gate_vault.url", config.databases.prefix));
        std::fs::remove_file(&file).expect("there");

        config.environment = "prod".to_owned();
        let report = topology::apply(&config.topology_settings())
            .await
            .expect("applied");
        let found = differences(&report.items);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].ends_with("gate_vault, login file: found nothing, declared present"),
            "{found:?}"
        );
        assert!(
            login(&before).await.is_ok(),
            "connected services keep a valid password"
        );

        config.environment = "local".to_owned();
        topology::apply(&config.topology_settings())
            .await
            .expect("applied");
        let after = logins::read(&config.databases, "gate_vault").expect("written");
        assert!(login(&after).await.is_ok() && login(&before).await.is_err());

        // A login of a server that moved to another port is recreated, too.
        let moved: PgConnectOptions = after.expose().parse().expect("a URL");
        let moved = moved.port(9).to_url_lossy();
        std::fs::write(&file, moved.as_str()).expect("writable");
        topology::apply(&config.topology_settings())
            .await
            .expect("applied");
        let after = logins::read(&config.databases, "gate_vault").expect("written");
        assert!(login(&after).await.is_ok());
    })
    .await;
}
