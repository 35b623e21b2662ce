//! An audit log in a test corner: its writer, its verifier, and superuser access for tampering.

use std::collections::BTreeSet;
use std::ops::Range;

use jiff::Timestamp;
use pulsegate::config::Config;
use pulsegate::io::audit::{Appended, AuditLog, Claim, LedgerBatch, LedgerRecord};
use pulsegate::io::postgres::WriteError;
use pulsegate::io::topology;
use pulsegate::roles::verify::{self, Against, Options, Report};
use pulsegate_ledger::entry::{Head, Stamp, Tally};
use pulsegate_ledger::log::lane_of;
use pulsegate_ledger::outcome::{Outcome, Reason};
use pulsegate_ledger::record::{Received, SignatureHeaders};
use pulsegate_loadtest::kafka::{Kafka, Producer};
use pulsegate_loadtest::record::Record;
use pulsegate_testkit::corner::{Corner, admin};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

/// Partition used by all tests here.
pub const PARTITION: i32 = 1;

/// An audit log with its configuration.
pub struct Lab {
    pub config: Config,
    pub lane: String,
}

impl Lab {
    pub async fn new(corner: Corner) -> Self {
        let config = corner.config;
        topology::apply(&config.topology_settings())
            .await
            .expect("applied");
        let lane = lane_of(&config.topics.raw, PARTITION);
        Self { config, lane }
    }

    /// A log of `records` entries, also in the ledger topic, with a checkpoint at each of `checkpoints`.
    pub async fn with_log(corner: Corner, records: usize, checkpoints: &[usize]) -> Self {
        let lab = Self::new(corner).await;
        let records = ledger_records(&lab.config, records);
        produce(&lab.config, &lab.config.topics.ledger, &records);
        let log = AuditLog::connect(&lab.config.audit_settings())
            .await
            .expect("connected");
        let mut claim = log.claim(PARTITION).await.expect("claimed");
        let (mut from, begun) = (0, Timestamp::now().as_second());
        for (second, to) in (0..).zip(checkpoints) {
            lab.append(&log, &claim, &records, from..*to)
                .await
                .expect("appended");
            (claim.next, from) = (Some(*to as i64), *to);
            let at = Timestamp::from_second(begun + second).expect("a time");
            log.checkpoint(at).await.expect("signed");
        }
        lab.append(&log, &claim, &records, from..records.len())
            .await
            .expect("appended");
        log.close().await;
        lab
    }

    /// Appends a part of `records`; a record's offset is its index.
    pub async fn append(
        &self,
        log: &AuditLog,
        claim: &Claim,
        records: &[Vec<u8>],
        part: Range<usize>,
    ) -> Result<Appended, WriteError> {
        let next = part.end as i64;
        let records: Vec<LedgerRecord<'_>> = part
            .map(|place| LedgerRecord {
                offset: place as i64,
                value: &records[place],
            })
            .collect();
        let batch = LedgerBatch {
            partition: PARTITION,
            epoch: claim.epoch,
            expected: claim.next,
            next,
            records: &records,
        };
        log.append(&batch).await
    }

    /// A superuser session.
    pub async fn hand(&self) -> PgConnection {
        admin(&self.config, "audit").await
    }

    /// Changes the database, bypassing every rule and trigger.
    pub async fn tamper(&self, sql: &str) {
        let sql = format!(
            "set session_replication_role = replica; {}",
            sql.replace("LANE", &self.lane)
        );
        let mut hand = self.hand().await;
        hand.execute(sqlx::raw_sql(AssertSqlSafe(sql)))
            .await
            .expect("by hand");
    }

    /// Saves copies of the tables; `restore` puts them back.
    pub async fn save(&self) {
        let tables = TABLES.map(|table| format!("create table saved_{table} as table {table};"));
        self.tamper(&tables.concat()).await;
    }

    pub async fn restore(&self) {
        let tables =
            TABLES.map(|table| format!("delete from {table}; insert into {table} table saved_{table};"));
        self.tamper(&tables.concat()).await;
    }

    pub async fn entries(&self) -> Vec<Vec<u8>> {
        sqlx::query_scalar("select entry from audit_entry where lane = $1 order by seq")
            .bind(&self.lane)
            .fetch_all(&mut self.hand().await)
            .await
            .expect("readable")
    }

    pub async fn newest_checkpoint(&self) -> String {
        sqlx::query_scalar(
            "select note from audit_checkpoint where lane = $1 order by size desc, signed_at desc limit 1",
        )
        .bind(&self.lane)
        .fetch_one(&mut self.hand().await)
        .await
        .expect("a checkpoint was signed")
    }

    pub async fn verify(&self, options: &Options) -> Report {
        self.verify_with(&self.config, options).await
    }

    pub async fn verify_with(&self, config: &Config, options: &Options) -> Report {
        verify::verify(config, options, &mut |_| {})
            .await
            .expect("the stack answers")
    }
}

const TABLES: [&str; 4] = ["audit_lane", "audit_entry", "audit_checkpoint", "sink_offset"];

pub fn database_only() -> Options {
    against([Against::Database])
}

pub fn with_ledger() -> Options {
    against([Against::Database, Against::Ledger])
}

fn against<const N: usize>(against: [Against; N]) -> Options {
    Options {
        against: BTreeSet::from(against),
        ..Options::default()
    }
}

/// Ledger records of the lane as a gate writes them, with ten raw records each.
pub fn ledger_records(config: &Config, count: usize) -> Vec<Vec<u8>> {
    let lane = lane_of(&config.topics.raw, PARTITION);
    let mut head = Head::genesis(0);
    head.epoch = 1;
    let record = |number: usize| {
        let mut tally = Tally::default();
        for offset in number * 10..number * 10 + 10 {
            let value = format!("event {offset}");
            let outcome = match offset % 10 {
                3 => Outcome::Duplicate,
                7 => Outcome::Rejected(Reason::BadSignature),
                _ => Outcome::Clean,
            };
            let received = Received {
                partition: PARTITION,
                offset: offset as i64,
                appended_ms: 1_700_000_000_000 + offset as i64,
                key: None,
                value: value.as_bytes(),
                signature: SignatureHeaders::default(),
            };
            tally.add(&received, outcome);
        }
        let stamp = Stamp {
            worker: "gate-0",
            schema_rev: "0011223344556677",
            key_rev: 3,
        };
        head.append(&lane, &tally, number as i64 * 10 + 10, &stamp)
    };
    (0..count).map(record).collect()
}

/// Produces values to the lane's partition of a topic; a value's offset is its index.
pub fn produce(config: &Config, topic: &str, values: &[Vec<u8>]) {
    let mut producer = Producer::new(&Kafka::at(&config.kafka.brokers), topic, "none").expect("a producer");
    for value in values {
        let record = Record {
            value: Some(value.clone()),
            ..Record::default()
        };
        producer.send(&record, PARTITION);
    }
    producer.finish().expect("delivered");
}

/// Creates another topic with the same number of partitions; it is removed with the test's own.
pub async fn another_topic(config: &Config, name: &str) -> String {
    let topic = format!("{}{name}", config.databases.prefix);
    let kafka: AdminClient<DefaultClientContext> = config.kafka.client().create().expect("a client");
    let new = NewTopic::new(&topic, 3, TopicReplication::Fixed(1));
    kafka
        .create_topics([&new], &AdminOptions::new())
        .await
        .expect("asked")
        .remove(0)
        .expect("made");
    topic
}

/// Deletes a topic made by [`another_topic`].
pub async fn remove_topic(config: &Config, topic: &str) {
    let kafka: AdminClient<DefaultClientContext> = config.kafka.client().create().expect("a client");
    kafka
        .delete_topics(&[topic], &AdminOptions::new())
        .await
        .expect("asked")
        .remove(0)
        .expect("removed");
}
