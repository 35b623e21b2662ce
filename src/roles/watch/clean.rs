//! Stores the clean topic in the analytics database: readings, findings, versions of devices, and the detectors' state.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};

use super::feed::{Claiming, Feed, Found, NeedsSchema, OpenFault, Opened, Stretch, Taken, claim};
use super::log::Log as Topic;
use crate::config::watch::Config;
use crate::io::postgres::{DatabaseError, WriteError};
use crate::io::registry::{Questions, Registry};
use crate::io::timescale::analytics::SNAPSHOT_BYTES_MAX;
use crate::io::timescale::{Analytics, Batch, Snapshot};
use crate::telemetry::health::{HoldCause, Log};
use crate::telemetry::metrics::{Metrics, Service, Took};
use pulsegate_detect::clean::Decoder;
use pulsegate_detect::lane::{CleanRecord, Evicted, Lane, Output, Rules};

/// Stores what the clean topic holds in the analytics database.
pub struct CleanFeed {
    topic: String,
    log: Topic,
    sink: Analytics,
    rules: Arc<Rules>,
    /// The models and settings that the state in snapshots belongs to.
    model: String,
    decoder: ArcSwap<Decoder>,
    registry: Option<Registry>,
    questions: Questions,
    snapshot_interval: Duration,
    snapshot_records_max: u64,
    leads: Leads,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

/// The lane whose owner relays findings.
const LEADING_LANE: i32 = 0;

/// The claims of this process on lane 0: it relays findings as long as there is one. When the lane moves from one
/// worker to another, the claims of both can exist at once, and the older one can be reported last.
#[derive(Default)]
struct Leads(watch::Sender<BTreeSet<i64>>);

impl Leads {
    fn claimed(&self, partition: i32, epoch: i64) {
        if partition == LEADING_LANE {
            self.0.send_if_modified(|claims| claims.insert(epoch));
        }
    }

    fn released(&self, partition: i32, epoch: i64) {
        if partition == LEADING_LANE {
            self.0.send_if_modified(|claims| claims.remove(&epoch));
        }
    }
}

/// How long a schema id that is missing in the registry is taken for unknown before the registry is asked again.
const DENIED_FOR: Duration = Duration::from_secs(30);

/// State of a lane of the clean topic.
pub struct CleanState {
    detectors: Lane,
    /// Offsets that retention deleted before they were read; reported with the first record.
    lost: Option<Range<i64>>,
    snapshot_at: Instant,
    records: u64,
    /// Evictions up to the last batch.
    evicted: Evicted,
}

/// The rows of one write.
#[derive(Default)]
pub struct CleanBatch {
    output: Output,
    snapshot: Option<Snapshot>,
    records: u64,
    series: u32,
    /// Evictions since the batch before.
    evicted: Evicted,
    /// Append time of its last record, in ms since the Unix epoch.
    appended_ms: i64,
}

/// Schemas and rules shared by all lanes of the clean topic.
pub struct Knowledge {
    /// The local clean schemas.
    pub decoder: Decoder,
    /// The registry that is asked for other schemas, if there is one.
    pub registry: Option<Registry>,
    /// Rules by which lanes judge and score.
    pub rules: Rules,
}

impl CleanFeed {
    /// Creates a feed that stores the topic of `log` in `sink`.
    #[must_use]
    pub fn new(
        log: Topic,
        config: &Config,
        knowledge: Knowledge,
        sink: Analytics,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> Self {
        let model = knowledge.rules.model();
        info!(model, "detection model set up");
        Self {
            topic: log.topic().to_owned(),
            log,
            sink,
            model,
            rules: Arc::new(knowledge.rules),
            decoder: ArcSwap::from_pointee(knowledge.decoder),
            registry: knowledge.registry,
            questions: Questions::default(),
            snapshot_interval: Duration::from_secs(config.snapshot_interval_s),
            snapshot_records_max: config.snapshot_records_max,
            leads: Leads::default(),
            metrics,
            runtime,
        }
    }

    /// The claims of this process on lane 0: it relays findings as long as there is one.
    #[must_use]
    pub fn leads(&self) -> watch::Receiver<BTreeSet<i64>> {
        self.leads.0.subscribe()
    }

    /// The analytics database.
    #[must_use]
    pub const fn sink(&self) -> &Analytics {
        &self.sink
    }

    /// The lane restored from the snapshot, and the offset to resume at; without a usable snapshot, a new lane and the
    /// first offset of the log.
    fn restored(&self, partition: i32, low: i64, snapshot: Option<Snapshot>) -> (Lane, i64) {
        let fresh = || (Lane::new(partition, Arc::clone(&self.rules)), low);
        let Some(snapshot) = snapshot else { return fresh() };
        if snapshot.model != self.model {
            info!(
                lane = partition,
                of = snapshot.model,
                "the lane's snapshot is of another model: rebuilding from the log"
            );
            return fresh();
        }
        match Lane::restore(partition, Arc::clone(&self.rules), &snapshot.state) {
            Ok(lane) => (lane, snapshot.next.max(low)),
            Err(error) => {
                warn!(lane = partition, %error, "failed to restore the lane's snapshot: rebuilding from the log");
                fresh()
            }
        }
    }

    fn change_decoder(&self, change: impl Fn(&mut Decoder)) {
        self.decoder.rcu(|decoder| {
            let mut decoder = Decoder::clone(decoder);
            change(&mut decoder);
            decoder
        });
    }

    /// Resolves a schema id and keeps the result; a failed request is not kept, an unknown id only for a while.
    async fn ask(&self, id: u32) {
        let schema = match &self.registry {
            Some(registry) => registry.schema(id).await,
            // Without a registry the id stays unknown.
            None => Ok(None),
        };
        match schema {
            Ok(schema) => {
                self.change_decoder(|decoder| decoder.learn(id, schema.as_deref()));
                if schema.is_none() && self.registry.is_some() {
                    // The schema may reach the registry later.
                    tokio::time::sleep(DENIED_FOR).await;
                    self.change_decoder(|decoder| decoder.forget(id));
                }
            }
            Err(error) => {
                self.metrics.failed(Service::SchemaRegistry);
                warn!(%error, schema = id, "failed to resolve a schema id: its lanes wait, retrying");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

impl Feed for CleanFeed {
    type State = CleanState;
    type Batch = CleanBatch;

    const LOG: Log = Log::Clean;

    fn topic(&self) -> &str {
        &self.topic
    }

    async fn open(&self, partition: i32) -> Result<Opened<CleanState>, OpenFault> {
        let failed = |error: DatabaseError| {
            self.metrics.failed(Service::Analytics);
            OpenFault {
                cause: HoldCause::Database,
                reason: error.to_string(),
            }
        };
        let what = Claiming {
            database: "analytics",
            topic: &self.topic,
            partition,
        };
        let claiming = async {
            let claim = self.sink.claim(&self.topic, partition).await.map_err(failed)?;
            let (next, log_end) = (claim.next, claim.log_end);
            Ok((Found { next, log_end }, claim))
        };
        let note = |end| async move {
            let noted = self.sink.note_log_end(&self.topic, partition, end).await;
            noted.map_err(failed)
        };
        let (claim, log) = claim(what, claiming, self.log.offsets(partition), note).await?;
        self.leads.claimed(partition, claim.epoch);
        let low = log.start;
        let (detectors, position) = self.restored(partition, low, claim.snapshot);
        let lost = claim.next.filter(|next| *next < low).map(|next| next..low);
        if let Some(lost) = &lost {
            warn!(
                lane = partition,
                ?lost,
                "retention deleted clean records before they were read"
            );
        }
        Ok(Opened {
            state: CleanState {
                detectors,
                lost,
                snapshot_at: Instant::now(),
                records: 0,
                evicted: Evicted::default(),
            },
            epoch: claim.epoch,
            stored: claim.next,
            position,
        })
    }

    fn take(
        &self,
        state: &mut CleanState,
        record: &Taken<'_>,
        batch: &mut CleanBatch,
    ) -> Result<(), NeedsSchema> {
        let clean = CleanRecord {
            offset: record.offset,
            append_ms: record.append_ms,
            value: record.value,
        };
        let taken = state
            .detectors
            .observe(&clean, &self.decoder.load(), &mut batch.output);
        taken.map_err(|needs| NeedsSchema(needs.0))?;
        if let Some(lost) = state.lost.take() {
            batch
                .output
                .findings
                .push(state.detectors.lost(lost, record.append_ms));
        }
        state.records += 1;
        batch.records += 1;
        batch.appended_ms = record.append_ms;
        Ok(())
    }

    /// Counts records as well: records without readings must not make a batch that never ends.
    fn rows(batch: &CleanBatch) -> usize {
        batch.output.readings.len().max(batch.records as usize)
    }

    fn clear(batch: &mut CleanBatch) {
        batch.output.clear();
        batch.snapshot = None;
        batch.records = 0;
    }

    fn seal(&self, state: &mut CleanState, next: i64, batch: &mut CleanBatch) {
        batch.series = state.detectors.series();
        let evicted = state.detectors.evicted();
        batch.evicted = evicted.since(std::mem::replace(&mut state.evicted, evicted));
        let due = state.snapshot_at.elapsed() >= self.snapshot_interval
            || state.records >= self.snapshot_records_max;
        if !due {
            return;
        }
        (state.snapshot_at, state.records) = (Instant::now(), 0);
        let state = state.detectors.snapshot();
        if state.len() > SNAPSHOT_BYTES_MAX {
            warn!(
                bytes = state.len(),
                "the snapshot of a lane is too large to be stored: use more partitions"
            );
            return;
        }
        batch.snapshot = Some(Snapshot {
            next,
            model: self.model.clone(),
            state,
        });
    }

    async fn write(&self, stretch: Stretch, batch: &CleanBatch) -> Result<(), WriteError> {
        let begun = Instant::now();
        let written = self
            .sink
            .write(&Batch {
                topic: &self.topic,
                partition: stretch.partition,
                epoch: stretch.epoch,
                expected: stretch.expected,
                next: stretch.next,
                readings: &batch.output.readings,
                findings: &batch.output.findings,
                devices: &batch.output.devices,
                snapshot: batch.snapshot.as_ref(),
            })
            .await;
        match &written {
            Ok(commit) => {
                let took = Took {
                    batch: begun.elapsed(),
                    commit: *commit,
                };
                self.metrics.watch.stored(
                    &batch.output.verdicts,
                    &batch.output.findings,
                    batch.records,
                    took,
                    super::age_seconds(batch.appended_ms),
                );
                self.metrics.watch.evicted(batch.evicted);
            }
            Err(WriteError::Fenced { .. }) => {}
            Err(_) => self.metrics.failed(Service::Analytics),
        }
        self.metrics.watch.series(stretch.partition, batch.series);
        written.map(drop)
    }

    fn lighten(batch: &mut CleanBatch) {
        if batch.snapshot.take().is_some() {
            warn!("a detector snapshot was left out of a failed batch: the next snapshot replaces it");
        }
    }

    fn knows(&self, id: u32) -> bool {
        self.decoder.load().knows(id)
    }

    fn resolve(self: &Arc<Self>, id: u32) {
        if !self.questions.begin(id) {
            return;
        }
        let feed = Arc::clone(self);
        self.runtime.spawn(async move {
            feed.ask(id).await;
            feed.questions.end(id);
        });
    }

    fn release(&self, partition: i32, epoch: i64) {
        self.leads.released(partition, epoch);
        self.metrics.watch.series(partition, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_is_released_late_leaves_the_relay_to_the_newer_one() {
        let leads = Leads::default();
        let relays = || !leads.0.borrow().is_empty();
        leads.claimed(1, 9);
        assert!(!relays(), "another lane");
        // One worker's claim is on its way while another worker has the lane already.
        leads.claimed(LEADING_LANE, 2);
        leads.claimed(LEADING_LANE, 1);
        leads.released(LEADING_LANE, 1);
        assert!(relays());
        leads.released(LEADING_LANE, 1);
        assert!(relays(), "released twice");
        leads.released(LEADING_LANE, 2);
        assert!(!relays());
    }
}
