//! Every metric, and the only place that records one.
//!
//! Metrics are recorded once per batch, never per record. Handles are made at the start, so recording is an atomic
//! addition; there is no global recorder, and the macros of the `metrics` crate are banned by `clippy.toml`.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

mod catalogue;
mod labels;
mod watch;

pub use self::catalogue::{Kind, Metric};
use self::catalogue::{counter, describe, gauge, histogram};
pub use self::labels::{Edition, PoolStatistics};
pub use self::watch::{Job, Took, WatchMetrics};
use pulsegate_ledger::outcome::Outcome;

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
pub struct Committed {
    /// Records by [`Outcome::index`].
    pub outcomes: [u64; Outcome::COUNT],
    /// Received bytes.
    pub bytes: u64,
    /// Time in each stage, in the order of [`Stage::ALL`].
    pub stages: [Duration; Stage::ALL.len()],
    /// Time from the beginning of the transaction to its commit.
    pub transaction: Duration,
}

/// The handles of every metric that is not drawn from [`Health`](super::Health); shared by all threads.
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
    pub fn committed(&self, batch: &Committed) {
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

    /// Renders the series of the handles in Prometheus' text format; [`Health`](super::Health) renders its own gauges.
    #[must_use]
    pub fn render(&self) -> String {
        self.exporter.render()
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

#[cfg(test)]
mod tests;
