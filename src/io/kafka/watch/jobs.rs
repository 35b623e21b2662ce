//! What has to be done now and then over the databases. Any number of watches may run these jobs: an advisory lock in the
//! database lets one at a time, so a job runs once wherever it runs.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{OnceCell, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::config::Config;
use crate::io::timescale::{Analytics, JobRun, Operations, Ran, TimescaleError};
use crate::telemetry::metrics::{Job, Metrics, Service};

/// How often minutes are rolled up.
const ROLLUP_INTERVAL: Duration = Duration::from_secs(20);
/// How often what is old is dropped.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3_600);

/// The jobs of one process.
pub struct Jobs {
    sink: Analytics,
    config: Config,
    /// Connected when it is first needed: the jobs do their work without it, and nothing waits for it.
    operations: OnceCell<Operations>,
    metrics: Arc<Metrics>,
}

impl Jobs {
    /// Jobs over `sink`.
    #[must_use]
    pub fn new(sink: Analytics, config: &Config, metrics: Arc<Metrics>) -> Self {
        Self {
            sink,
            config: config.clone(),
            operations: OnceCell::new(),
            metrics,
        }
    }

    /// Runs them until the process stops.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let every = |period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut rollup, mut retention) = (every(ROLLUP_INTERVAL), every(RETENTION_INTERVAL));
        loop {
            // A job that is under way when the process stops is rolled back, and runs again elsewhere.
            tokio::select! {
                _ = stopped.changed() => break,
                _ = rollup.tick() => self.one(Job::Rollup, self.sink.roll_up()).await,
                _ = retention.tick() => self.one(Job::Retention, self.drop_old()).await,
            }
        }
        if let Some(operations) = self.operations.get() {
            operations.close().await;
        }
    }

    async fn drop_old(&self) -> Result<Ran, TimescaleError> {
        let ran = self.sink.drop_old().await?;
        let kpis = self.operations().await?.drop_old().await?;
        Ok(match ran {
            Ran::Done(rows) => Ran::Done(rows + kpis),
            Ran::Elsewhere => Ran::Elsewhere,
        })
    }

    /// Runs a job, and notes how it fared. One that failed is not tried again before its time: it does what is left then.
    async fn one(&self, job: Job, work: impl Future<Output = Result<Ran, TimescaleError>>) {
        let (started_ms, begun) = (Timestamp::now().as_millisecond(), Instant::now());
        let result = work.await;
        let took = begun.elapsed();
        let (rows, problem) = match &result {
            Ok(Ran::Done(rows)) => (*rows, None),
            Ok(Ran::Elsewhere) => {
                debug!(job = job.as_str(), "another process is at it");
                return;
            }
            Err(error) => (0, Some(error.to_string())),
        };
        self.metrics.watch.job(job, took, problem.is_some());
        if let Some(problem) = &problem {
            warn!(
                job = job.as_str(),
                problem, "a job failed; its next run does what is left"
            );
        }
        let run = JobRun {
            name: job.as_str(),
            started_ms,
            took_ms: i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
            rows,
            problem: problem.as_deref(),
        };
        let noted = async { self.operations().await?.job_ran(&run).await };
        if let Err(error) = noted.await {
            self.metrics.failed(Service::Operations);
            warn!(%error, "how a job fared was not noted");
        }
    }

    async fn operations(&self) -> Result<&Operations, TimescaleError> {
        self.operations
            .get_or_try_init(|| Operations::connect(&self.config))
            .await
    }
}
