//! `cargo bench --bench watch`: compares the watch with a plain `COPY … BINARY` of the same rows over one connection.
//!
//! - **throughput**: readings per second from the clean topic to visible rows (decoding, quality, detection, findings,
//!   COPY, offsets), in turns with the copy into an empty table of the same shape; the result is the ratio;
//! - **latency**: from a record's append to the visibility of its readings, at a steady rate. The first seconds, in
//!   which the watch joins its group and rebuilds its detectors, are excluded; jobs, checkpoints and snapshots are
//!   included.
//!
//! Both run on topics and databases of their own on the running stack, which are removed afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::TryStreamExt as _;
use pulsegate::config::Config;
use pulsegate::io::topology;
use pulsegate::roles::watch::Watch;
use pulsegate::telemetry::health::Health;
use pulsegate::telemetry::metrics::Metrics;
use pulsegate_loadtest::kafka::{Kafka, read_all, watermarks};
use pulsegate_testkit::corner::{admin, in_a_corner};
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};

/// Number of devices in the fleet, each with four series.
const DEVICES: u64 = 2_000;
/// Number of readings per event.
const READINGS: u64 = 4;
/// Number of partitions of each topic.
const PARTITIONS: u32 = 8;
/// How often the sink's position is polled.
const LOOK: Duration = Duration::from_millis(5);
/// Time span of a round's events, up to now: 400 minutes with one event of each device per minute. A detector scores a
/// series fully after 150 values; with fewer it mostly learns, which costs less.
const SPAN_MS: i64 = 400 * 60_000;

#[derive(Clone, Parser)]
struct Args {
    /// Events per round; each has four readings
    #[arg(long, default_value_t = 800_000)]
    events: u64,
    /// Number of rounds, of which the median is reported
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Readings per second while latency is measured
    #[arg(long, default_value_t = 5_000)]
    rate: u64,
    /// How long latency is measured, in seconds
    #[arg(long, default_value_t = 70)]
    seconds: u64,
    /// How long the same load runs before latency is measured, in seconds
    #[arg(long, default_value_t = 20)]
    warm_up: u64,
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
    runtime.block_on(in_a_corner("bench", move |mut corner| async move {
        corner.config.topology.partitions = Some(PARTITIONS);
        corner.config.event.directory = pulsegate_testkit::root().join("schemas");
        corner.config.watch.metrics_file = pulsegate_testkit::root().join("schemas/metrics.toml");
        corner.config.watch.group.clone_from(&corner.config.topics.clean);
        // Often enough that snapshots are part of the measurement.
        corner.config.watch.snapshot_interval_s = 30;
        topology::apply(&corner.config.topology_settings())
            .await
            .expect("applied");
        throughput(&args, &corner.config).await;
        latency(&args, &corner.config).await;
    }));
}

/// An event as the gate writes it: two tokens, four ciphertexts, four readings.
fn event(number: u64, at_ms: i64) -> Vec<u8> {
    let device = number % DEVICES;
    let round = number / DEVICES;
    let token = format!("{device:-<22}");
    let sealed = "AQAAAAFnR0Vx".repeat(5);
    let wave = ((round * 7 + device) % 11) as f64;
    let at = jiff::Timestamp::from_millisecond(at_ms)
        .expect("a time")
        .to_string();
    serde_json::to_vec(&json!({
        "event_id": "6f2f9f4e-6a52-4c39-8f53-1d7b61a6c001", "device_id": token,
        "subject": {"id": token, "name": sealed, "mrn": sealed, "birth_date": "1980", "email": sealed},
        "recorded_at": at, "firmware": "2.1.0", "model": "band-3", "note": sealed,
        "readings": [
            {"metric": "heart_rate", "value": 60.0 + wave, "unit": "/min"},
            {"metric": "spo2", "value": 97.0 - (wave / 4.0).floor(), "unit": "%"},
            {"metric": "respiratory_rate", "value": 14.0 + wave / 10.0, "unit": "/min"},
            {"metric": "skin_temperature", "value": 33.0 + wave / 20.0, "unit": "Cel"},
        ]
    }))
    .expect("JSON")
}

fn producer(config: &Config) -> BaseProducer {
    ClientConfig::new()
        .set("bootstrap.servers", &config.kafka.brokers)
        .set("linger.ms", "5")
        .create()
        .expect("a producer")
}

fn send(producer: &BaseProducer, topic: &str, number: u64, value: &[u8]) {
    let partition = i32::try_from(number % DEVICES % u64::from(PARTITIONS)).expect("few");
    let record = || {
        BaseRecord::<str, [u8]>::to(topic)
            .partition(partition)
            .payload(value)
    };
    while producer.send(record()).is_err() {
        producer.poll(Duration::from_millis(10));
    }
}

async fn start(config: &Config) -> Watch {
    Watch::start(
        config,
        Health::new(Watch::workers(config)),
        Arc::new(Metrics::new()),
    )
    .await
    .expect("started")
}

async fn positions(connection: &mut PgConnection) -> BTreeMap<i32, i64> {
    let rows = connection
        .fetch_all("select partition, next from sink_offset where next is not null")
        .await
        .expect("readable");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Measures the watch and the copy, in turns.
async fn throughput(args: &Args, config: &Config) {
    let kafka = producer(config);
    let begin = jiff::Timestamp::now().as_millisecond() - SPAN_MS;
    let step = SPAN_MS as f64 / args.events as f64;
    for number in 0..args.events {
        let at_ms = begin + (number as f64 * step) as i64;
        send(&kafka, &config.topics.clean, number, &event(number, at_ms));
    }
    kafka.flush(Duration::from_secs(60)).expect("delivered");
    let mut connection = admin(config, "analytics").await;
    let mut ratios = Vec::new();
    for round in 1..=args.rounds {
        let watch = stored_rate(args, config, &mut connection).await;
        let copy = copy_rate(&mut connection).await;
        println!(
            "round {round}: watch {watch:.0} readings/s, copy {copy:.0} rows/s, ratio {:.2}",
            watch / copy
        );
        ratios.push(watch / copy);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "throughput: median ratio {:.2} (goal: at least 0.50)",
        ratios[ratios.len() / 2]
    );
}

/// Readings per second from the first visible batch to the last.
async fn stored_rate(args: &Args, config: &Config, connection: &mut PgConnection) -> f64 {
    let empty =
        "truncate readings, findings, device_version, sink_offset, detector_snapshot, outbox, rollup_due";
    connection.execute(empty).await.expect("emptied");
    let watch = start(config).await;
    let mut first = None;
    let (from, to) = loop {
        let stored: i64 = positions(connection).await.values().sum();
        if stored > 0 {
            first.get_or_insert((stored, Instant::now()));
        }
        match first {
            Some(first) if stored >= args.events.cast_signed() => break (first, (stored, Instant::now())),
            _ => tokio::time::sleep(LOOK).await,
        }
    };
    assert!(watch.drain().await.expect("no problem"), "drained in time");
    let rows: i64 = sqlx::query_scalar("select count(*) from readings")
        .fetch_one(&mut *connection)
        .await
        .expect("counted");
    assert_eq!(rows.cast_unsigned(), args.events * READINGS, "every reading once");
    (to.0 - from.0) as f64 * READINGS as f64 / (to.1 - from.1).as_secs_f64()
}

/// Rows per second of a copy from memory into a table of the same shape: nothing is read, decoded or judged.
async fn copy_rate(connection: &mut PgConnection) -> f64 {
    let make = "drop table if exists reference; create table reference (like readings);
        select create_hypertable('reference', by_range('time', interval '1 hour'), create_default_indexes => false);
        create index on reference (device, metric, time desc);
        create index on reference using brin (time) with (pages_per_range = 32, autosummarize = on)";
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(make.to_owned())))
        .await
        .expect("made");
    let rows = {
        let copied = connection
            .copy_out_raw("copy (select * from readings order by origin_offset) to stdout (format binary)")
            .await
            .expect("copied out");
        copied.try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        })
    };
    let rows = rows.await.expect("copied out");
    let begun = Instant::now();
    let mut into = connection
        .copy_in_raw("copy reference from stdin (format binary)")
        .await
        .expect("begun");
    for piece in rows.chunks(1 << 20) {
        into.send(piece).await.expect("sent");
    }
    let copied = into.finish().await.expect("copied");
    let took = begun.elapsed().as_secs_f64();
    connection.execute("drop table reference").await.expect("dropped");
    copied as f64 / took
}

/// Measures latency at a steady rate.
async fn latency(args: &Args, config: &Config) {
    let watch = start(config).await;
    let mut connection = admin(config, "analytics").await;
    let kafka = Kafka::at(&config.kafka.brokers);
    let ends = watermarks(&kafka, &config.topics.clean).expect("the topic exists");
    let events = args.rate / READINGS * (args.warm_up + args.seconds);
    let measured_from_ms = jiff::Timestamp::now().as_millisecond() + (args.warm_up * 1_000).cast_signed();
    let pause = Duration::from_secs_f64(READINGS as f64 / args.rate as f64);
    let (config_of, topic) = (config.clone(), config.topics.clean.clone());
    let sending = tokio::task::spawn_blocking(move || {
        let producer = producer(&config_of);
        let begun = Instant::now();
        for number in 0..events {
            let due = pause * u32::try_from(number).expect("few");
            // Blocking sleep is fine here: this thread only generates load by the clock.
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            let at_ms = jiff::Timestamp::now().as_millisecond();
            send(&producer, &topic, number, &event(number, at_ms));
            producer.poll(Duration::ZERO);
        }
        producer.flush(Duration::from_secs(60)).expect("delivered");
    });
    let before: i64 = ends.iter().map(|range| range.next).sum();
    let mut seen: Vec<(i64, BTreeMap<i32, i64>)> = Vec::new();
    loop {
        let now = positions(&mut connection).await;
        let stored: i64 = now.values().sum();
        seen.push((jiff::Timestamp::now().as_millisecond(), now));
        if stored >= before + events.cast_signed() {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    sending.await.expect("sent");
    assert!(watch.drain().await.expect("no problem"), "drained in time");
    let mut delays = Vec::new();
    let now = watermarks(&kafka, &config.topics.clean).expect("the topic exists");
    let ranges: Vec<_> = now
        .into_iter()
        .zip(&ends)
        .map(|(range, end)| pulsegate_loadtest::kafka::Range {
            first: end.next,
            ..range
        })
        .collect();
    let mut at = BTreeMap::new();
    let mut start_max_ms = 0;
    read_all(&kafka, &config.topics.clean, &ranges, |message| {
        let appended_ms = message.timestamp().to_millis().unwrap_or_default();
        let from = at.entry(message.partition()).or_insert(0_usize);
        let visible = |(_, next): &(i64, BTreeMap<i32, i64>)| {
            next.get(&message.partition())
                .is_some_and(|next| *next > message.offset())
        };
        if let Some(found) = seen[*from..].iter().position(visible) {
            *from += found;
            let delay_ms = seen[*from].0 - appended_ms;
            if appended_ms >= measured_from_ms {
                delays.push(delay_ms);
            } else {
                start_max_ms = start_max_ms.max(delay_ms);
            }
        }
        Ok(())
    })
    .expect("readable");
    delays.sort_unstable();
    let quantile = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    println!(
        "latency at {} readings/s over {} events: p50 {} ms, p99 {} ms, max {} ms (goal: p99 at most 1000 ms); max \
         during warm-up {start_max_ms} ms",
        args.rate,
        delays.len(),
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
}
