//! The demo's steps: topology, fleet, gate and watch, oracle, report.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable as _};
use jiff::Timestamp;
use pulsegate::cli::{Context, print, print_json};
use pulsegate::config::Config;
use pulsegate::io::vault::registrar::Registrar;
use pulsegate::io::{kek, topology};
use pulsegate::roles::Failure;
use pulsegate::roles::gate::Gate;
use pulsegate::roles::gate::progress::{Progress, Watcher};
use pulsegate::roles::gate::workers::Workers;
use pulsegate::telemetry::health::Health;
use pulsegate::telemetry::metrics::Metrics;
use pulsegate_core::crypto::kek::Source;
use pulsegate_loadtest::fleet::{Fleet, Hostile, Made, Options, Profiles};
use pulsegate_loadtest::kafka::Kafka;
use pulsegate_loadtest::oracle::{self, Keys, Mark, Report};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::interval;

use crate::progress::{TICK, bar, unreachable};
use crate::watched::{self, Watched, Watching};

/// Number of devices with a planted incident, per kind.
const INCIDENTS: u32 = 10;
/// Milliseconds between events of a device: long enough for the records to span the six days that it takes to judge a
/// rollout, and below the ten minutes after which a gap prevents the finding of a stuck heart rate.
const STEP_MS: i64 = 590_000;
const DAY_MS: i64 = 24 * 3_600_000;
/// Last day whose rollouts the watch judges now, in days before today: the three days after it must be over.
const ROLLOUT_DAYS_AGO: i64 = 4;

/// Arguments of `pulsegate-demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Records to produce
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    records: u64,
    /// Devices in the fleet
    #[arg(long, default_value_t = 220, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    devices: u32,
    /// Generates the same fleet again; by default each run has a new one, of which nothing is stored yet
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the demo.
///
/// # Errors
///
/// `Wrong` if the oracle disagrees with the ledger; otherwise as the roles that the demo runs.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let mut config = context.config.clone();
    make_kek(&mut config)?;
    topology::apply(&config.topology_settings()).await?;
    let now = Timestamp::now();
    let rollout_ms = (now.as_millisecond().div_euclid(DAY_MS) - ROLLOUT_DAYS_AGO) * DAY_MS;
    let fleet = fleet(&args, &config, now, rollout_ms);
    let lines: Vec<_> = fleet.import_lines().collect();
    import(&config, &lines.join("\n")).await?;
    let gate = Gate::connect(
        &config,
        false,
        Health::new(config.gate.workers),
        Arc::new(Metrics::new()),
    )
    .await?;
    // Records left by an earlier run are not counted.
    run_gate(&gate, "Earlier records").await?;

    let (kafka, topics) = (Kafka::at(&config.kafka.brokers), oracle_topics(&config));
    let mark = Mark::take(&kafka, &topics).map_err(unreachable)?;
    let clean_mark = watched::mark(&kafka, &config)?;
    let (fleet, made) = produce(fleet, kafka.clone(), args.records).await?;
    let watching = Watching::start(&config).await?;
    let seconds = run_gate(&gate, "Gate and watch").await?;
    let keys = gate.services.vault.keys();
    gate.close().await;
    let happened = watched::Happened {
        incidents: fleet.incidents(),
        rollout_ms,
    };
    let watched = watching
        .finish(kafka.clone(), clean_mark, happened, keys.keyring())
        .await?;

    let mut oracle = oracle::Config::new(kafka);
    (oracle.topics, oracle.since, oracle.planted) = (topics, Some(mark), fleet.planted());
    oracle.environment.clone_from(&config.environment);
    let rate = config.gate.admit.rate;
    oracle.rules.rate = config.gate.admit.classes.is_empty().then(|| oracle::Rate {
        events_per_minute: rate.events_per_minute.get(),
        burst: rate.burst.get(),
    });
    let report = judge(oracle, lines).await?;
    tell(context, &made, &report, &watched, seconds)
}

/// Creates a KEK next to the logins if a local stack has none yet.
fn make_kek(config: &mut Config) -> Result<(), Failure> {
    let given = config.kek.source == Source::File || std::env::var_os(kek::VARIABLE).is_some();
    if given || config.environment != pulsegate_settings::LOCAL {
        return Ok(());
    }
    let file = config.databases.logins_directory.with_file_name("kek");
    let refused = |error: std::io::Error| Failure::Usage(format!("{}: {error}", file.display()));
    if !file.exists() {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut()).map_err(|error| Failure::Usage(error.to_string()))?;
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory).map_err(refused)?;
        }
        let mut created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&file)
            .map_err(refused)?;
        created.write_all(key.as_ref()).map_err(refused)?;
    }
    (config.kek.source, config.kek.file) = (Source::File, Some(file));
    Ok(())
}

async fn import(config: &Config, lines: &str) -> Result<(), Failure> {
    let registrar = Registrar::connect(&config.vault_settings()).await?;
    let imported = registrar.import(&mut lines.as_bytes()).await;
    registrar.close().await;
    imported
        .map(drop)
        .map_err(|error| Failure::Wrong(error.to_string()))
}

fn fleet(args: &Args, config: &Config, now: Timestamp, rollout_ms: i64) -> Fleet {
    let seed = args.seed.unwrap_or(now.as_second().unsigned_abs());
    Fleet::new(Options {
        devices: args.devices,
        environment: config.environment.clone(),
        topic: config.topics.raw.clone(),
        profiles: Profiles {
            ed25519: 0.1,
            webhook: 0.2,
        },
        hostile: Hostile::some(),
        incidents: INCIDENTS,
        rollout_ms: Some(rollout_ms),
        step_ms: STEP_MS,
        ..Options::new(seed)
    })
}

fn oracle_topics(config: &Config) -> oracle::Topics {
    let topics = config.topics.clone();
    oracle::Topics {
        raw: topics.raw,
        clean: topics.clean,
        deadletter: topics.deadletter,
        ledger: topics.ledger,
    }
}

async fn produce(mut fleet: Fleet, kafka: Kafka, records: u64) -> Result<(Fleet, Made), Failure> {
    let bar = bar("Fleet", records);
    let made = spawn_blocking(move || {
        let made = fleet.produce(&kafka, records, &mut |sent| bar.set_position(sent));
        bar.finish();
        made.map(|made| (fleet, made))
    });
    made.await.map_err(unreachable)?.map_err(unreachable)
}

/// Runs the workers until the group has committed everything. Returns the duration in seconds.
async fn run_gate(gate: &Arc<Gate>, what: &'static str) -> Result<f64, Failure> {
    let watcher = Arc::new(Watcher::new(&gate.config).map_err(unreachable)?);
    let look = || look(&watcher);
    let first = look().await?;
    if first.behind == 0 {
        return Ok(0.0);
    }
    let bar = bar(what, first.behind);
    let mut workers = Workers::start(gate).map_err(unreachable)?;
    let mut begun = None;
    let mut tick = interval(TICK);
    let gave_up =
        |error: &dyn std::fmt::Display| Failure::Wrong(format!("a worker failed permanently: {error}"));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            error = workers.gave_up() => return Err(gave_up(&error)),
        }
        let now = look().await?;
        // Joining the group and opening the lanes are not measured.
        if now.settled > first.settled {
            begun.get_or_insert_with(Instant::now);
        }
        bar.set_position(now.settled.saturating_sub(first.settled));
        if now.behind == 0 {
            break;
        }
    }
    bar.finish();
    let seconds = begun.map_or(0.0, |begun: Instant| begun.elapsed().as_secs_f64());
    let limit = Duration::from_millis(gate.config.gate.drain_timeout_ms);
    workers.drain(limit).await.map_err(|error| gave_up(&error))?;
    Ok(seconds)
}

/// Returns the group's progress.
async fn look(watcher: &Arc<Watcher>) -> Result<Progress, Failure> {
    let ask = || async {
        let watcher = Arc::clone(watcher);
        let looked = spawn_blocking(move || watcher.look()).await;
        looked.unwrap_or(Err(KafkaError::Canceled))
    };
    let patience = ExponentialBuilder::default()
        .with_min_delay(TICK)
        .with_max_times(7);
    ask.retry(patience)
        .when(has_no_coordinator)
        .await
        .map_err(unreachable)
}

/// Whether the groups have no coordinator yet, as for a moment after a broker was created.
fn has_no_coordinator(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(CoordinatorLoadInProgress | CoordinatorNotAvailable | NotCoordinator)
    )
}

async fn judge(oracle: oracle::Config, lines: Vec<String>) -> Result<Report, Failure> {
    let report = spawn_blocking(move || {
        let keys = Keys::read(lines.iter().map(String::as_str)).map_err(|error| error.to_string())?;
        let bar = bar("Oracle", 0);
        let report = oracle::verify(&oracle, &keys, &mut |progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        });
        bar.finish_and_clear();
        report.map_err(|error| error.to_string())
    });
    report.await.map_err(unreachable)?.map_err(Failure::Unreachable)
}

fn tell(
    context: &Context,
    made: &Made,
    report: &Report,
    watched: &Watched,
    seconds: f64,
) -> Result<(), Failure> {
    let rate = report.total.records as f64 / seconds.max(0.001);
    if context.json {
        print_json(
            &json!({ "made": made, "report": report, "seconds": seconds, "records_per_second": rate, "watch": watched }),
        )?;
    } else {
        let kinds: Vec<_> = made
            .kinds
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        print(&format!(
            "The fleet produced {} records: {}.\n",
            made.records,
            kinds.join(", ")
        ))?;
        print(&report.to_string())?;
        print(&format!(
            "The gate took {seconds:.1} s next to the watch: {rate:.0} records a second, all stages, exactly once.\n"
        ))?;
        print(&watched.to_string())?;
    }
    let wrong = |what: &str| Err(Failure::Wrong(what.to_owned()));
    if !report.is_good() {
        return wrong("the topics and the ledger disagree");
    }
    if !watched.is_complete() {
        return wrong("the clean topic and the analytics database disagree");
    }
    if !watched.is_audited() {
        return wrong("the audit log has discrepancies; run `pulsegate audit verify`");
    }
    Ok(())
}
