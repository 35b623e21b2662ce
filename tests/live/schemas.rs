//! Avro with a registry's schema ids: looked up once, and waited for while the registry does not answer.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use apache_avro::Schema;
use pulsegate_loadtest::fleet::event::Format;
use pulsegate_loadtest::fleet::{Fleet, Options};
use pulsegate_loadtest::kafka::Producer;
use pulsegate_loadtest::oracle::AvroSchemas;
use pulsegate_loadtest::outcome::Outcome;

use crate::audit;
use crate::bad_input::next;
use pulsegate_testkit::wait::wait_for;
use pulsegate_testkit::world::{World, in_a_world};

const SCHEMA: &str = include_str!("../../schemas/biometric_event.avsc");

#[test]
fn without_the_registry_a_lane_waits_and_nothing_is_rejected() {
    in_a_world("registry", "", |world| {
        let mut fleet = avro_fleet(world);
        world.import(&fleet);
        world.produce(&mut fleet, 1_000);

        // Nothing listens on that port.
        let mut blind = world.start_gate("one", &["registry.url=http://127.0.0.1:1"], &[]);
        wait_for("a lane to be held for the registry", || {
            blind.expect_running();
            let ready = blind.get("/readyz");
            ready.is_some_and(|(status, body)| status == 503 && body.contains("schema_registry"))
        });
        assert_eq!(world.settled(), 0);
        assert!(
            blind.terminate().success(),
            "a gate stops cleanly while its lanes are held"
        );

        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        let report = world.judge_with(&fleet, |config| config.rules.avro = schemas(&fleet));
        assert!(report.is_good(), "{report}");
        assert_eq!(report.clean_records, 1_000, "{report}");
        assert!(gate.terminate().success());
        audit::watch(world);
        let (code, found) = audit::verify(world, &[]);
        assert_eq!((code, audit::kinds(&found)), (Some(0), vec![]), "{found:#}");
        assert_eq!(audit::sum(&found, "raw_records"), 1_000);
    });
}

#[test]
fn an_id_that_the_registry_denies_is_rejected_and_the_lane_continues() {
    in_a_world("denied", "", |world| {
        let mut known = avro_fleet(world);
        world.import(&known);
        // No registry can have the second id, and not every registry reports that.
        for (number, id) in [i32::MAX.unsigned_abs(), u32::MAX].into_iter().enumerate() {
            world.produce(&mut denied(&known, number as u64, id), 150);
        }
        world.produce(&mut known, 400);
        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        let report = world.judge_with(&known, |config| config.rules.avro = schemas(&known));
        assert!(report.is_good(), "{report}");
        let of = |outcome| report.total.ledger.get(&outcome).copied().unwrap_or_default();
        assert_eq!(
            [Outcome::UnknownSchema, Outcome::Clean].map(of),
            [300, 400],
            "{report}"
        );
        assert!(gate.terminate().success());
    });
}

/// Denials expire before an opening lane retries: it has to look up all ids at once.
#[test]
fn a_lane_opens_however_many_denied_ids_its_past_has() {
    in_a_world("denied_past", "registry.denied_s = 1\n", |world| {
        let known = avro_fleet(world);
        world.import(&known);
        for number in 0..4 {
            let id = i32::MAX.unsigned_abs() - number;
            world.produce(&mut denied(&known, number.into(), id), 20);
        }
        for _ in 0..2 {
            let mut gate = world.gate("one");
            world.settle(&mut [&mut gate]);
            assert!(gate.terminate().success());
        }
        let report = world.judge_with(&known, |config| config.rules.avro = schemas(&known));
        assert!(report.is_good(), "{report}");
    });
}

/// The registry is asked about all ids of a batch at once: with one hold per id a single device could stop its lane.
#[test]
fn many_unknown_ids_cost_few_holds() {
    in_a_world("many_ids", "log.level = \"info,pulsegate=debug\"\n", |world| {
        let schema = Arc::new(Schema::parse_str(SCHEMA).expect("the default schema"));
        let made_up = |id| Options {
            devices: 1,
            format: Format::AvroConfluent {
                schema: Arc::clone(&schema),
                id,
            },
            boot: id.into(),
            topic: world.config.topics.raw.clone(),
            ..Options::new(22)
        };
        world.import(&Fleet::new(made_up(1)));
        let mut producer =
            Producer::new(&world.kafka(), &world.config.topics.raw, "none").expect("a producer");
        for id in 1..=100 {
            let draft = next(&mut Fleet::new(made_up(id)));
            producer.send(&draft.record, draft.partition(producer.partitions()));
        }
        producer.finish().expect("delivered");
        let registry = format!("registry.url={}", registry_without_schemas());
        let mut gate = world.start_gate("one", &[&registry], &[]);
        world.settle(&mut [&mut gate]);
        let holds = gate.logged().matches("lane held").count();
        assert!((1..50).contains(&holds), "{holds}");
        let report = world.judge(&Fleet::new(made_up(1)));
        assert_eq!(
            report.total.ledger.get(&Outcome::UnknownSchema),
            Some(&100),
            "{report}"
        );
        assert!(gate.terminate().success());
    });
}

/// A registry that answers at once that it does not have the schema. Returns its address.
fn registry_without_schemas() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let body = r#"{"error_code":40403}"#;
    let answer = format!(
        "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            // A client that has disconnected needs no answer.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

/// The same devices in an earlier boot, `number` from the end, with an id that the registry never assigned.
fn denied(fleet: &Fleet, number: u64, id: u32) -> Fleet {
    let format = match &fleet.options().format {
        Format::AvroConfluent { schema, .. } => Format::AvroConfluent {
            schema: Arc::clone(schema),
            id,
        },
        Format::Json | Format::AvroSingleObject { .. } => unreachable!("the fleet writes with ids"),
    };
    Fleet::new(Options {
        format,
        boot: fleet.options().boot - 1 - number,
        ..fleet.options().clone()
    })
}

/// A fleet that writes Avro with the id that the real registry assigned to the default schema.
fn avro_fleet(world: &World) -> Fleet {
    let registered: serde_json::Value =
        serde_json::from_str(&world.done(&["--json", "schema", "register"])).expect("JSON");
    let raw = registered.as_array().expect("subjects").iter().find(|subject| {
        subject["subject"]
            .as_str()
            .is_some_and(|name| name.starts_with(&world.config.topics.raw))
    });
    let id = raw.and_then(|raw| raw["id"].as_u64()).expect("an id");
    let schema = Arc::new(Schema::parse_str(SCHEMA).expect("the default schema"));
    let format = Format::AvroConfluent {
        schema,
        id: u32::try_from(id).expect("an id"),
    };
    Fleet::new(Options {
        devices: 20,
        format,
        topic: world.config.topics.raw.clone(),
        ..Options::new(21)
    })
}

fn schemas(fleet: &Fleet) -> AvroSchemas {
    match &fleet.options().format {
        Format::AvroConfluent { schema, id } => AvroSchemas {
            event: Some(Arc::clone(schema)),
            ids: vec![*id],
        },
        Format::Json | Format::AvroSingleObject { .. } => AvroSchemas::default(),
    }
}
