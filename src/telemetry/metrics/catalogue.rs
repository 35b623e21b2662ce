//! The catalogue of metrics, and how one is registered with the exporter.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

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

pub(super) fn counter(recorder: &PrometheusRecorder, metric: Metric, values: &[&'static str]) -> Counter {
    recorder.register_counter(&key(metric, Kind::Counter, values), &METADATA)
}

pub(super) fn gauge(recorder: &PrometheusRecorder, metric: Metric, values: &[&'static str]) -> Gauge {
    recorder.register_gauge(&key(metric, Kind::Gauge, values), &METADATA)
}

pub(super) fn histogram(recorder: &PrometheusRecorder, metric: Metric, values: &[&'static str]) -> Histogram {
    recorder.register_histogram(&key(metric, Kind::Histogram, values), &METADATA)
}

pub(super) fn describe(recorder: &PrometheusRecorder, metric: Metric) {
    let name = KeyName::from_const_str(metric.name());
    match metric.kind() {
        Kind::Counter => recorder.describe_counter(name, None, metric.help().into()),
        Kind::Gauge => recorder.describe_gauge(name, None, metric.help().into()),
        Kind::Histogram => recorder.describe_histogram(name, None, metric.help().into()),
    }
}
