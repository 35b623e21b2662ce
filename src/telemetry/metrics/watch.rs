//! Metrics of the watch.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::catalogue::{Metric, counter, gauge, histogram};
use super::labels::{Edition, PoolStatistics};
use pulsegate_detect::finding::{Finding, Kind};
use pulsegate_detect::lane::Evicted;
use pulsegate_detect::quality::Quality;

/// The editions of TimescaleDB.
const EDITIONS: [Edition; 2] = [Edition::Apache, Edition::Community];

/// The handles of the watch's metrics.
pub struct WatchMetrics {
    records: Counter,
    readings: Vec<Counter>,
    findings: Vec<Counter>,
    notified: Counter,
    relayed: Counter,
    series: Gauge,
    series_evicted: Counter,
    devices_evicted: Counter,
    /// Series by lane; the gauge is their sum.
    series_of: Mutex<BTreeMap<i32, u32>>,
    analytics: Sink,
    audit: Sink,
    operations: Sink,
    visible: Histogram,
    editions: Vec<Gauge>,
    audit_entries: Counter,
    audit_alerts: Counter,
    checkpoints: Counter,
    jobs: Vec<(Histogram, Counter)>,
}

/// A recurring job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Rolls readings up to minutes of the fleet.
    Rollup,
    /// Drops data that is past its retention.
    Retention,
    /// Computes KPIs of the pipeline.
    Kpis,
    /// Groups devices with the same finding at the same time.
    Groups,
    /// Compares cohorts after a rollout.
    Regressions,
    /// Compares KPIs and cohorts with their own past.
    Shifts,
}

impl Job {
    /// Every job.
    pub const ALL: [Self; 6] = [
        Self::Rollup,
        Self::Retention,
        Self::Kpis,
        Self::Groups,
        Self::Regressions,
        Self::Shifts,
    ];

    /// The name in metrics and in the table of jobs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rollup => "rollup",
            Self::Retention => "retention",
            Self::Kpis => "kpis",
            Self::Groups => "groups",
            Self::Regressions => "regressions",
            Self::Shifts => "shifts",
        }
    }
}

/// How long it took to store a batch.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// From the first statement to the commit.
    pub batch: Duration,
    /// The commit alone.
    pub commit: Duration,
}

/// Metrics of one database.
struct Sink {
    rows: Histogram,
    duration: Histogram,
    commit: Histogram,
    used: Gauge,
    idle: Gauge,
    timeouts: Gauge,
    acquired: Gauge,
    waited: Gauge,
    max: Gauge,
}

impl Sink {
    fn new(recorder: &PrometheusRecorder, database: &'static str) -> Self {
        Self {
            rows: histogram(recorder, Metric::SinkRows, &[database]),
            duration: histogram(recorder, Metric::SinkDuration, &[database]),
            commit: histogram(recorder, Metric::SinkCommitDuration, &[database]),
            used: gauge(recorder, Metric::SinkConnections, &[database, "used"]),
            idle: gauge(recorder, Metric::SinkConnections, &[database, "idle"]),
            timeouts: gauge(recorder, Metric::SinkConnectionTimeouts, &[database]),
            acquired: gauge(recorder, Metric::SinkConnectionsAcquired, &[database]),
            waited: gauge(recorder, Metric::SinkConnectionWait, &[database]),
            max: gauge(recorder, Metric::SinkConnectionsMax, &[database]),
        }
    }

    fn stored(&self, rows: usize, took: Took) {
        self.rows.record(rows as f64);
        self.duration.record(took.batch.as_secs_f64());
        self.commit.record(took.commit.as_secs_f64());
    }

    fn pool(&self, statistics: PoolStatistics) {
        self.used.set(statistics.used);
        self.idle.set(statistics.idle);
        self.timeouts.set(statistics.timed_out as f64);
        self.acquired.set(statistics.acquired as f64);
        self.waited.set(statistics.waited.as_secs_f64());
        self.max.set(statistics.max);
    }
}

impl WatchMetrics {
    pub(super) fn new(recorder: &PrometheusRecorder) -> Self {
        let readings = Quality::ALL
            .iter()
            .map(|one| counter(recorder, Metric::Readings, &[one.as_str()]));
        let findings = Kind::ALL
            .iter()
            .map(|one| counter(recorder, Metric::Findings, &[one.as_str()]));
        let editions = EDITIONS
            .iter()
            .map(|one| gauge(recorder, Metric::TimescaleEdition, &[one.as_str()]));
        let jobs = Job::ALL.iter().map(|job| {
            let labels = &[job.as_str()];
            let duration = histogram(recorder, Metric::JobDuration, labels);
            (duration, counter(recorder, Metric::JobFailures, labels))
        });
        Self {
            records: counter(recorder, Metric::CleanRecords, &[]),
            readings: readings.collect(),
            findings: findings.collect(),
            notified: counter(recorder, Metric::FindingsNotified, &[]),
            relayed: counter(recorder, Metric::FindingsRelayed, &[]),
            series: gauge(recorder, Metric::Series, &[]),
            series_evicted: counter(recorder, Metric::SeriesEvicted, &[]),
            devices_evicted: counter(recorder, Metric::DevicesEvicted, &[]),
            series_of: Mutex::default(),
            analytics: Sink::new(recorder, "analytics"),
            audit: Sink::new(recorder, "audit"),
            operations: Sink::new(recorder, "operations"),
            visible: histogram(recorder, Metric::VisibleDuration, &[]),
            editions: editions.collect(),
            audit_entries: counter(recorder, Metric::AuditEntries, &[]),
            audit_alerts: counter(recorder, Metric::AuditAlerts, &[]),
            checkpoints: counter(recorder, Metric::AuditCheckpoints, &[]),
            jobs: jobs.collect(),
        }
    }

    /// Records a stored batch of clean records. `verdicts` counts its readings by [`Quality::code`]; `age_seconds` is
    /// how long ago its last record was appended.
    pub fn stored(
        &self,
        verdicts: &[u64; Quality::ALL.len()],
        findings: &[Finding],
        records: u64,
        took: Took,
        age_seconds: f64,
    ) {
        self.records.increment(records);
        for (counter, &count) in self.readings.iter().zip(verdicts) {
            counter.increment(count);
        }
        self.found(findings);
        let rows: u64 = verdicts.iter().sum();
        self.analytics.stored(rows as usize, took);
        self.visible.record(age_seconds);
    }

    /// Records stored findings.
    pub fn found(&self, findings: &[Finding]) {
        for finding in findings {
            if let Some(at) = Kind::ALL.iter().position(|kind| *kind == finding.kind) {
                self.findings[at].increment(1);
            }
        }
    }

    /// Records series and devices that were evicted to stay below the limits.
    pub fn evicted(&self, evicted: Evicted) {
        self.series_evicted.increment(evicted.series);
        self.devices_evicted.increment(evicted.devices);
    }

    /// Records findings that were produced, and how many of them people are notified of.
    pub fn relayed(&self, findings: usize, notified: usize) {
        self.relayed.increment(findings as u64);
        self.notified.increment(notified as u64);
    }

    /// Records a run of a job, and whether it failed.
    pub fn job(&self, job: Job, took: Duration, failed: bool) {
        let (duration, failures) = &self.jobs[job as usize];
        duration.record(took.as_secs_f64());
        failures.increment(u64::from(failed));
    }

    /// Records a stored batch of audit entries, and how many of them are alerts.
    pub fn appended(&self, entries: usize, alerts: usize, took: Took) {
        self.audit_entries.increment(entries as u64);
        self.audit_alerts.increment(alerts as u64);
        self.audit.stored(entries, took);
    }

    /// Records a stored batch of counts for KPIs.
    pub fn counted(&self, counts: usize, took: Took) {
        self.operations.stored(counts, took);
    }

    /// Records how many heads of lanes were signed.
    pub fn checkpoints(&self, signed: usize) {
        self.checkpoints.increment(signed as u64);
    }

    /// Sets the number of series that a lane's detectors keep; 0 once the lane is revoked.
    pub fn series(&self, lane: i32, series: u32) {
        let mut of = self.series_of.lock().unwrap_or_else(PoisonError::into_inner);
        if series == 0 {
            of.remove(&lane);
        } else {
            of.insert(lane, series);
        }
        self.series
            .set(of.values().map(|&one| f64::from(one)).sum::<f64>());
    }

    /// Sets the edition of the analytics database.
    pub fn edition(&self, edition: Edition) {
        for (gauge, one) in self.editions.iter().zip(EDITIONS) {
            gauge.set(u8::from(one == edition));
        }
    }

    /// Records how the analytics database's pool is used.
    pub fn analytics_pool(&self, statistics: PoolStatistics) {
        self.analytics.pool(statistics);
    }

    /// Records how the audit database's pool is used.
    pub fn audit_pool(&self, statistics: PoolStatistics) {
        self.audit.pool(statistics);
    }

    /// Records how the operations database's pool is used.
    pub fn operations_pool(&self, statistics: PoolStatistics) {
        self.operations.pool(statistics);
    }
}
