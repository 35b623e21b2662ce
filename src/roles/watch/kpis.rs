//! Counts the ledger minute by minute into the operations database; the pipeline's KPIs are computed from these counts.
//!
//! The ledger is read a second time rather than written to both databases at once: the audit log must not wait for the
//! database of KPIs, and neither may lose or repeat a record while the other is down.

use std::sync::Arc;
use std::time::Instant;

use super::feed::{Claiming, Feed, Found, NeedsSchema, OpenFault, Opened, Stretch, Taken, claim};
use super::log::Log as Topic;
use crate::io::postgres::offsets::Step;
use crate::io::postgres::{DatabaseError, WriteError};
use crate::io::timescale::{Operations, SettledBatch};
use crate::telemetry::health::{HoldCause, Log};
use crate::telemetry::metrics::{Metrics, Service, Took};
use pulsegate_detect::kpi::Settled;

/// Counts ledger records into the operations database.
pub struct KpiFeed {
    topic: String,
    log: Topic,
    sink: Operations,
    metrics: Arc<Metrics>,
}

impl KpiFeed {
    /// Creates a feed that counts the topic of `log` into `sink`.
    #[must_use]
    pub fn new(log: Topic, sink: Operations, metrics: Arc<Metrics>) -> Self {
        Self {
            topic: log.topic().to_owned(),
            log,
            sink,
            metrics,
        }
    }
}

impl Feed for KpiFeed {
    /// Stateless: each ledger record can be counted on its own.
    type State = ();
    type Batch = Settled;

    const LOG: Log = Log::Kpis;

    fn topic(&self) -> &str {
        &self.topic
    }

    async fn open(&self, partition: i32) -> Result<Opened<()>, OpenFault> {
        let failed = |error: DatabaseError| {
            self.metrics.failed(Service::Operations);
            OpenFault {
                cause: HoldCause::Database,
                reason: error.to_string(),
            }
        };
        let what = Claiming {
            database: "operations",
            topic: &self.topic,
            partition,
        };
        let claiming = async {
            let position = self.sink.claim(&self.topic, partition).await.map_err(failed)?;
            let (next, log_end) = (position.next, position.log_end);
            Ok((Found { next, log_end }, position))
        };
        let note = |end| async move {
            let noted = self.sink.note_log_end(&self.topic, partition, end).await;
            noted.map_err(failed)
        };
        let (position, log) = claim(what, claiming, self.log.offsets(partition), note).await?;
        Ok(Opened {
            state: (),
            epoch: position.epoch,
            stored: position.next,
            position: position.next.unwrap_or(log.start).max(log.start),
        })
    }

    fn take(&self, (): &mut (), record: &Taken<'_>, batch: &mut Settled) -> Result<(), NeedsSchema> {
        batch.add(record.value, record.append_ms);
        Ok(())
    }

    fn rows(batch: &Settled) -> usize {
        batch.len()
    }

    fn clear(batch: &mut Settled) {
        batch.clear();
    }

    fn seal(&self, (): &mut (), _next: i64, _batch: &mut Settled) {}

    async fn write(&self, stretch: Stretch, batch: &Settled) -> Result<(), WriteError> {
        let step = Step {
            topic: &self.topic,
            partition: stretch.partition,
            epoch: stretch.epoch,
            expected: stretch.expected,
            next: stretch.next,
        };
        let begun = Instant::now();
        let counted = self.sink.count(&SettledBatch { step, settled: batch }).await;
        match &counted {
            Ok(commit) => {
                let took = Took {
                    batch: begun.elapsed(),
                    commit: *commit,
                };
                self.metrics.watch.counted(batch.len(), took);
            }
            Err(WriteError::Fenced { .. }) => {}
            Err(_) => self.metrics.failed(Service::Operations),
        }
        counted.map(drop)
    }

    fn lighten(_batch: &mut Settled) {}

    fn knows(&self, _id: u32) -> bool {
        true
    }

    fn resolve(self: &Arc<Self>, _id: u32) {}

    fn release(&self, _partition: i32, _epoch: i64) {}
}
