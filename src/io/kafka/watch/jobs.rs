//! What has to be done now and then over the databases. Any number of watches may run these jobs: an advisory lock in the
//! database lets one at a time, so a job runs once wherever it runs.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{OnceCell, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::config::Config;
use crate::detect::reading::FleetMinute;
use crate::detect::regression;
use crate::io::timescale::{Analytics, JobRun, Kpi, Operations, Ran, TimescaleError};
use crate::telemetry::metrics::{Job, Metrics, Service};

/// How often minutes are rolled up.
const ROLLUP_INTERVAL: Duration = Duration::from_secs(20);
/// How often what is old is dropped.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3_600);
/// How often KPIs are computed, and how many minutes back: what comes late is counted late.
const KPI_INTERVAL: Duration = Duration::from_secs(60);
const KPI_MINUTES: i64 = 60;

/// How often rollouts are judged, how many days back, and after how many days: two of them have to be over.
const REGRESSION_INTERVAL: Duration = Duration::from_secs(3_600);
const ROLLOUT_DAYS: i64 = 7;
const ROLLOUT_OVER_DAYS: i64 = 2;
/// The devices of a rollout worth judging, and the most that are compared on either side.
const ROLLOUT_DEVICES_MIN: u32 = 20;
const ROLLOUT_DEVICES_MAX: u32 = 5_000;
const DAY_MS: i64 = 24 * 3_600_000;

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

    /// Runs them until the process stops. A job that is under way then is rolled back, and runs again elsewhere.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            _ = stopped.changed() => {}
            () = self.repeat() => {}
        }
        if let Some(operations) = self.operations.get() {
            operations.close().await;
        }
    }

    /// Runs each in its time, one after the other.
    async fn repeat(&self) {
        let every = |period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut rollup, mut retention) = (every(ROLLUP_INTERVAL), every(RETENTION_INTERVAL));
        let (mut kpis, mut regressions) = (every(KPI_INTERVAL), every(REGRESSION_INTERVAL));
        loop {
            tokio::select! {
                _ = rollup.tick() => self.one(Job::Rollup, self.sink.roll_up()).await,
                _ = kpis.tick() => self.one(Job::Kpis, self.count()).await,
                _ = regressions.tick() => self.one(Job::Regressions, self.judge_rollouts()).await,
                _ = retention.tick() => self.one(Job::Retention, self.drop_old()).await,
            }
        }
    }

    /// Computes the KPIs of the last minutes from the rollup, and stores them in the place of those that were there.
    async fn count(&self) -> Result<Ran, TimescaleError> {
        let now = Timestamp::now().as_second().div_euclid(60);
        let minutes = self.sink.fleet_minutes(now - KPI_MINUTES, now).await?;
        let kpis = kpis_of(&minutes);
        self.operations().await?.store_kpis(&kpis).await?;
        Ok(Ran::Done(kpis.len() as u64))
    }

    /// Judges the rollouts of the last days together. One that was judged before gives the same finding, which is stored
    /// once.
    ///
    /// # Errors
    /// [`TimescaleError`]; they are judged again by the next run.
    pub async fn judge_rollouts(&self) -> Result<Ran, TimescaleError> {
        let Some(_lock) = self.sink.lock(Job::Regressions.as_str()).await? else {
            return Ok(Ran::Elsewhere);
        };
        let today_ms = Timestamp::now().as_millisecond().div_euclid(DAY_MS) * DAY_MS;
        let (from_ms, until_ms) = (
            today_ms - ROLLOUT_DAYS * DAY_MS,
            today_ms - ROLLOUT_OVER_DAYS * DAY_MS,
        );
        let rollouts = self.sink.rollouts(from_ms, until_ms, ROLLOUT_DEVICES_MIN).await?;
        let mut judged = Vec::with_capacity(rollouts.len());
        for rollout in rollouts {
            let medians = self.sink.device_medians(&rollout, ROLLOUT_DEVICES_MAX).await?;
            judged.push((rollout, medians));
        }
        let found = regression::assess(&judged);
        self.sink.store_findings(&found).await?;
        Ok(Ran::Done(found.len() as u64))
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

/// Throughput and quality of each minute: how many readings there were, and which part of them was good.
fn kpis_of(minutes: &[FleetMinute]) -> Vec<Kpi> {
    let mut sums: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
    for minute in minutes {
        let (readings, good) = sums.entry(minute.minute).or_default();
        *readings += minute.readings;
        *good += minute.good;
    }
    let of = |(minute, (readings, good)): (i64, (u64, u64))| {
        let kpi = |name, value| Kpi {
            minute,
            name,
            label: String::new(),
            value,
            records: readings,
        };
        [
            kpi("readings", readings as f64),
            kpi("quality_rate", good as f64 / readings.max(1) as f64),
        ]
    };
    sums.into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_counted_over_all_cohorts_and_metrics() {
        let minute = |minute, metric: &str, readings, good| FleetMinute {
            minute,
            metric: metric.to_owned(),
            firmware: "1".to_owned(),
            model: "band".to_owned(),
            readings,
            good,
            total: 0.0,
        };
        let kpis = kpis_of(&[
            minute(7, "a", 30, 10),
            minute(7, "b", 10, 10),
            minute(8, "a", 5, 5),
        ]);
        let told: Vec<_> = kpis
            .iter()
            .map(|kpi| (kpi.minute, kpi.name, kpi.value, kpi.records))
            .collect();
        assert_eq!(
            told,
            [
                (7, "readings", 40.0, 40),
                (7, "quality_rate", 0.5, 40),
                (8, "readings", 5.0, 5),
                (8, "quality_rate", 1.0, 5)
            ]
        );
    }
}
