//! Planted PHI is found in the raw topic and in the output of `open`, and nowhere else.

use std::fs;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use pulsegate_loadtest::fleet::Hostile;
use pulsegate_loadtest::kafka::{captured, read_all, watermarks};
use rdkafka::Message as _;
use sqlx::{AssertSqlSafe, Row};
use tokio::runtime::Handle;

use crate::main_path::fleet;
use crate::stored::{counted, everything_once, told};
use pulsegate_testkit::corner::admin;
use pulsegate_testkit::wait::wait_for;
use pulsegate_testkit::world::{World, in_a_world};

#[test]
fn planted_phi_is_found_nowhere_behind_the_gate() {
    in_a_world("leaks", "log.level = \"debug\"\n", |world| {
        let mut fleet = fleet(world, 100, Hostile::some());
        world.import(&fleet);
        world.produce(&mut fleet, 5_000);
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        // The oracle searches clean, deadletter and ledger.
        world.judged_good(&fleet);
        let watch = world.watch("one");
        everything_once(world);
        wait_for("the ledger to be audited and counted", || {
            counted(world).values().sum::<i64>() == 5_000 && counted(world) == told(world)
        });

        let mut emitted = vec![("the findings".to_owned(), findings(world))];
        for database in ["vault", "audit", "analytics", "operations"] {
            let rows = Handle::current().block_on(dump(world, database));
            emitted.push((format!("the {database} database"), rows));
        }
        for (role, process) in [("gate", gate), ("watch", watch)] {
            for path in ["/metrics", "/readyz", "/healthz"] {
                let answer = process.get(path).expect("answered").1;
                emitted.push((format!("{path} of the {role}"), answer));
            }
            let log = process.log.clone();
            assert!(process.terminate().success());
            let log = fs::read_to_string(log).expect("readable");
            emitted.push((format!("the log of the {role}"), log));
        }
        for (place, text) in &emitted {
            assert!(!text.is_empty(), "{place} is not empty");
            for planted in fleet.planted() {
                let (hex, base64) = (hex::encode(&planted), BASE64_STANDARD_NO_PAD.encode(&planted));
                assert!(
                    ![&planted, &hex, &base64]
                        .into_iter()
                        .any(|form| text.contains(form)),
                    "planted PHI is in {place}"
                );
            }
        }
    });
}

/// Content of the findings topic as text.
fn findings(world: &World) -> String {
    let (kafka, topic) = (world.kafka(), &world.config.topics.findings);
    let ranges = watermarks(&kafka, topic).expect("the topic is there");
    let mut text = String::from("findings:");
    read_all(&kafka, topic, &ranges, |message| {
        text.push_str(&format!("{:?}", captured(message)));
        text.push_str(&String::from_utf8_lossy(message.payload().unwrap_or_default()));
        Ok(())
    })
    .expect("read");
    text
}

/// Every row of every table, as text.
async fn dump(world: &World, database: &str) -> String {
    let mut admin = admin(&world.config, database).await;
    let tables = "select format('%I.%I', schemaname, tablename) as name from pg_tables
                  where schemaname not in ('pg_catalog', 'information_schema')";
    let tables = sqlx::query(tables).fetch_all(&mut admin).await.expect("readable");
    let mut text = String::new();
    for table in tables {
        let name: String = table.get("name");
        let rows = format!("select t::text as row from {name} t");
        for row in sqlx::query(AssertSqlSafe(rows))
            .fetch_all(&mut admin)
            .await
            .expect("readable")
        {
            text.push_str(&row.get::<String, _>("row"));
            text.push('\n');
        }
    }
    text
}
