//! The clean topic into the analytics database: readings, findings, versions of devices, and what the detectors know.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};

use super::feed::{Feed, NeedsSchema, OpenFault, Opened, Stretch, Taken, truncated_at};
use super::log;
use crate::config::watch::Config;
use crate::io::postgres::{DatabaseError, WriteError};
use crate::io::registry::{Questions, Registry};
use crate::io::timescale::analytics::SNAPSHOT_BYTES_MAX;
use crate::io::timescale::{Analytics, Batch, Snapshot};
use crate::telemetry::health::{HoldCause, Log};
use crate::telemetry::metrics::{Metrics, Service, Took};
use pulsegate_detect::clean::Decoder;
use pulsegate_detect::lane::{CleanRecord, Evicted, Lane, Output, Rules};

/// The clean topic and where its readings go.
pub struct CleanFeed {
    topic: String,
    sink: Analytics,
    rules: Arc<Rules>,
    /// The models and settings whose state snapshots are.
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

/// The claims of this process on lane 0, which make it the one that relays findings as long as there is one. When the lane
/// goes from one worker to another, the claims of both can be there at once, and the older one can be heard of last.
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

/// How long a schema id that the registry does not have is taken for one that nobody has.
const DENIED_FOR: Duration = Duration::from_secs(30);

/// What a lane of the clean topic remembers.
pub struct CleanLane {
    lane: Lane,
    /// Offsets that retention deleted before they were read; told with the first record.
    lost: Option<Range<i64>>,
    snapshot_at: Instant,
    records: u64,
    /// What had to make room, as far as that was counted.
    evicted: Evicted,
}

/// What is to be written.
#[derive(Default)]
pub struct CleanBatch {
    output: Output,
    snapshot: Option<Snapshot>,
    records: u64,
    series: u32,
    /// What had to make room since the batch before.
    evicted: Evicted,
    /// When its last record was appended, in ms since the Unix epoch.
    appended_ms: i64,
}

/// What all lanes of the clean topic go by.
pub struct Knowledge {
    /// The local clean schemas.
    pub decoder: Decoder,
    /// Where other schemas are asked for.
    pub registry: Option<Registry>,
    /// How lanes judge and score.
    pub rules: Rules,
}

impl CleanFeed {
    /// Reads `topic` into `sink`.
    #[must_use]
    pub fn new(
        topic: &str,
        config: &Config,
        knowledge: Knowledge,
        sink: Analytics,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> Self {
        let model = knowledge.rules.model();
        info!(model, "detection");
        Self {
            topic: topic.to_owned(),
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

    /// The claims that make this process the one that relays findings; it is not where there is none.
    #[must_use]
    pub fn leads(&self) -> watch::Receiver<BTreeSet<i64>> {
        self.leads.0.subscribe()
    }

    /// The sink.
    #[must_use]
    pub const fn sink(&self) -> &Analytics {
        &self.sink
    }

    /// The lane as the snapshot has it and where to read on; from the first offset of the log where there is no use in it.
    fn restored(&self, partition: i32, low: i64, snapshot: Option<Snapshot>) -> (Lane, i64) {
        let fresh = || (Lane::new(partition, Arc::clone(&self.rules)), low);
        let Some(snapshot) = snapshot else { return fresh() };
        if snapshot.model != self.model {
            info!(
                lane = partition,
                of = snapshot.model,
                "the snapshot is of another model; reading the log again"
            );
            return fresh();
        }
        match Lane::restore(partition, Arc::clone(&self.rules), &snapshot.state) {
            Ok(lane) => (lane, snapshot.next.max(low)),
            Err(error) => {
                warn!(lane = partition, %error, "reading the log again");
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

    /// Remembers what a schema id is; only that of the registry's answers that is one.
    async fn ask(&self, id: u32) {
        let schema = match &self.registry {
            Some(registry) => registry.schema(id).await,
            // Nobody to ask: nobody will ever know.
            None => Ok(None),
        };
        match schema {
            Ok(schema) => {
                self.change_decoder(|decoder| decoder.learn(id, schema.as_deref()));
                if schema.is_none() && self.registry.is_some() {
                    // It may have been asked before the schema had come to it.
                    tokio::time::sleep(DENIED_FOR).await;
                    self.change_decoder(|decoder| decoder.forget(id));
                }
            }
            Err(error) => {
                self.metrics.failed(Service::SchemaRegistry);
                warn!(%error, schema = id, "no answer from the schema registry");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

impl Feed for CleanFeed {
    type Lane = CleanLane;
    type Batch = CleanBatch;

    const LOG: Log = Log::Clean;

    fn topic(&self) -> &str {
        &self.topic
    }

    async fn open(&self, partition: i32, log: &log::Log) -> Result<Opened<CleanLane>, OpenFault> {
        let failed = |error: DatabaseError| {
            self.metrics.failed(Service::Analytics);
            OpenFault {
                cause: HoldCause::Database,
                reason: error.to_string(),
            }
        };
        let claim = self.sink.claim(&self.topic, partition).await.map_err(failed)?;
        let log = log.offsets(partition).await?;
        if let Some(end) = truncated_at(claim.next, claim.log_end, &log) {
            let noted = self.sink.note_log_end(&self.topic, partition, end).await;
            noted.map_err(failed)?;
            return Err(OpenFault::truncated("analytics", &self.topic, partition, end));
        }
        self.leads.claimed(partition, claim.epoch);
        let low = log.start;
        let (lane, position) = self.restored(partition, low, claim.snapshot);
        let lost = claim.next.filter(|next| *next < low).map(|next| next..low);
        if let Some(lost) = &lost {
            warn!(
                lane = partition,
                ?lost,
                "clean records were deleted before they were read"
            );
        }
        Ok(Opened {
            lane: CleanLane {
                lane,
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
        lane: &mut CleanLane,
        record: &Taken<'_>,
        batch: &mut CleanBatch,
    ) -> Result<(), NeedsSchema> {
        let clean = CleanRecord {
            offset: record.offset,
            append_ms: record.append_ms,
            value: record.value,
        };
        let taken = lane.lane.observe(&clean, &self.decoder.load(), &mut batch.output);
        taken.map_err(|needs| NeedsSchema(needs.0))?;
        if let Some(lost) = lane.lost.take() {
            batch.output.findings.push(lane.lane.lost(lost, record.append_ms));
        }
        lane.records += 1;
        batch.records += 1;
        batch.appended_ms = record.append_ms;
        Ok(())
    }

    /// A record counts too: one without a reading must not make a batch that never ends.
    fn rows(batch: &CleanBatch) -> usize {
        batch.output.readings.len().max(batch.records as usize)
    }

    fn clear(batch: &mut CleanBatch) {
        batch.output.clear();
        batch.snapshot = None;
        batch.records = 0;
    }

    fn seal(&self, lane: &mut CleanLane, next: i64, batch: &mut CleanBatch) {
        batch.series = lane.lane.series();
        let evicted = lane.lane.evicted();
        batch.evicted = evicted.since(std::mem::replace(&mut lane.evicted, evicted));
        let due =
            lane.snapshot_at.elapsed() >= self.snapshot_interval || lane.records >= self.snapshot_records_max;
        if !due {
            return;
        }
        (lane.snapshot_at, lane.records) = (Instant::now(), 0);
        let state = lane.lane.snapshot();
        if state.len() > SNAPSHOT_BYTES_MAX {
            warn!(
                bytes = state.len(),
                "a snapshot is too large to be stored; use more partitions"
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
            warn!("what the detectors know is stored with the next snapshot");
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
    fn a_claim_that_is_given_back_late_leaves_the_relay_to_the_one_after_it() {
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
        assert!(relays(), "said twice");
        leads.released(LEADING_LANE, 2);
        assert!(!relays());
    }
}
