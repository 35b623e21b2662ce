//! Planted PHI is found in the raw topic and in what `open` prints, and nowhere else.

use std::fs;

use pulsegate_loadtest::fleet::Hostile;
use sqlx::{AssertSqlSafe, Row};
use tokio::runtime::Handle;

use crate::main_path::fleet;
use crate::support::admin;
use crate::world::{World, in_a_world};

#[test]
fn planted_phi_is_found_nowhere_behind_the_gate() {
    in_a_world("leaks", "log.level = \"debug\"\n", |world| {
        let mut fleet = fleet(world, 100, Hostile::some());
        world.import(&fleet);
        world.produce(&mut fleet, 5_000);
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        // Clean, deadletter and ledger are searched by the oracle.
        world.judged_good(&fleet);

        let mut emitted = vec![("the database".to_owned(), Handle::current().block_on(dump(world)))];
        for path in ["/metrics", "/readyz", "/healthz"] {
            emitted.push((path.to_owned(), gate.get(path).expect("answered").1));
        }
        let log = gate.log.clone();
        assert!(gate.terminate().success());
        emitted.push(("the log".to_owned(), fs::read_to_string(log).expect("readable")));
        for (place, text) in &emitted {
            assert!(!text.is_empty(), "{place} says something");
            for planted in fleet.planted() {
                let hex = hex::encode(&planted);
                assert!(
                    !text.contains(&planted) && !text.contains(&hex),
                    "planted PHI is in {place}"
                );
            }
        }
    });
}

/// Every row of every table of the vault, as text.
async fn dump(world: &World) -> String {
    let mut vault = admin(&world.config, "vault").await;
    let tables = "select format('%I.%I', schemaname, tablename) as name from pg_tables
                  where schemaname not in ('pg_catalog', 'information_schema')";
    let tables = sqlx::query(tables).fetch_all(&mut vault).await.expect("readable");
    let mut text = String::new();
    for table in tables {
        let name: String = table.get("name");
        let rows = format!("select t::text as row from {name} t");
        for row in sqlx::query(AssertSqlSafe(rows))
            .fetch_all(&mut vault)
            .await
            .expect("readable")
        {
            text.push_str(&row.get::<String, _>("row"));
            text.push('\n');
        }
    }
    text
}
