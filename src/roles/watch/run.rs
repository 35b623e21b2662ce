//! The watch of one process: connects to the databases, starts the workers, and stops them together.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use jiff::Timestamp;
use rdkafka::ClientConfig;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use super::clean::{CleanFeed, Knowledge};
use super::feed::Feed;
use super::jobs::Jobs;
use super::kpis::KpiFeed;
use super::ledger::LedgerFeed;
use super::log::Log;
use super::relay::Relay;
use super::worker::{Setup, Worker};
use crate::config::Config;
use crate::io::audit::{AuditError, AuditLog};
use crate::io::host;
use crate::io::kafka::consumer::Consumer;
use crate::io::postgres::DatabaseError;
use crate::io::registry::Registry;
use crate::io::schemas::Schemas;
use crate::io::timescale::{Analytics, Operations};
use crate::roles::Failure;
use crate::roles::assignments::AssignmentError;
use crate::roles::{clients as settings, topics};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{Metrics, Service};
use pulsegate_detect::lane::Rules;
use pulsegate_detect::quality::{Metrics as MetricsTable, TEXT_BYTES_MAX};

/// The longest pause between two attempts to connect.
const CONNECT_PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a batch of counts is gathered, in milliseconds: lanes add to the same few rows, and no minute is read
/// before it is over.
const KPI_BATCH_TIME_MS: u64 = 5_000;
/// How often the state of the connection pools is sampled.
const POOL_INTERVAL: Duration = Duration::from_secs(2);

/// Why the watch ended before it was drained.
#[derive(Debug, Error)]
pub enum Problem {
    /// A worker failed.
    #[error("a worker failed: {0}")]
    Worker(#[from] AssignmentError),
    /// A database cannot be used, and waiting does not help.
    #[error("{0}")]
    Database(String),
    /// The operating system cannot start a thread.
    #[error("failed to start a thread: {0}")]
    Thread(std::io::Error),
    /// A part of the watch panicked, which is a defect.
    #[error("a part of the watch panicked; this is a defect, please report it")]
    Panicked,
}

/// The running watch.
pub struct Watch {
    shared: Arc<Shared>,
    ended: mpsc::UnboundedReceiver<Result<(), Problem>>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// State shared by the watch's parts.
struct Shared {
    config: Config,
    watch: Arc<crate::config::watch::Config>,
    host: String,
    partitions: usize,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    stop: Arc<AtomicBool>,
    ended: mpsc::UnboundedSender<Result<(), Problem>>,
    stopped: watch::Receiver<bool>,
}

impl Watch {
    /// Number of workers of a watch with this configuration, for [`Health::new`].
    #[must_use]
    pub const fn workers(config: &Config) -> usize {
        config.watch.workers + 2
    }

    /// Reads schemas and metrics, checks the topics, and starts all parts. If a database does not answer, only its part
    /// waits for it.
    ///
    /// # Errors
    ///
    /// `Usage` when the configuration is invalid, `Unreachable` when Kafka does not answer, `Wrong` when a topic is
    /// missing or misconfigured.
    pub async fn start(config: &Config, health: Arc<Health>, metrics: Arc<Metrics>) -> Result<Self, Failure> {
        let partitions = topics::check(config).await?.get() as usize;
        let knowledge = knowledge(config)?;
        let (ended_tx, ended) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let host = host::name().unwrap_or_else(|| "watch".to_owned());
        let shared = Arc::new(Shared {
            watch: Arc::new(config.watch.clone()),
            config: config.clone(),
            host,
            partitions,
            health,
            metrics,
            stop: Arc::default(),
            ended: ended_tx,
            stopped,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(run_clean(Arc::clone(&shared), knowledge));
        tasks.spawn(run_ledger(Arc::clone(&shared)));
        tasks.spawn(run_kpis(Arc::clone(&shared)));
        Ok(Self {
            shared,
            ended,
            stop,
            tasks,
        })
    }

    /// Waits until a part fails with a problem or a panic. No part ends otherwise before the watch is drained.
    pub async fn gave_up(&mut self) -> Problem {
        tokio::select! {
            // A part reports its problem before it ends.
            biased;
            ended = self.ended.recv() => ended.and_then(Result::err).unwrap_or(Problem::Panicked),
            Some(_) = self.tasks.join_next() => Problem::Panicked,
        }
    }

    /// Stops the parts once everything that was read is stored. Returns false when that takes too long
    /// (`watch.drain_timeout_ms` and 2 s more).
    ///
    /// # Errors
    ///
    /// The first problem of a part.
    pub async fn drain(mut self) -> Result<bool, Problem> {
        let limit = Duration::from_millis(self.shared.watch.drain_timeout_ms) + Duration::from_secs(2);
        self.shared.stop.store(true, Ordering::Relaxed);
        // Tasks that wait for a database end on this signal, the others with their workers.
        let _ = self.stop.send(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let in_time = timeout(limit, all).await.is_ok();
        self.ended.close();
        while let Some(result) = self.ended.recv().await {
            result?;
        }
        Ok(in_time)
    }
}

/// Reads what does not change while the process runs: schemas, metrics, settings.
fn knowledge(config: &Config) -> Result<Knowledge, Failure> {
    let schemas = Schemas::read(&config.event)?;
    Ok(Knowledge {
        decoder: schemas.decoder(&config.event)?,
        registry: Registry::new(&config.registry)?,
        rules: Rules {
            lane: config.watch.lane.clone(),
            quality: config.watch.quality.clone(),
            alert: config.watch.alert.clone(),
            metrics: metrics_table(config)?,
        },
    })
}

/// Reads the descriptions of the metrics from the file `watch.metrics_file`.
///
/// # Errors
///
/// `Usage` when the file cannot be read or is invalid.
pub fn metrics_table(config: &Config) -> Result<MetricsTable, Failure> {
    let file = &config.watch.metrics_file;
    let refused = |what: String| Failure::Usage(format!("{} (watch.metrics_file): {what}", file.display()));
    let length = std::fs::metadata(file)
        .map_err(|error| refused(error.to_string()))?
        .len();
    if length > TEXT_BYTES_MAX as u64 {
        return Err(refused(format!("is larger than {TEXT_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
    MetricsTable::parse(&text).map_err(|error| refused(error.to_string()))
}

/// Runs the part of the clean topic, from the first connection to the end of its last worker.
async fn run_clean(shared: Arc<Shared>, knowledge: Knowledge) {
    let connect = || async { Analytics::connect(&shared.config.timescale_settings()).await };
    let passes = |error: &DatabaseError| matches!(error, DatabaseError::Unreachable { .. });
    let Some(sink) = shared.connected(Service::Analytics, connect, passes).await else {
        return;
    };
    shared.metrics.watch.edition(sink.edition());
    let Some(log) = shared.log(&shared.config.topics.clean) else {
        return;
    };
    let table = knowledge.rules.metrics.clone();
    let feed = Arc::new(CleanFeed::new(
        log,
        &shared.watch,
        knowledge,
        sink,
        Arc::clone(&shared.metrics),
        Handle::current(),
    ));
    let relay = Relay {
        sink: feed.sink().clone(),
        topic: shared.config.topics.findings.clone(),
        group: shared.watch.group.clone(),
        client: shared.config.kafka.client(),
        leads: feed.leads(),
        stopped: shared.stopped.clone(),
        metrics: Arc::clone(&shared.metrics),
    };
    let relay = match relay.start(Handle::current()) {
        Ok(relay) => relay,
        Err(error) => {
            let _ = shared.ended.send(Err(Problem::Thread(error)));
            return;
        }
    };
    let jobs = Jobs::new(
        feed.sink().clone(),
        table,
        &shared.config,
        Arc::clone(&shared.metrics),
    );
    let jobs = tokio::spawn(jobs.run(shared.stopped.clone(), Arc::clone(&shared.health)));
    let workers = 0..shared.watch.workers;
    let look = || shared.metrics.watch.analytics_pool(feed.sink().pool());
    shared.run(&feed, "analytics", workers, &shared.watch, look).await;
    // The relay stops on a signal of its own; what it leaves in the outbox is relayed after the next start.
    let _ = tokio::task::spawn_blocking(move || relay.join()).await;
    let _ = jobs.await;
    feed.sink().close().await;
}

/// Runs the part of the audit log.
async fn run_ledger(shared: Arc<Shared>) {
    let connect = || async { AuditLog::connect(&shared.config.audit_settings()).await };
    let passes =
        |error: &AuditError| matches!(error, AuditError::Database(DatabaseError::Unreachable { .. }));
    let Some(sink) = shared.connected(Service::Audit, connect, passes).await else {
        return;
    };
    let Some(log) = shared.log(&shared.config.topics.ledger) else {
        return;
    };
    let sink = Arc::new(sink);
    let feed = Arc::new(LedgerFeed::new(
        log,
        Arc::clone(&sink),
        Arc::clone(&shared.metrics),
    ));
    let signing = tokio::spawn(sign(Arc::clone(&shared), Arc::clone(&sink)));
    let worker = shared.watch.workers;
    let look = || shared.metrics.watch.audit_pool(sink.pool());
    shared
        .run(&feed, "audit", worker..worker + 1, &shared.watch, look)
        .await;
    signing.abort();
    sink.close().await;
}

/// Runs the part that counts the ledger for KPIs.
async fn run_kpis(shared: Arc<Shared>) {
    let connect = || async { Operations::connect(&shared.config.timescale_settings()).await };
    let passes = |error: &DatabaseError| matches!(error, DatabaseError::Unreachable { .. });
    let Some(sink) = shared.connected(Service::Operations, connect, passes).await else {
        return;
    };
    let Some(log) = shared.log(&shared.config.topics.ledger) else {
        return;
    };
    let feed = KpiFeed::new(log, sink.clone(), Arc::clone(&shared.metrics));
    let mut settings = crate::config::watch::Config::clone(&shared.watch);
    settings.batch.time_max_ms = KPI_BATCH_TIME_MS;
    let worker = shared.watch.workers + 1;
    let look = || shared.metrics.watch.operations_pool(sink.pool());
    shared
        .run(
            &Arc::new(feed),
            "operations",
            worker..worker + 1,
            &Arc::new(settings),
            look,
        )
        .await;
    sink.close().await;
}

/// Signs checkpoints periodically, also when no records arrive.
async fn sign(shared: Arc<Shared>, sink: Arc<AuditLog>) {
    let mut due = tokio::time::interval(Duration::from_millis(shared.config.audit.checkpoint_interval_ms));
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match sink.checkpoint(Timestamp::now()).await {
            Ok(signed) => shared.metrics.watch.checkpoints(signed),
            Err(error) => {
                shared.metrics.failed(Service::Audit);
                warn!(%error, "failed to sign checkpoints: retrying at the next interval");
            }
        }
    }
}

impl Shared {
    /// Connects to a database, retrying without limit. `None` when the process stops first, or retrying is useless.
    async fn connected<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
        &self,
        service: Service,
        connect: impl FnMut() -> F,
        passes: impl FnMut(&E) -> bool,
    ) -> Option<T> {
        let pauses = ExponentialBuilder::default()
            .with_max_delay(CONNECT_PAUSE_MAX)
            .without_max_times();
        let trying = connect.retry(pauses).when(passes).notify(|error, pause| {
            self.metrics.failed(service);
            warn!(%error, ?pause, "failed to connect to a database: retrying");
        });
        let mut stopped = self.stopped.clone();
        tokio::select! {
            connected = trying => match connected {
                Ok(connected) => Some(connected),
                Err(error) => {
                    let _ = self.ended.send(Err(Problem::Database(error.to_string())));
                    None
                }
            },
            _ = stopped.changed() => None,
        }
    }

    /// A view of a topic. `None` when librdkafka refuses the configuration, which is reported.
    fn log(&self, topic: &str) -> Option<Log> {
        match Log::new(&self.config.kafka.client(), topic) {
            Ok(log) => Some(log),
            Err(error) => {
                let problem = Problem::Worker(AssignmentError::from(error));
                let _ = self.ended.send(Err(problem));
                None
            }
        }
    }

    /// Runs the workers of one part until the last has ended.
    async fn run<F: Feed>(
        &self,
        feed: &Arc<F>,
        part: &str,
        workers: std::ops::Range<usize>,
        settings: &Arc<crate::config::watch::Config>,
        look: impl Fn(),
    ) {
        let (outbox, mut ended) = mpsc::unbounded_channel();
        for index in workers {
            let setup = Setup {
                feed: Arc::clone(feed),
                config: Arc::clone(settings),
                health: self.health.worker_of(index, F::LOG),
                partitions: self.partitions,
                tasks: Handle::current(),
            };
            let (client, topic) = (self.client(part, index), feed.topic().to_owned());
            let (stop, outbox) = (Arc::clone(&self.stop), outbox.clone());
            let run = move || {
                let work = || Worker::new(setup, Consumer::subscribe(&client, &topic)?).run(&stop);
                // Sending fails only when the process is ending.
                let _ = outbox.send(came_to(work));
            };
            let spawned = thread::Builder::new().name(format!("{part}-{index}")).spawn(run);
            let started = spawned.map(drop).map_err(Problem::Thread);
            if let Err(problem) = started {
                let _ = self.ended.send(Err(problem));
            }
        }
        drop(outbox);
        let mut due = tokio::time::interval(POOL_INTERVAL);
        loop {
            tokio::select! {
                _ = due.tick() => look(),
                result = ended.recv() => match result {
                    Some(result) => {
                        // Sending fails only when the process is ending.
                        let _ = self.ended.send(result);
                    }
                    None => break,
                },
            }
        }
        info!(part, "all workers of the part have ended");
    }

    /// Settings of one worker's consumer.
    fn client(&self, part: &str, index: usize) -> ClientConfig {
        let group = format!("{}-{part}", self.watch.group);
        let instance = if self.watch.instance.is_empty() {
            &self.host
        } else {
            &self.watch.instance
        };
        let id = format!("{group}-{instance}-{index}");
        let mut client = settings::consumer(&self.config.kafka.client(), &group, &id);
        // These topics end with transaction markers: only librdkafka can tell that no record follows the last one.
        client.set("enable.partition.eof", "true");
        client
    }
}

/// Runs a worker and reports a panic as a problem too: otherwise its lanes would stand still unnoticed.
fn came_to(work: impl FnOnce() -> Result<(), AssignmentError>) -> Result<(), Problem> {
    // Unwind-safe: only the lock of its health outlives the worker, and that tolerates a panic.
    let result = catch_unwind(AssertUnwindSafe(work)).map_err(|_| Problem::Panicked)?;
    result.map_err(Problem::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_worker_is_reported_as_a_problem() {
        assert!(matches!(came_to(|| panic!("a bug")), Err(Problem::Panicked)));
        assert!(came_to(|| Ok(())).is_ok());
    }
}
