//! Periodic jobs over the databases. Any number of watches may run them: an advisory lock in the database admits one at
//! a time, so a job never runs in two processes at once.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::io::postgres::DatabaseError;
use crate::io::timescale::{Analytics, JobLock, JobRun, Operations, Ran};
use crate::telemetry::health::{Health, Log};
use crate::telemetry::metrics::{Job, Metrics, Service};
use pulsegate_detect::finding::Finding;
use pulsegate_detect::quality::Metrics as MetricsTable;
use pulsegate_detect::reading::{DeviceMedian, Rollout};
use pulsegate_detect::regression::comparison::{DEVICES_MAX, DEVICES_MIN, is_comparable};
use pulsegate_detect::regression::schedule::{
    CATCH_UP_INTERVAL, ROLLOUT_INTERVAL, ROLLOUT_LAG_SECONDS_MAX, SHIFT_INTERVAL, SHIFT_LAG_SECONDS_MAX,
    kpis_computed, rollouts_judged, shifts_judged,
};
use pulsegate_detect::{kpi, regression};

/// How often minutes are rolled up.
const ROLLUP_INTERVAL: Duration = Duration::from_secs(20);
/// How often findings of devices that show the same at once are grouped: often enough that each finding is considered
/// before it notifies anyone.
const GROUPS_INTERVAL: Duration = Duration::from_secs(2);
/// How often expired data is deleted.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3_600);
/// How often KPIs are computed.
const KPI_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of cohorts (firmware, model, metric) that are checked, the largest first.
const COHORTS_MAX: u32 = 500;
const MINUTE_MS: i64 = 60_000;

/// The jobs of one process.
pub struct Jobs {
    sink: Analytics,
    /// Descriptions of the metrics.
    table: MetricsTable,
    config: Config,
    /// Connected when it is first needed: jobs over the analytics database alone do their work without it.
    operations: OnceCell<Operations>,
    metrics: Arc<Metrics>,
}

impl Jobs {
    /// Creates the jobs over `sink`.
    #[must_use]
    pub fn new(sink: Analytics, table: MetricsTable, config: &Config, metrics: Arc<Metrics>) -> Self {
        Self {
            sink,
            table,
            config: config.clone(),
            operations: OnceCell::new(),
            metrics,
        }
    }

    /// Runs the jobs until the process stops. A job under way then is rolled back, and runs again in another process.
    pub async fn run(self, mut stopped: watch::Receiver<bool>, health: Arc<Health>) {
        tokio::select! {
            _ = stopped.changed() => {}
            () = self.gather_regularly() => {}
            () = self.keep_up() => {}
            () = self.look_back(&health) => {}
            () = self.compare(&health) => {}
        }
        if let Some(operations) = self.operations.get() {
            operations.close().await;
        }
    }

    /// Runs the job that has to be done before findings notify people.
    async fn gather_regularly(&self) {
        let mut groups = every(GROUPS_INTERVAL);
        loop {
            groups.tick().await;
            self.one(Job::Groups, self.gather()).await;
        }
    }

    /// Runs the jobs that dashboards wait for, which are short.
    async fn keep_up(&self) {
        let (mut rollup, mut kpis) = (every(ROLLUP_INTERVAL), every(KPI_INTERVAL));
        loop {
            tokio::select! {
                _ = rollup.tick() => self.one(Job::Rollup, self.sink.roll_up()).await,
                _ = kpis.tick() => self.one(Job::Kpis, self.count()).await,
            }
        }
    }

    /// Runs the jobs over whole days, which may take longer. A process that lags behind does not judge shifts: a minute
    /// that is not counted yet looks like one without records.
    async fn look_back(&self, health: &Health) {
        let (mut retention, mut shifts) = (every(RETENTION_INTERVAL), every(SHIFT_INTERVAL));
        shifts.reset();
        loop {
            tokio::select! {
                _ = shifts.tick() => if is_behind(health) {
                    info!("the watch lags behind: shifts are not judged until it has caught up");
                    shifts.reset_after(CATCH_UP_INTERVAL);
                } else {
                    self.one(Job::Shifts, self.judge_shifts(Timestamp::now())).await;
                },
                _ = retention.tick() => self.one(Job::Retention, self.drop_old()).await,
            }
        }
    }

    /// Runs the job over all readings of several days, which may take hours. An hour is measured only once, hence not
    /// by a process that lags behind, or that has no lanes to tell its lag from.
    async fn compare(&self, health: &Health) {
        let mut regressions = every(ROLLOUT_INTERVAL);
        loop {
            regressions.tick().await;
            if health.is_behind(Log::Clean, ROLLOUT_LAG_SECONDS_MAX) {
                info!("the watch lags behind: rollouts are not judged until it has caught up");
                regressions.reset_after(CATCH_UP_INTERVAL);
            } else {
                self.one(Job::Regressions, self.judge_rollouts()).await;
            }
        }
    }

    /// Makes one finding of the findings of devices that show the same at once.
    ///
    /// # Errors
    /// [`DatabaseError`]; the next run does it, and findings that are due meanwhile notify on their own.
    pub async fn gather(&self) -> Result<Ran, DatabaseError> {
        let Some(new) = self.sink.gather(&self.config.watch.groups).await? else {
            return Ok(Ran::Elsewhere);
        };
        self.metrics.watch.found(&new);
        Ok(Ran::Done(new.len() as u64))
    }

    /// Computes the KPIs of what was settled since the last run, and from the rollup those of readings, from an hour
    /// before the newest minute that has them. They replace the stored ones.
    async fn count(&self) -> Result<Ran, DatabaseError> {
        let operations = self.operations().await?;
        let settled = operations.compute_kpis().await?;
        let now = minute_of(Timestamp::now());
        let minutes = kpis_computed(operations.newest(kpi::READINGS).await?, now);
        let minutes = self.sink.fleet_minutes(minutes.start, minutes.end).await?;
        let kpis = kpi::of_readings(&minutes);
        operations.store_kpis(&kpis).await?;
        Ok(Ran::Done(settled + kpis.len() as u64))
    }

    /// Looks for shifts of the pipeline's KPIs and of cohorts, among the minutes before `now` that ended long enough
    /// ago not to be recomputed. A shift that several runs find is stored once. While KPIs of these minutes are still
    /// to be computed, the run is skipped.
    ///
    /// # Errors
    /// [`DatabaseError`]; the next run finds what this one has not stored.
    pub async fn judge_shifts(&self, now: Timestamp) -> Result<Ran, DatabaseError> {
        let Some(_lock) = self.sink.lock(Job::Shifts.as_str()).await? else {
            return Ok(Ran::Elsewhere);
        };
        let Range {
            start: from,
            end: until,
        } = shifts_judged(minute_of(now));
        let operations = self.operations().await?;
        if operations.is_due(until).await? {
            info!("KPIs are still to be computed: shifts are judged by the next run");
            return Ok(Ran::Done(0));
        }
        let kpis = operations.kpis(from, until).await?;
        let windows = self.sink.cohort_windows(from, until, COHORTS_MAX).await?;
        let unit = |name: &str| {
            let index = self.table.find(name)?;
            self.table
                .get(index)
                .map(|described| described.metric.unit.as_str())
        };
        let mut found = regression::shifts(&regression::pipeline(kpis, until));
        found.extend(regression::shifts(&regression::cohorts(&windows, unit)));
        let known = self.sink.known_shifts(from * MINUTE_MS).await?;
        self.store(regression::news(found, known)).await
    }

    async fn store(&self, found: Vec<Finding>) -> Result<Ran, DatabaseError> {
        let new = self.sink.store_findings(found).await?;
        self.metrics.watch.found(&new);
        Ok(Ran::Done(new.len() as u64))
    }

    /// Measures the hours of recent rollouts that are not measured yet, and judges the rollouts together. One that was
    /// judged before gives the same finding, which is stored once.
    ///
    /// # Errors
    /// [`DatabaseError`]; the next run measures the remaining hours, and judges the rollouts again.
    pub async fn judge_rollouts(&self) -> Result<Ran, DatabaseError> {
        let Some(mut lock) = self.sink.lock(Job::Regressions.as_str()).await? else {
            return Ok(Ran::Elsewhere);
        };
        let began = rollouts_judged(Timestamp::now().as_millisecond());
        let rollouts = self.sink.rollouts(began.start, began.end, DEVICES_MIN).await?;
        let (mut judged, mut failed) = (Vec::with_capacity(rollouts.len()), None);
        for rollout in rollouts {
            // A rollout that is too much for the database must not hide the others.
            match self.device_medians(&rollout, &mut lock).await {
                Ok(Some(medians)) => judged.push((rollout, medians)),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        let ran = self.store(regression::assess(&judged)).await?;
        failed.map_or(Ok(ran), Err)
    }

    /// The medians of a rollout, after measuring its hours that are not measured yet. `None` if there are too few
    /// devices to compare, as with a firmware that all devices have: no hour of it is worth measuring.
    async fn device_medians(
        &self,
        rollout: &Rollout,
        lock: &mut JobLock,
    ) -> Result<Option<Vec<DeviceMedian>>, DatabaseError> {
        lock.keep().await?;
        let chosen = self.sink.choose_devices(rollout, DEVICES_MAX).await?;
        if !is_comparable(chosen.treated, chosen.controls) {
            return Ok(None);
        }
        for hour in self.sink.hours_left(&chosen).await? {
            lock.keep().await?;
            self.sink.measure_hour(&chosen, hour).await?;
        }
        lock.keep().await?;
        self.sink.device_medians(&chosen).await.map(Some)
    }

    async fn drop_old(&self) -> Result<Ran, DatabaseError> {
        let ran = self.sink.drop_old().await?;
        let kpis = self.operations().await?.drop_old().await?;
        Ok(match ran {
            Ran::Done(rows) => Ran::Done(rows + kpis),
            Ran::Elsewhere => Ran::Elsewhere,
        })
    }

    /// Runs a job and stores its result. A failed job is not retried early: its next run does what is left.
    async fn one(&self, job: Job, work: impl Future<Output = Result<Ran, DatabaseError>>) {
        let (started_ms, begun) = (Timestamp::now().as_millisecond(), Instant::now());
        let result = work.await;
        let took = begun.elapsed();
        let (rows, problem) = match &result {
            Ok(Ran::Done(rows)) => (*rows, None),
            Ok(Ran::Elsewhere) => {
                debug!(job = job.as_str(), "job skipped: another process is running it");
                return;
            }
            Err(error) => (0, Some(error.to_string())),
        };
        self.metrics.watch.job(job, took, problem.is_some());
        if let Some(problem) = &problem {
            warn!(
                job = job.as_str(),
                problem, "job failed: its next run does what is left"
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
            warn!(%error, "failed to store the result of a job");
        }
    }

    async fn operations(&self) -> Result<&Operations, DatabaseError> {
        self.operations
            .get_or_try_init(async || Operations::connect(&self.config.timescale_settings()).await)
            .await
    }
}

/// Ticks at once and then every `period`; after a late tick the period starts anew.
fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Whether minutes that shifts are judged by may not be counted yet.
fn is_behind(health: &Health) -> bool {
    [Log::Clean, Log::Kpis]
        .into_iter()
        .any(|log| health.is_behind(log, SHIFT_LAG_SECONDS_MAX))
}

fn minute_of(time: Timestamp) -> i64 {
    time.as_second().div_euclid(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_wait_for_both_logs() {
        let health = Health::new(2);
        let (clean, kpis) = (health.worker_of(0, Log::Clean), health.worker_of(1, Log::Kpis));
        for worker in [&clean, &kpis] {
            assert!(is_behind(&health), "one of them has not reported yet");
            worker.assigned(0);
            worker.release(0);
            worker.lag(0, 0, 0);
        }
        assert!(!is_behind(&health));
        let ago_ms = |minutes: i64| Timestamp::now().as_millisecond() - minutes * MINUTE_MS;
        for worker in [&clean, &kpis] {
            worker.assigned(0);
            worker.release(0);
            worker.lag(0, 9, ago_ms(25));
            assert!(!is_behind(&health));
            worker.lag(0, 9, ago_ms(35));
            assert!(is_behind(&health));
            worker.lag(0, 9, ago_ms(25));
            worker.hold(0, crate::telemetry::health::HoldCause::Database);
            assert!(is_behind(&health));
            worker.release(0);
        }
    }
}
