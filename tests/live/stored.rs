//! What the watch must store, read independently from the topics, and what it has stored.

use std::collections::BTreeMap;
use std::time::Duration;

use pulsegate_loadtest::kafka as reader;
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::runtime::Handle;

use pulsegate_testkit::corner::admin;
use pulsegate_testkit::wait::{PATIENCE, wait_for};
use pulsegate_testkit::world::World;

/// Partition, offset and index of a reading.
pub type Origin = (i32, i64, i64);

/// Every reading of the clean topic, with a count.
pub fn in_the_topic(world: &World) -> BTreeMap<Origin, u64> {
    let (kafka, topic) = (world.kafka(), &world.config.topics.clean);
    let ranges = reader::watermarks(&kafka, topic).expect("the topic is there");
    let mut found = BTreeMap::new();
    reader::read_all(&kafka, topic, &ranges, |message| {
        let event: Value = serde_json::from_slice(message.payload().unwrap_or_default()).unwrap_or_default();
        let readings = event["readings"].as_array().map_or(0, Vec::len);
        for index in 0..readings as i64 {
            *found
                .entry((message.partition(), message.offset(), index))
                .or_default() += 1;
        }
        Ok(())
    })
    .expect("the topic can be read");
    found
}

/// Every row of `readings`, with its number of occurrences.
pub fn in_the_table(world: &World) -> BTreeMap<Origin, u64> {
    let rows = query(
        world,
        "analytics",
        "select origin_partition, origin_offset, origin_index::bigint, count(*) from readings group by 1, 2, 3",
    );
    rows.iter()
        .map(|row| {
            (
                (row.get(0), row.get(1), row.get(2)),
                row.get::<i64, _>(3).cast_unsigned(),
            )
        })
        .collect()
}

/// Ids of the findings topic in order, each as often as it occurs.
pub fn in_the_findings_topic(world: &World) -> Vec<String> {
    let (kafka, topic) = (world.kafka(), &world.config.topics.findings);
    let ranges = reader::watermarks(&kafka, topic).expect("the topic is there");
    let mut ids = Vec::new();
    reader::read_all(&kafka, topic, &ranges, |message| {
        let found: Value = serde_json::from_slice(message.payload().unwrap_or_default()).unwrap_or_default();
        let id = found["id"].as_str().unwrap_or_default().to_owned();
        let header = message.headers().and_then(|headers| {
            headers
                .iter()
                .find(|header| header.key == "pg-finding-id")
                .and_then(|header| header.value)
        });
        assert_eq!(header, Some(id.as_bytes()), "the header is the id");
        ids.push(id);
        Ok(())
    })
    .expect("the topic can be read");
    ids.sort();
    ids
}

/// The single number that a query returns.
pub fn count(world: &World, database: &str, sql: &str) -> i64 {
    query(world, database, sql)[0].get(0)
}

/// Rows as the superuser sees them.
pub fn query(world: &World, database: &str, sql: &str) -> Vec<sqlx::postgres::PgRow> {
    Handle::current().block_on(async {
        let mut connection = admin(&world.config, database).await;
        sqlx::query(AssertSqlSafe(sql.to_owned()))
            .fetch_all(&mut connection)
            .await
            .expect("a good query")
    })
}

/// Executes a statement as the superuser.
pub fn execute(world: &World, database: &str, sql: &str) {
    Handle::current().block_on(async {
        let mut connection = admin(&world.config, database).await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await
            .expect("a good statement");
    });
}

/// Waits until every record of the clean topic is stored, and checks that every reading is there once.
pub fn everything_once(world: &World) -> BTreeMap<Origin, u64> {
    wait_until_stored(world);
    let (wanted, found) = (in_the_topic(world), in_the_table(world));
    assert!(found.values().all(|&times| times == 1), "rows that occur twice");
    let ends = reader::watermarks(&world.kafka(), &world.config.topics.clean).expect("the topic is there");
    assert!(
        wanted == found,
        "{} readings in the topic, which ends at {ends:?}, {} rows; not in the table: {:?}",
        wanted.len(),
        found.len(),
        wanted
            .keys()
            .filter(|origin| !found.contains_key(origin))
            .take(20)
            .collect::<Vec<_>>()
    );
    found
}

/// Waits until every transaction that has written to the clean topic has ended there. A transaction's marker reaches
/// each partition at its own time, perhaps after that of the group's offsets: a settled gate may have records that no
/// consumer can see yet.
fn wait_until_committed(world: &World) {
    let ends = |level: &str| -> Vec<i64> {
        let mut client = world.config.kafka.client();
        let client: BaseConsumer = client.set("isolation.level", level).create().expect("a client");
        let topic = &world.config.topics.clean;
        let end = |partition| client.fetch_watermarks(topic, partition, Duration::from_secs(10));
        (0..world.partitions())
            .map(|partition| end(partition).expect("an end").1)
            .collect()
    };
    wait_for("transactions to end", || {
        ends("read_committed") == ends("read_uncommitted")
    });
}

/// Waits until the analytics database has stored the whole clean topic.
pub fn wait_until_stored(world: &World) {
    wait_until_committed(world);
    wait_for("the clean topic to be stored", || behind(world) == 0);
}

/// Number of records of the clean topic that are not stored.
pub fn behind(world: &World) -> i64 {
    let kafka = world.kafka();
    let ranges = reader::watermarks(&kafka, &world.config.topics.clean).expect("the topic is there");
    let rows = query(
        world,
        "analytics",
        "select partition, next from sink_offset where next is not null",
    );
    let next: BTreeMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let of = |range: &reader::Range| {
        // Control records follow the gate's records, and no reader sees them.
        let stored = next.get(&range.partition).copied().unwrap_or(range.first);
        last_record(world, range)
            .map_or(0, |last| last + 1 - stored)
            .max(0)
    };
    ranges.iter().map(of).sum()
}

/// Offset of the last record that a reader can see; after it come markers and records of aborted transactions.
fn last_record(world: &World, range: &reader::Range) -> Option<i64> {
    let (kafka, topic) = (world.kafka(), &world.config.topics.clean);
    let (mut last, mut back) = (None, 4);
    while last.is_none() && range.next - back / 16 > range.first {
        let near = reader::Range {
            first: range.first.max(range.next - back),
            ..*range
        };
        reader::read_all(&kafka, topic, &[near], |message| {
            last = Some(message.offset());
            Ok(())
        })
        .expect("the topic can be read");
        back *= 16;
    }
    last
}

/// Records by outcome, as counted for the KPIs.
pub fn counted(world: &World) -> BTreeMap<String, i64> {
    let settled = "select outcome, sum(records)::bigint from settled_minute group by 1";
    by_outcome(world, "operations", settled)
}

/// Records by outcome, as stated by the ledger records in the audit log.
pub fn told(world: &World) -> BTreeMap<String, i64> {
    let entries = "select key, sum(value::bigint)::bigint
        from audit_entry, jsonb_each_text(convert_from(entry, 'UTF8')::jsonb -> 'outcomes') group by 1";
    by_outcome(world, "audit", entries)
}

fn by_outcome(world: &World, database: &str, sql: &str) -> BTreeMap<String, i64> {
    let rows = query(world, database, sql);
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A clean event of a device.
pub fn event(device: u32, at_ms: i64, firmware: &str, readings: &[(&str, f64)]) -> Vec<u8> {
    let readings: Vec<_> = readings
        .iter()
        .map(|(metric, value)| json!({"metric": metric, "value": value}))
        .collect();
    event_of(device, at_ms, firmware, &Value::Array(readings))
}

/// As [`event`], with readings in JSON.
pub fn event_of(device: u32, at_ms: i64, firmware: &str, readings: &Value) -> Vec<u8> {
    let at = jiff::Timestamp::from_millisecond(at_ms)
        .expect("a time")
        .to_string();
    let token = format!("{device:-<22}");
    let event = json!({"event_id": "6f2f9f4e-6a52-4c39-8f53-1d7b61a6c001", "device_id": token,
        "subject": {"id": token}, "recorded_at": at, "firmware": firmware, "model": "band", "readings": readings});
    serde_json::to_vec(&event).expect("JSON")
}

/// Now, in ms since the Unix epoch.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Writes to the clean topic as a gate would: keyed by device, so that a device keeps its partition.
pub struct CleanTopic {
    producer: BaseProducer,
    topic: String,
    partitions: i32,
}

impl CleanTopic {
    pub fn of(world: &World) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &world.config.kafka.brokers)
            .set("linger.ms", "5")
            .create()
            .expect("a producer");
        Self {
            producer,
            topic: world.config.topics.clean.clone(),
            partitions: world.partitions(),
        }
    }

    pub fn send(&self, device: u32, value: &[u8]) {
        let partition = (device % self.partitions.cast_unsigned()).cast_signed();
        let record = || {
            BaseRecord::<str, [u8]>::to(&self.topic)
                .partition(partition)
                .payload(value)
        };
        while self.producer.send(record()).is_err() {
            self.producer.poll(std::time::Duration::from_millis(10));
        }
    }

    pub fn flush(&self) {
        self.producer.flush(PATIENCE).expect("delivered");
    }
}
