//! `cargo bench --bench audit`: the speed of writing the audit log, and of verifying all of it.
//!
//! - **append**: ledger records per second into one lane, each of which extends its Merkle tree;
//! - **verify**: raw records per second, recomputed from the raw, clean, deadletter and ledger topics and from the
//!   database, over the output of a real gate for a partly hostile fleet.
//!
//! Even without full optimisation (the dev profile) it was 54,000 and 30,000 per second, on two cores shared with the
//! servers.
//!
//! Each runs on topics and databases of its own on the running stack, which are removed afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use pulsegate::config::Config;
use pulsegate::io::audit::{AuditLog, LedgerBatch, LedgerRecord};
use pulsegate::io::topology;
use pulsegate::io::vault::registrar::Registrar;
use pulsegate::roles::gate::Gate;
use pulsegate::roles::gate::progress::Watcher;
use pulsegate::roles::gate::workers::Workers;
use pulsegate::roles::verify::{self, Against, Options, Report, VerifyError};
use pulsegate::roles::watch::Watch;
use pulsegate::telemetry::health::Health;
use pulsegate::telemetry::metrics::Metrics;
use pulsegate_ledger::entry::{Head, Stamp, Tally};
use pulsegate_ledger::log::lane_of;
use pulsegate_ledger::outcome::Outcome;
use pulsegate_ledger::record::{Received, SignatureHeaders};
use pulsegate_loadtest::fleet::{self, Fleet, Hostile};
use pulsegate_loadtest::kafka::Kafka;
use pulsegate_testkit::corner::{admin, in_a_corner};
use tokio::task::spawn_blocking;

/// The lane that is appended to, and the records per batch: as many as a lagging watch takes at once.
const LANE: i32 = 1;
const BATCH: usize = 1_000;
const DEVICES: u32 = 200;
/// How often progress is polled.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Parser)]
struct Args {
    /// Number of ledger records to append
    #[arg(long, default_value_t = 50_000)]
    entries: usize,
    /// Number of raw records to verify
    #[arg(long, default_value_t = 200_000)]
    records: u64,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(in_a_corner("append", move |corner| async move {
        topology::apply(&corner.config.topology_settings())
            .await
            .expect("applied");
        append(&corner.config, args.entries).await;
    }));
    runtime.block_on(in_a_corner("verify", move |mut corner| async move {
        let config = &mut corner.config;
        config.event.directory = pulsegate_testkit::root().join("schemas");
        config.watch.metrics_file = pulsegate_testkit::root().join("schemas/metrics.toml");
        config.watch.group.clone_from(&config.topics.clean);
        config.gate.group.clone_from(&config.topics.raw);
        topology::apply(&config.topology_settings())
            .await
            .expect("applied");
        audited(config, args.records).await;
        verify(config, args.records).await;
    }));
}

async fn append(config: &Config, entries: usize) {
    let log = AuditLog::connect(&config.audit_settings())
        .await
        .expect("connected");
    let ledger = ledger(config, entries);
    let mut claim = log.claim(LANE).await.expect("claimed");
    let begun = Instant::now();
    for (number, part) in ledger.chunks(BATCH).enumerate() {
        let first = number * BATCH;
        let records: Vec<_> = (first..)
            .zip(part)
            .map(|(offset, value)| LedgerRecord {
                offset: offset as i64,
                value,
            })
            .collect();
        let batch = LedgerBatch {
            partition: LANE,
            epoch: claim.epoch,
            expected: claim.next,
            next: (first + part.len()) as i64,
            records: &records,
        };
        let appended = log.append(&batch).await.expect("appended");
        assert_eq!((appended.entries, appended.alerts), (part.len(), 0));
        claim.next = Some(batch.next);
    }
    let rate = entries as f64 / begun.elapsed().as_secs_f64();
    let stored: i64 = sqlx::query_scalar("select count(*) from audit_entry where lane = $1")
        .bind(lane_of(&config.topics.raw, LANE))
        .fetch_one(&mut admin(config, "audit").await)
        .await
        .expect("counted");
    assert_eq!(stored, entries as i64, "each stored once");
    println!("append: {rate:.0} ledger records/s, {BATCH} per transaction");
    log.close().await;
}

/// The ledger of a lane as a gate writes it, with one raw record per ledger record.
fn ledger(config: &Config, records: usize) -> Vec<Vec<u8>> {
    let lane = lane_of(&config.topics.raw, LANE);
    let mut head = Head::genesis(0);
    head.epoch = 1;
    let stamp = Stamp {
        worker: "gate-0",
        schema_rev: "0011223344556677",
        key_rev: 3,
    };
    let record = |offset: i64| {
        let mut tally = Tally::default();
        let received = Received {
            partition: LANE,
            offset,
            appended_ms: 1_700_000_000_000 + offset,
            key: None,
            value: b"an event",
            signature: SignatureHeaders::default(),
        };
        tally.add(&received, Outcome::Clean);
        head.append(&lane, &tally, offset + 1, &stamp)
    };
    (0..records as i64).map(record).collect()
}

/// Sends a fleet's events through a gate, and its ledger into the audit log.
async fn audited(config: &Config, records: u64) {
    let mut fleet = Fleet::new(fleet::Options {
        devices: DEVICES,
        topic: config.topics.raw.clone(),
        hostile: Hostile::some(),
        ..fleet::Options::new(1)
    });
    let lines: Vec<_> = fleet.import_lines().collect();
    let registrar = Registrar::connect(&config.vault_settings())
        .await
        .expect("connected");
    let imported = registrar.import(&mut lines.join("\n").as_bytes()).await;
    imported.expect("imported");
    registrar.close().await;
    let kafka = Kafka::at(&config.kafka.brokers);
    let produced = spawn_blocking(move || fleet.produce(&kafka, records, &mut |_| {}));
    produced.await.expect("a thread").expect("produced");

    let health = Health::new(config.gate.workers);
    let gate = Gate::connect(config, false, health, Arc::new(Metrics::new()))
        .await
        .expect("connected");
    let watcher = Watcher::new(config).expect("a client");
    let workers = Workers::start(&gate).expect("started");
    while watcher.look().expect("an answer").behind > 0 {
        tokio::time::sleep(LOOK).await;
    }
    assert!(
        workers.drain(LOOK * 100).await.expect("no problem"),
        "drained in time"
    );
    gate.close().await;

    let watch = Watch::start(
        config,
        Health::new(Watch::workers(config)),
        Arc::new(Metrics::new()),
    )
    .await
    .expect("started");
    let lanes = config.topology.partitions.expect("set by the corner") as usize;
    // There is nothing to verify until the watch has created the key and the lanes.
    while !verified(config, [Against::Database, Against::Ledger])
        .await
        .is_ok_and(|report| is_complete(&report, lanes))
    {
        tokio::time::sleep(LOOK).await;
    }
    assert!(watch.drain().await.expect("no problem"), "drained in time");
}

/// Whether every lane is in the audit log with its whole ledger.
fn is_complete(report: &Report, lanes: usize) -> bool {
    let pending: Vec<_> = report
        .lanes
        .iter()
        .filter_map(|lane| lane.ledger_pending)
        .collect();
    pending.len() == lanes && pending.iter().all(|records| *records == 0)
}

async fn verify(config: &Config, records: u64) {
    let begun = Instant::now();
    let all = [Against::Raw, Against::Clean, Against::Ledger, Against::Database];
    let report = verified(config, all).await.expect("the stack answers");
    let seconds = begun.elapsed().as_secs_f64();
    let recomputed: u64 = report.lanes.iter().filter_map(|lane| lane.raw_records).sum();
    assert_eq!(recomputed, records, "every raw record is recomputed");
    println!(
        "verify: {:.0} raw records/s, from all topics and the database ({records} in {seconds:.1} s)",
        records as f64 / seconds
    );
}

async fn verified<const N: usize>(config: &Config, against: [Against; N]) -> Result<Report, VerifyError> {
    let options = Options {
        against: BTreeSet::from(against),
        ..Options::default()
    };
    let config = config.clone();
    // Verification blocks a runtime thread while it reads topics, which is allowed only in a task of its own.
    let verifying = tokio::spawn(async move { verify::verify(&config, &options, &mut |_| {}).await });
    let report = verifying.await.expect("a task")?;
    assert!(report.is_good(), "{:?}", report.problems);
    Ok(report)
}
