//! `cargo bench --bench sink`: compares the sink with a plain `COPY … BINARY` of the same rows in the same batches,
//! over one connection each, in turns within one run. The copy sends bytes encoded in advance, into a table with the
//! same indexes, and commits each batch; the sink encodes the rows and advances its offset in the same transaction.

use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use futures_util::TryStreamExt as _;
use pulsegate::config::Config;
use pulsegate::io::timescale::{Analytics, Batch, Claim, Metric, Name, Reading, Token, Version};
use pulsegate::io::topology;
use pulsegate_testkit::corner::{admin, in_a_corner};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

/// Number of devices in the fleet; each has four series.
const DEVICES: usize = 10_000;
const METRICS: [(&str, &str); 4] = [
    ("heart_rate", "/min"),
    ("spo2", "%"),
    ("respiratory_rate", "/min"),
    ("skin_temperature", "Cel"),
];
/// Time span of the rows, up to now, in milliseconds.
const SPAN_MS: usize = 3 * 3_600_000;
const TOPIC: &str = "biometrics.clean";
/// Required ratio sink ÷ copy.
const WANTED: f64 = 0.8;

#[derive(Parser)]
struct Args {
    /// Readings per round
    #[arg(long, default_value_t = 500_000)]
    readings: usize,
    /// Readings per batch
    #[arg(long, default_value_t = 10_000)]
    batch: usize,
    /// Number of rounds, of which the median is reported
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(in_a_corner("sink", move |mut corner| async move {
        corner.config.timescale.connections_min = 1;
        corner.config.timescale.connections_max = 1;
        topology::apply(&corner.config.topology_settings())
            .await
            .expect("applied");
        compare(&args, &corner.config).await;
    }));
}

async fn compare(args: &Args, config: &Config) {
    let analytics = Analytics::connect(&config.timescale_settings())
        .await
        .expect("connected");
    let mut connection = admin(config, "analytics").await;
    let readings = fleet(args.readings);
    // The first turn warms up the server and writes the rows that the copy sends.
    sink(args, &analytics, &mut connection, &readings).await;
    let batches = copy_out(args, &mut connection).await;
    let mut ratios = Vec::new();
    for round in 1..=args.rounds {
        let copy = copy(args, &mut connection, &batches).await;
        let sink = sink(args, &analytics, &mut connection, &readings).await;
        println!(
            "round {round}: sink {sink:.0} rows/s, copy {copy:.0} rows/s, ratio {:.2}",
            sink / copy
        );
        ratios.push(sink / copy);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("sink: median ratio {median:.2} (goal: at least {WANTED:.2})");
}

fn fleet(count: usize) -> Vec<Reading> {
    let now = jiff::Timestamp::now().as_millisecond();
    let name = |text| Name::new(text);
    let metrics = METRICS.map(|(metric, unit)| {
        Arc::new(Metric {
            name: name(metric),
            unit: name(unit),
        })
    });
    let version = Arc::new(Version {
        firmware: name("2.1.0"),
        model: name("band-3"),
    });
    let reading = |n: usize| Reading {
        time_ms: now - (SPAN_MS - n * SPAN_MS / count) as i64,
        append_ms: now,
        device: Token::new(format!("{:-<22}", n / METRICS.len() % DEVICES).as_bytes())
            .expect("characters of base64url"),
        metric: Arc::clone(&metrics[n % METRICS.len()]),
        version: Arc::clone(&version),
        value: 60.0 + (n % 40) as f64,
        quality: 0,
        partition: 0,
        offset: (n / METRICS.len()) as i64,
        index: (n % METRICS.len()) as u32,
    };
    (0..count).map(reading).collect()
}

/// Rows per second through the sink, into empty tables.
async fn sink(
    args: &Args,
    analytics: &Analytics,
    connection: &mut PgConnection,
    readings: &[Reading],
) -> f64 {
    let empty = "truncate readings, sink_offset, rollup_due";
    connection.execute(empty).await.expect("emptied");
    let mut claim = analytics.claim(TOPIC, 0).await.expect("claimed");
    let begun = Instant::now();
    for some in readings.chunks(args.batch) {
        let next = claim.next.unwrap_or(0) + some.len() as i64;
        let batch = Batch {
            topic: TOPIC,
            partition: 0,
            epoch: claim.epoch,
            expected: claim.next,
            next,
            readings: some,
            findings: &[],
            devices: &[],
            snapshot: None,
        };
        analytics.write(&batch).await.expect("written");
        claim = Claim {
            next: Some(next),
            ..claim
        };
    }
    readings.len() as f64 / begun.elapsed().as_secs_f64()
}

/// The rows of each batch, encoded by the server.
async fn copy_out(args: &Args, connection: &mut PgConnection) -> Vec<Vec<u8>> {
    let records = args.batch / METRICS.len();
    let mut batches = Vec::new();
    for first in (0..args.readings / METRICS.len()).step_by(records) {
        let query = format!(
            "copy (select * from readings where origin_offset >= {first} and origin_offset < {}
                   order by origin_offset, origin_index) to stdout (format binary)",
            first + records
        );
        let pieces = connection.copy_out_raw(&query).await.expect("begun");
        let all = pieces.try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        });
        batches.push(all.await.expect("copied out"));
    }
    batches
}

/// Rows per second of the plain copy, into an empty table.
async fn copy(args: &Args, connection: &mut PgConnection, batches: &[Vec<u8>]) -> f64 {
    let make = "create table reference (like readings);
        select create_hypertable('reference', by_range('time', interval '1 hour'), create_default_indexes => false);
        create index on reference (device, metric, time desc);
        create index on reference using brin (time) with (pages_per_range = 32, autosummarize = on)";
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(make.to_owned())))
        .await
        .expect("made");
    let begun = Instant::now();
    let mut rows = 0;
    for batch in batches {
        let mut into = connection
            .copy_in_raw("copy reference from stdin (format binary)")
            .await
            .expect("begun");
        // Sent in pieces like the sink's, so that the server stores one while the next is in transit.
        for piece in batch.chunks(256 << 10) {
            into.send(piece).await.expect("sent");
        }
        rows += into.finish().await.expect("copied");
    }
    let took = begun.elapsed().as_secs_f64();
    connection.execute("drop table reference").await.expect("dropped");
    assert_eq!(rows, args.readings as u64, "the same rows");
    rows as f64 / took
}
