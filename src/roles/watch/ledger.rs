//! Stores the ledger in the audit database: each record extends its lane's Merkle log.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::feed::{Claiming, Feed, Found, NeedsSchema, OpenFault, Opened, Stretch, Taken, claim};
use super::log::Log as Topic;
use crate::io::audit::{AuditError, AuditLog, LedgerBatch, LedgerRecord};
use crate::io::postgres::WriteError;
use crate::telemetry::health::{HoldCause, Log};
use crate::telemetry::metrics::{Metrics, Service, Took};

/// Appends ledger records to the audit log.
pub struct LedgerFeed {
    topic: String,
    log: Topic,
    sink: Arc<AuditLog>,
    metrics: Arc<Metrics>,
}

/// Ledger records as they were received.
#[derive(Default)]
pub struct Records {
    bytes: Vec<u8>,
    records: Vec<(i64, Range<usize>)>,
}

impl LedgerFeed {
    /// Creates a feed that appends the topic of `log` to `sink`.
    #[must_use]
    pub fn new(log: Topic, sink: Arc<AuditLog>, metrics: Arc<Metrics>) -> Self {
        Self {
            topic: log.topic().to_owned(),
            log,
            sink,
            metrics,
        }
    }
}

impl Feed for LedgerFeed {
    /// Stateless: the audit log keeps the state of its lanes.
    type State = ();
    type Batch = Records;

    const LOG: Log = Log::Ledger;

    fn topic(&self) -> &str {
        &self.topic
    }

    async fn open(&self, partition: i32) -> Result<Opened<()>, OpenFault> {
        let failed = |error: AuditError| {
            self.metrics.failed(Service::Audit);
            OpenFault {
                cause: match error {
                    AuditError::Tampered { .. } => HoldCause::Tampered,
                    AuditError::Database(_) | AuditError::Key { .. } => HoldCause::Database,
                },
                reason: error.to_string(),
            }
        };
        let what = Claiming {
            database: "audit",
            topic: &self.topic,
            partition,
        };
        let claiming = async {
            let claim = self.sink.claim(partition).await.map_err(failed)?;
            let (next, log_end) = (claim.next, claim.log_end);
            Ok((Found { next, log_end }, claim))
        };
        let note = |end| async move {
            let noted = self.sink.note_log_end(partition, end).await;
            noted.map_err(|error| failed(error.into()))
        };
        let (claim, log) = claim(what, claiming, self.log.offsets(partition), note).await?;
        Ok(Opened {
            state: (),
            epoch: claim.epoch,
            stored: claim.next,
            // A gap left by retention shows in the sequence of the records, and becomes an entry.
            position: claim.next.unwrap_or(log.start).max(log.start),
        })
    }

    fn take(&self, (): &mut (), record: &Taken<'_>, batch: &mut Records) -> Result<(), NeedsSchema> {
        let start = batch.bytes.len();
        batch.bytes.extend_from_slice(record.value);
        batch.records.push((record.offset, start..batch.bytes.len()));
        Ok(())
    }

    fn rows(batch: &Records) -> usize {
        batch.records.len()
    }

    fn clear(batch: &mut Records) {
        batch.bytes.clear();
        batch.records.clear();
    }

    fn seal(&self, (): &mut (), _next: i64, _batch: &mut Records) {}

    async fn write(&self, stretch: Stretch, batch: &Records) -> Result<(), WriteError> {
        let begun = Instant::now();
        let records: Vec<_> = batch
            .records
            .iter()
            .map(|(offset, range)| LedgerRecord {
                offset: *offset,
                value: &batch.bytes[range.clone()],
            })
            .collect();
        let appended = self
            .sink
            .append(&LedgerBatch {
                partition: stretch.partition,
                epoch: stretch.epoch,
                expected: stretch.expected,
                next: stretch.next,
                records: &records,
            })
            .await;
        match &appended {
            Ok(appended) => {
                let took = Took {
                    batch: begun.elapsed(),
                    commit: appended.commit,
                };
                self.metrics
                    .watch
                    .appended(appended.entries, appended.alerts, took);
            }
            Err(WriteError::Fenced { .. }) => {}
            Err(_) => self.metrics.failed(Service::Audit),
        }
        appended.map(drop)
    }

    fn lighten(_batch: &mut Records) {}

    fn knows(&self, _id: u32) -> bool {
        true
    }

    fn resolve(self: &Arc<Self>, _id: u32) {}

    fn release(&self, partition: i32, epoch: i64) {
        self.sink.release(partition, epoch);
    }
}
