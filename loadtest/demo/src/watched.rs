//! The watch's part of the demo: it processes the clean records while the gate writes them, and reports its findings.

use std::collections::BTreeMap;
use std::sync::Arc;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use jiff::SignedDuration;
use pulsegate::config::Config;
use pulsegate::io::postgres::DatabaseError;
use pulsegate::io::timescale::Analytics;
use pulsegate::roles::Failure;
use pulsegate::roles::verify::{Against, Options, verify};
use pulsegate::roles::watch::jobs::Jobs;
use pulsegate::roles::watch::{Problem, Watch, metrics_table};
use pulsegate::telemetry::health::Health;
use pulsegate::telemetry::metrics::Metrics;
use pulsegate_core::gate::keyring::Keyring;
use pulsegate_loadtest::fleet::incident::{Incident, Kind, METRIC};
use pulsegate_loadtest::kafka::{Kafka, Range, read_all, watermarks};
use rdkafka::Message as _;
use serde::Serialize;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval};

use crate::account::Account;
use crate::progress::{TICK, bar, unreachable};

/// End of each partition of the clean topic before the demo's fleet.
pub type Mark = Vec<(i32, i64)>;

/// Records stored and findings made of the demo's fleet.
#[derive(Debug, Serialize)]
pub struct Watched {
    /// Readings in the clean topic since the mark.
    readings: u64,
    /// Stored readings, by quality.
    stored: BTreeMap<String, i64>,
    /// Findings by kind: all stored ones, and those that notify an operator.
    findings: BTreeMap<String, [i64; 2]>,
    /// Incidents and their first findings.
    incidents: Vec<Answer>,
    audit: Audited,
    /// Seconds by which the watch finished after the gate.
    seconds: f64,
}

/// Result of verifying the audit log against itself and the ledger.
#[derive(Debug, Serialize)]
struct Audited {
    lanes: usize,
    entries: u64,
    checkpoints: u64,
    agrees: bool,
}

/// Incidents planted in the fleet.
pub struct Happened {
    pub incidents: Vec<Incident>,
    /// Start of the rollout, at midnight, in milliseconds since 1970.
    pub rollout_ms: i64,
}

/// An incident, and the first later finding about its device and metric; of a rollout, the one about its cohort.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    incident: Incident,
    found: Option<Found>,
}

#[derive(Clone, Debug, Serialize)]
struct Found {
    kind: String,
    reason: String,
    /// Delay in event time.
    delay_seconds: i64,
}

/// Returns the present ends of the clean topic.
pub fn mark(kafka: &Kafka, config: &Config) -> Result<Mark, Failure> {
    let ranges = watermarks(kafka, &config.topics.clean).map_err(unreachable)?;
    Ok(ranges.iter().map(|range| (range.partition, range.next)).collect())
}

/// A running watch.
pub struct Watching<'c> {
    config: &'c Config,
    watch: Watch,
}

impl<'c> Watching<'c> {
    /// Starts the watch.
    pub async fn start(config: &'c Config) -> Result<Self, Failure> {
        let health = Health::new(Watch::workers(config));
        let watch = Watch::start(config, health, Arc::new(Metrics::new())).await?;
        Ok(Self { config, watch })
    }

    /// Runs the watch until every clean record is stored, and collects its findings.
    pub async fn finish(
        self,
        kafka: Kafka,
        mark: Mark,
        happened: Happened,
        keyring: &Keyring,
    ) -> Result<Watched, Failure> {
        let Self { config, watch } = self;
        let begun = Instant::now();
        let clean = config.topics.clean.clone();
        let since = mark.clone();
        let read = spawn_blocking(move || read_clean(&kafka, &clean, &since))
            .await
            .map_err(unreachable)?;
        let (ends, readings) = read?;
        let account = Account::connect(&config.timescale_settings()).await?;
        store(config, watch, &account, &ends).await?;
        let seconds = begun.elapsed().as_secs_f64();
        // The watch runs these jobs itself every few seconds and every hour.
        let analytics = Analytics::connect(&config.timescale_settings()).await?;
        let table = metrics_table(config)?;
        let jobs = Jobs::new(analytics.clone(), table, config, Arc::new(Metrics::new()));
        jobs.gather().await?;
        jobs.judge_rollouts().await?;
        let stored = Stored {
            readings,
            seconds,
            audit: audit(config).await?,
        };
        analytics.close().await;
        let watched = ask(&account, &mark, stored, happened, keyring).await;
        account.close().await;
        watched
    }
}

/// Results of the watch's run, before its findings are collected.
struct Stored {
    readings: u64,
    seconds: f64,
    audit: Audited,
}

async fn audit(config: &Config) -> Result<Audited, Failure> {
    let options = Options {
        against: [Against::Database, Against::Ledger].into(),
        ..Options::default()
    };
    let report = verify(config, &options, &mut |_| {}).await.map_err(unreachable)?;
    Ok(Audited {
        lanes: report.lanes.len(),
        entries: report.lanes.iter().map(|lane| lane.entries).sum(),
        checkpoints: report.lanes.iter().map(|lane| lane.checkpoints).sum(),
        agrees: report.is_good(),
    })
}

/// Returns the offset after each partition's last record, and the number of readings since the mark.
fn read_clean(kafka: &Kafka, topic: &str, mark: &[(i32, i64)]) -> Result<(BTreeMap<i32, i64>, u64), Failure> {
    let first = |range: &Range| {
        mark.iter()
            .find(|(partition, _)| *partition == range.partition)
            .map_or(0, |(_, next)| *next)
    };
    let ranges: Vec<_> = watermarks(kafka, topic)
        .map_err(unreachable)?
        .into_iter()
        .map(|range| Range {
            first: first(&range).max(range.first),
            ..range
        })
        .collect();
    let (mut ends, mut readings) = (BTreeMap::new(), 0);
    let read = read_all(kafka, topic, &ranges, |message| {
        ends.insert(message.partition(), message.offset() + 1);
        let event: serde_json::Value =
            serde_json::from_slice(message.payload().unwrap_or_default()).unwrap_or_default();
        readings += event["readings"]
            .as_array()
            .map_or(0, |readings| readings.len() as u64);
        Ok(())
    });
    read.map_err(unreachable)?;
    Ok((ends, readings))
}

/// Waits until everything before `ends` is stored, and stops the watch.
async fn store(
    config: &Config,
    mut watch: Watch,
    account: &Account,
    ends: &BTreeMap<i32, i64>,
) -> Result<(), Failure> {
    let topic = &config.topics.clean;
    let behind = async || -> Result<u64, DatabaseError> {
        let stored: BTreeMap<i32, i64> = account.stored_until(topic).await?.into_iter().collect();
        let of = |(partition, end): (&i32, &i64)| (end - stored.get(partition).copied().unwrap_or(0)).max(0);
        Ok(ends.iter().map(of).sum::<i64>().unsigned_abs())
    };
    let all = behind().await?;
    let bar = bar("Watch, remaining", all);
    let mut tick = interval(TICK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            problem = watch.gave_up() => return Err(gave_up(&problem)),
        }
        let left = behind().await?;
        bar.set_position(all.saturating_sub(left));
        if left == 0 {
            break;
        }
    }
    bar.finish();
    watch.drain().await.map(drop).map_err(|problem| gave_up(&problem))
}

fn gave_up(problem: &Problem) -> Failure {
    Failure::Wrong(format!("the watch failed permanently: {problem}"))
}

async fn ask(
    account: &Account,
    mark: &[(i32, i64)],
    stored: Stored,
    happened: Happened,
    keyring: &Keyring,
) -> Result<Watched, Failure> {
    let Stored {
        readings,
        seconds,
        audit,
    } = stored;
    let Happened {
        incidents,
        rollout_ms,
    } = happened;
    let token = |incident: &Incident| {
        keyring
            .device_token(&incident.device)
            .map(|token| String::from_utf8_lossy(token).into_owned())
    };
    let asked: Vec<_> = incidents
        .iter()
        .filter_map(|incident| Some((token(incident)?, incident.began_ms)))
        .collect();
    let first = account.first_found(METRIC, &asked).await?;
    let regressions = account.regressions_of(METRIC, rollout_ms).await?;
    let answer = |incident: Incident| {
        let found = if incident.kind == Kind::BadFirmware {
            let found = regressions.first();
            found.map(|(reason, found_ms)| ("regression", reason, *found_ms))
        } else {
            let token = token(&incident);
            let found = first.iter().find(|found| Some(&found.device) == token.as_ref());
            found.map(|found| (found.kind.as_str(), &found.reason, found.time_ms))
        };
        let found = found.map(|(kind, reason, found_ms)| Found {
            kind: kind.to_owned(),
            reason: reason.clone(),
            delay_seconds: (found_ms - incident.began_ms) / 1_000,
        });
        Answer { incident, found }
    };
    let findings = account.findings_since(mark).await?;
    Ok(Watched {
        readings,
        stored: account.readings_since(mark).await?.into_iter().collect(),
        findings: findings
            .into_iter()
            .map(|(kind, all, told)| (kind, [all, told]))
            .collect(),
        incidents: incidents.into_iter().map(answer).collect(),
        audit,
        seconds,
    })
}

impl Watched {
    /// Whether the audit log agrees with itself and with the ledger.
    pub fn is_audited(&self) -> bool {
        self.audit.agrees
    }

    /// Whether the number of stored readings equals that of the clean topic.
    pub fn is_complete(&self) -> bool {
        self.stored.values().sum::<i64>().unsigned_abs() == self.readings
    }
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counted = |counts: &BTreeMap<String, i64>| {
            let counts: Vec<_> = counts
                .iter()
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            counts.join(", ")
        };
        writeln!(
            f,
            "The watch stored {} of {} readings, the last of them {:.1} s after the gate was done: {}.",
            self.stored.values().sum::<i64>(),
            self.readings,
            self.seconds,
            counted(&self.stored)
        )?;
        let findings: Vec<_> = self
            .findings
            .iter()
            .map(|(kind, [all, told])| format!("{kind} {all} ({told} notified)"))
            .collect();
        writeln!(
            f,
            "Findings by kind: {}.",
            if findings.is_empty() {
                "none".to_owned()
            } else {
                findings.join(", ")
            }
        )?;
        let Audited {
            lanes,
            entries,
            checkpoints,
            agrees,
        } = &self.audit;
        writeln!(
            f,
            "The audit log has {entries} entries in {lanes} lanes under {checkpoints} signed checkpoints, and {} with \
             itself and the ledger.",
            if *agrees { "agrees" } else { "disagrees" }
        )?;
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["incident", "devices", "found", "median delay", "finding"]);
        for kind in Kind::ALL {
            let of: Vec<_> = self
                .incidents
                .iter()
                .filter(|answer| answer.incident.kind == kind)
                .collect();
            let mut found: Vec<_> = of.iter().filter_map(|answer| answer.found.as_ref()).collect();
            found.sort_by_key(|found| found.delay_seconds);
            let middle = found.get(found.len() / 2);
            let delay = middle.map_or_else(
                || "–".to_owned(),
                |found| format!("{:#}", SignedDuration::from_secs(found.delay_seconds)),
            );
            let words = middle.map_or_else(
                || "–".to_owned(),
                |found| format!("{}: {}", found.kind, found.reason),
            );
            table.add_row([
                kind.as_str().to_owned(),
                of.len().to_string(),
                found.len().to_string(),
                delay,
                words,
            ]);
        }
        write!(f, "{table}")
    }
}
