//! Every metric, and the only place that records one.
//!
//! Metrics are recorded once per batch, never per record. Handles are made at the start, so recording is an atomic
//! addition; there is no global recorder, and the macros of the `metrics` crate are banned by `clippy.toml`.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

mod labels;
mod watch;

pub use self::labels::{Edition, PoolStatistics};
pub use self::watch::{Job, Took, WatchMetrics};
use super::health::Health;
use pulsegate_ledger::outcome::Outcome;

/// Prometheus type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in fixed buckets.
    Histogram,
}

/// One table for the variant, its documentation, its help text, its name and its labels.
macro_rules! catalogue {
    ($($(#[doc = $help:literal])+ $variant:ident = $kind:ident $name:literal [$($label:literal),*],)+) => {
        /// Every metric of the process. Names end in the unit, and counters in `_total`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Metric {
            $($(#[doc = $help])+ $variant,)+
        }

        impl Metric {
            /// Every metric, in reading order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in Prometheus.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The Prometheus type.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind),+ }
            }

            /// The names of its labels, whose values are closed sets, lane numbers or versions.
            #[must_use]
            pub const fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($label),*]),+ }
            }

            /// The help text, one sentence.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help),+).trim_ascii()),+ }
            }
        }
    };
}

catalogue! {
    /// Always 1; its labels identify the running build.
    BuildInfo = Gauge "pulsegate_build_info" ["version"],
    /// Raw records whose outcome is committed.
    Records = Counter "pulsegate_records_total" ["outcome"],
    /// Records in a committed batch.
    BatchRecords = Histogram "pulsegate_batch_records" [],
    /// Received bytes in a committed batch.
    BatchBytes = Histogram "pulsegate_batch_bytes" [],
    /// Time from the beginning of a transaction to its commit.
    TransactionDuration = Histogram "pulsegate_transaction_duration_seconds" [],
    /// Time that a committed batch spent in a stage.
    StageDuration = Histogram "pulsegate_stage_duration_seconds" ["stage"],
    /// Committed transactions.
    Commits = Counter "pulsegate_commits_total" [],
    /// Aborted transactions; their records are read again.
    Aborts = Counter "pulsegate_aborts_total" ["cause"],
    /// Workers that are in the consumer group.
    WorkersJoined = Gauge "pulsegate_workers_joined" [],
    /// Lanes (raw partitions) that this process owns.
    LanesAssigned = Gauge "pulsegate_lanes_assigned" [],
    /// Owned lanes that are held, by cause.
    LanesHeld = Gauge "pulsegate_lanes_held" ["cause"],
    /// Records between an owned lane and the last stable offset.
    LaneLagRecords = Gauge "pulsegate_lane_lag_records" ["lane"],
    /// Age of the first unread record of an owned lane; 0 when there is none.
    LaneLagSeconds = Gauge "pulsegate_lane_lag_seconds" ["lane"],
    /// Lookups of subject keys in the cache.
    KeyCacheLookups = Counter "pulsegate_key_cache_lookups_total" ["result"],
    /// Subject keys in the cache.
    KeyCacheEntries = Gauge "pulsegate_key_cache_entries" [],
    /// Devices in the keyring.
    KeyringDevices = Gauge "pulsegate_keyring_devices" [],
    /// Revision of the keyring, as the vault database counts them.
    KeyringRevision = Gauge "pulsegate_keyring_revision" [],
    /// When the keyring was last compared with the vault database, in seconds since the Unix epoch.
    KeyringChecked = Gauge "pulsegate_keyring_checked_timestamp_seconds" [],
    /// Connections to the vault database.
    VaultConnections = Gauge "pulsegate_vault_connections" ["state"],
    /// Key events that were relayed from the vault database to the audit log.
    KeyEventsRelayed = Counter "pulsegate_key_events_relayed_total" [],
    /// Failed requests to a service; each is retried.
    ServiceFailures = Counter "pulsegate_service_failures_total" ["service"],
    /// Clean records whose readings are stored.
    CleanRecords = Counter "pulsegate_clean_records_total" [],
    /// Stored readings, by their quality verdict.
    Readings = Counter "pulsegate_readings_total" ["quality"],
    /// Stored findings.
    Findings = Counter "pulsegate_findings_total" ["kind"],
    /// Findings in the findings topic that people are notified of.
    FindingsNotified = Counter "pulsegate_findings_notified_total" [],
    /// Findings that were produced to the findings topic.
    FindingsRelayed = Counter "pulsegate_findings_relayed_total" [],
    /// Series that the detectors keep in memory.
    Series = Gauge "pulsegate_series" [],
    /// Series that were evicted to stay below the limit.
    SeriesEvicted = Counter "pulsegate_series_evicted_total" [],
    /// Devices that lanes evicted to stay below the limit.
    DevicesEvicted = Counter "pulsegate_devices_evicted_total" [],
    /// Rows in a stored batch.
    SinkRows = Histogram "pulsegate_sink_rows" ["database"],
    /// Time to store a batch, from its first statement to its commit.
    SinkDuration = Histogram "pulsegate_sink_duration_seconds" ["database"],
    /// Time to commit a batch.
    SinkCommitDuration = Histogram "pulsegate_sink_commit_duration_seconds" ["database"],
    /// Time from the append of a clean record until its readings are visible, for the last record of each batch.
    VisibleDuration = Histogram "pulsegate_reading_visible_duration_seconds" [],
    /// Connections to a database of the watch.
    SinkConnections = Gauge "pulsegate_sink_connections" ["database", "state"],
    /// Timeouts while waiting for a connection to a database of the watch.
    SinkConnectionTimeouts = Gauge "pulsegate_sink_connection_timeouts" ["database"],
    /// Most connections that may be open to a database of the watch.
    SinkConnectionsMax = Gauge "pulsegate_sink_connections_max" ["database"],
    /// Requests for a connection to a database of the watch.
    SinkConnectionsAcquired = Gauge "pulsegate_sink_connections_acquired" ["database"],
    /// Total time spent waiting for connections to a database of the watch.
    SinkConnectionWait = Gauge "pulsegate_sink_connection_wait_seconds" ["database"],
    /// 1 for the edition of TimescaleDB in use.
    TimescaleEdition = Gauge "pulsegate_timescale_edition" ["edition"],
    /// Entries that were appended to the audit log.
    AuditEntries = Counter "pulsegate_audit_entries_total" [],
    /// Audit entries that report a fault of the ledger.
    AuditAlerts = Counter "pulsegate_audit_alerts_total" [],
    /// Heads of audit lanes that were signed.
    AuditCheckpoints = Counter "pulsegate_audit_checkpoints_total" [],
    /// Time that a run of a recurring job takes.
    JobDuration = Histogram "pulsegate_job_duration_seconds" ["job"],
    /// Failed runs of a recurring job; the next run does the remaining work.
    JobFailures = Counter "pulsegate_job_failures_total" ["job"],
}

/// A stage of the work on a batch, for measuring where its time goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Signature, freshness and home.
    Verify,
    /// Framing, schema and validation.
    Decode,
    /// Binding, replay and rate.
    Admit,
    /// Looking up, fetching and creating subject keys.
    Keys,
    /// Tokens and ciphertexts.
    Seal,
    /// Handing records to the producer and waiting for their acknowledgement.
    Produce,
    /// Sending offsets and committing the transaction.
    Commit,
}

/// Why a transaction was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortCause {
    /// The consumer group revoked lanes.
    LostAssignment,
    /// A call of the producer failed or timed out.
    Kafka,
    /// Another producer has taken over this one's transactional id.
    Fenced,
}

/// A service that the process depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The Kafka brokers.
    Kafka,
    /// The schema registry.
    SchemaRegistry,
    /// The vault database.
    Vault,
    /// The analytics database.
    Analytics,
    /// The audit database.
    Audit,
    /// The operations database.
    Operations,
}

/// A closed set of label values.
macro_rules! label_values {
    ($type:ident { $($variant:ident = $name:literal),+ }) => {
        impl $type {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

label_values!(Stage { Verify = "verify", Decode = "decode", Admit = "admit", Keys = "keys", Seal = "seal", Produce = "produce", Commit = "commit" });
label_values!(AbortCause { LostAssignment = "lost_assignment", Kafka = "kafka", Fenced = "fenced" });
label_values!(Service { Kafka = "kafka", SchemaRegistry = "schema_registry", Vault = "vault", Analytics = "analytics", Audit = "audit", Operations = "operations" });

/// Totals of one committed batch.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Records by [`Outcome::index`].
    pub outcomes: [u64; Outcome::COUNT],
    /// Received bytes.
    pub bytes: u64,
    /// Time in each stage, in the order of [`Stage::ALL`].
    pub stages: [Duration; Stage::ALL.len()],
    /// Time from the beginning of the transaction to its commit.
    pub transaction: Duration,
}

/// The handles of every metric that is not drawn from [`Health`]; shared by all threads.
pub struct Metrics {
    exporter: PrometheusHandle,
    records: Vec<Counter>,
    batch_records: Histogram,
    batch_bytes: Histogram,
    transaction: Histogram,
    stages: Vec<Histogram>,
    commits: Counter,
    aborts: Vec<Counter>,
    key_cache_hits: Counter,
    key_cache_misses: Counter,
    key_cache_entries: Gauge,
    keyring_devices: Gauge,
    keyring_revision: Gauge,
    keyring_checked: Gauge,
    vault_idle: Gauge,
    vault_used: Gauge,
    key_events_relayed: Counter,
    failures: Vec<Counter>,
    /// Metrics of the watch.
    pub watch: WatchMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every series, so that a scrape sees zeros instead of nothing before the first event.
    #[must_use]
    pub fn new() -> Self {
        // The buckets are constants that a test builds with; a mistake there must not stop a gate.
        let recorder = builder().unwrap_or_default().build_recorder();
        for metric in Metric::ALL {
            describe(&recorder, *metric);
        }
        gauge(&recorder, Metric::BuildInfo, &[env!("CARGO_PKG_VERSION")]).set(1);
        let stages = Stage::ALL
            .iter()
            .map(|stage| histogram(&recorder, Metric::StageDuration, &[stage.as_str()]));
        let aborts = AbortCause::ALL
            .iter()
            .map(|cause| counter(&recorder, Metric::Aborts, &[cause.as_str()]));
        let failures = Service::ALL
            .iter()
            .map(|one| counter(&recorder, Metric::ServiceFailures, &[one.as_str()]));
        Self {
            exporter: recorder.handle(),
            records: Outcome::all()
                .map(|one| counter(&recorder, Metric::Records, &[one.as_str()]))
                .collect(),
            batch_records: histogram(&recorder, Metric::BatchRecords, &[]),
            batch_bytes: histogram(&recorder, Metric::BatchBytes, &[]),
            transaction: histogram(&recorder, Metric::TransactionDuration, &[]),
            stages: stages.collect(),
            commits: counter(&recorder, Metric::Commits, &[]),
            aborts: aborts.collect(),
            key_cache_hits: counter(&recorder, Metric::KeyCacheLookups, &["hit"]),
            key_cache_misses: counter(&recorder, Metric::KeyCacheLookups, &["miss"]),
            key_cache_entries: gauge(&recorder, Metric::KeyCacheEntries, &[]),
            keyring_devices: gauge(&recorder, Metric::KeyringDevices, &[]),
            keyring_revision: gauge(&recorder, Metric::KeyringRevision, &[]),
            keyring_checked: gauge(&recorder, Metric::KeyringChecked, &[]),
            vault_idle: gauge(&recorder, Metric::VaultConnections, &["idle"]),
            vault_used: gauge(&recorder, Metric::VaultConnections, &["used"]),
            key_events_relayed: counter(&recorder, Metric::KeyEventsRelayed, &[]),
            failures: failures.collect(),
            watch: WatchMetrics::new(&recorder),
        }
    }

    /// Records a committed transaction. Call it after the commit, never before: an aborted batch is read again and must
    /// not count twice.
    pub fn committed(&self, batch: &Batch) {
        for (counter, &count) in self.records.iter().zip(&batch.outcomes) {
            counter.increment(count);
        }
        self.batch_records
            .record(batch.outcomes.iter().sum::<u64>() as f64);
        self.batch_bytes.record(batch.bytes as f64);
        for (histogram, time) in self.stages.iter().zip(&batch.stages) {
            histogram.record(time.as_secs_f64());
        }
        self.transaction.record(batch.transaction.as_secs_f64());
        self.commits.increment(1);
    }

    /// Records an aborted transaction.
    pub fn aborted(&self, cause: AbortCause) {
        self.aborts[cause as usize].increment(1);
    }

    /// Records a batch's lookups of subject keys; `entries` is the size of the cache after them.
    pub fn key_cache(&self, hits: u64, misses: u64, entries: usize) {
        self.key_cache_hits.increment(hits);
        self.key_cache_misses.increment(misses);
        self.key_cache_entries.set(entries as f64);
    }

    /// Records that the keyring has revision `revision` of the vault database, as of `checked` since the Unix epoch.
    pub fn keyring(&self, devices: usize, revision: u64, checked: Duration) {
        self.keyring_devices.set(devices as f64);
        self.keyring_revision.set(revision as f64);
        self.keyring_checked.set(checked.as_secs_f64());
    }

    /// Records how many connections to the vault database are idle and used.
    pub fn vault_pool(&self, idle: usize, used: usize) {
        self.vault_idle.set(idle as f64);
        self.vault_used.set(used as f64);
    }

    /// Records key events that moved from the vault database to the audit log.
    pub fn key_events_relayed(&self, events: usize) {
        self.key_events_relayed.increment(events as u64);
    }

    /// Records a failed request to a service, which will be retried.
    pub fn failed(&self, service: Service) {
        self.failures[service as usize].increment(1);
    }

    /// Renders all metrics in Prometheus' text format: the handles' own series and the gauges of `health`.
    #[must_use]
    pub fn render(&self, health: &Health) -> String {
        let mut text = self.exporter.render();
        health.render(&mut text);
        text
    }

    /// Moves recorded samples into their buckets. Call it every few seconds: otherwise they would pile up between
    /// scrapes.
    pub fn upkeep(&self) {
        self.exporter.run_upkeep();
    }
}

/// Seconds from half a millisecond to half a minute.
const DURATION_BUCKETS: [f64; 15] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
];
/// Records, up to the usual largest batch.
const RECORD_BUCKETS: [f64; 9] = [1.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];
/// Bytes, from 1 KiB to 64 MiB in steps of four.
const BYTE_BUCKETS: [f64; 9] = [
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let exact = |metric: Metric| Matcher::Full(metric.name().to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(exact(Metric::BatchRecords), &RECORD_BUCKETS)?
        .set_buckets_for_metric(exact(Metric::SinkRows), &RECORD_BUCKETS)?
        .set_buckets_for_metric(exact(Metric::BatchBytes), &BYTE_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &DURATION_BUCKETS)
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

fn key(metric: Metric, kind: Kind, values: &[&'static str]) -> Key {
    debug_assert_eq!(metric.kind(), kind, "{} is not a {kind:?}", metric.name());
    debug_assert_eq!(
        metric.labels().len(),
        values.len(),
        "{} has another number of labels",
        metric.name()
    );
    let labels = metric
        .labels()
        .iter()
        .zip(values)
        .map(|(name, value)| Label::from_static_parts(name, value));
    Key::from_parts(metric.name(), labels.collect::<Vec<_>>())
}

fn counter(recorder: &PrometheusRecorder, metric: Metric, values: &[&'static str]) -> Counter {
    recorder.register_counter(&key(metric, Kind::Counter, values), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, metric: Metric, values: &[&'static str]) -> Gauge {
    recorder.register_gauge(&key(metric, Kind::Gauge, values), &METADATA)
}

fn histogram(recorder: &PrometheusRecorder, metric: Metric, values: &[&'static str]) -> Histogram {
    recorder.register_histogram(&key(metric, Kind::Histogram, values), &METADATA)
}

fn describe(recorder: &PrometheusRecorder, metric: Metric) {
    let name = KeyName::from_const_str(metric.name());
    match metric.kind() {
        Kind::Counter => recorder.describe_counter(name, None, metric.help().into()),
        Kind::Gauge => recorder.describe_gauge(name, None, metric.help().into()),
        Kind::Histogram => recorder.describe_histogram(name, None, metric.help().into()),
    }
}

#[cfg(test)]
mod tests;
