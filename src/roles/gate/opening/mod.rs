//! Opening a lane: reconciles the group's committed offset, the ledger and the range of the raw log, then rebuilds the
//! replay windows and rates from the log itself. What it asks of Kafka is [`LaneLog`].

mod log;
pub mod opened;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::info;

pub use self::log::{KafkaLog, LaneLog};
pub use self::opened::{OpenError, Opened, report};
use super::services::Services;
use super::shared::Gate;
use crate::io::kafka::source::{Record as _, Records};
use crate::roles::assignments::Opening;
use pulsegate_core::event::Verdict;
use pulsegate_core::gate::lane::Lane;
use pulsegate_core::gate::pipeline::{Past, Pipeline};
use pulsegate_ledger::entry::{Outset, Standing};

/// How often a broker looks for transactions that have timed out
/// (`transaction.abort.timed.out.transaction.cleanup.interval.ms`).
const ABORT_INTERVAL: Duration = Duration::from_secs(10);

/// Opens `partition`, of which `log` makes the log, blocking until it is open; cancelling the opening ends it early.
///
/// # Errors
///
/// [`OpenError`]; retrying does not help if it [is final](OpenError::is_final).
pub fn open<S: Services, L: LaneLog>(
    gate: &Gate<S>,
    partition: i32,
    opening: &Opening,
    log: impl FnOnce() -> Result<L, OpenError>,
) -> Result<Lane, OpenError> {
    answered(partition, || Opener::new(gate, partition, opening, log()?).run())
}

/// Turns a panic into an error: without an answer the worker would wait for this lane forever.
fn answered<T>(partition: i32, open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or(Err(OpenError::Panicked { partition }))
}

/// Opens one lane.
pub(super) struct Opener<'g, S, L> {
    gate: &'g Gate<S>,
    partition: i32,
    opening: &'g Opening,
    log: L,
}

impl<'g, S: Services, L: LaneLog> Opener<'g, S, L> {
    pub(super) fn new(gate: &'g Gate<S>, partition: i32, opening: &'g Opening, log: L) -> Self {
        Self {
            gate,
            partition,
            opening,
            log,
        }
    }

    pub(super) fn run(&self) -> Result<Lane, OpenError> {
        let started = self.gate.services.now();
        let outset = self.agree()?;
        let position = outset.position();
        let (past, rescanned) = self.rebuild(position)?;
        let lane = Lane::open(
            &self.gate.config.topics.raw,
            self.partition,
            outset,
            past.admission,
            past.budget,
        );
        self.gate.opened(self.partition);
        let elapsed_ms = (self.gate.services.now() - started).as_millis();
        info!(
            lane = self.partition,
            position, rescanned, elapsed_ms, "lane opened"
        );
        Ok(lane)
    }

    /// Retries until the group, the ledger and the log agree: the markers of the last committed transaction may reach
    /// the ledger's partition later, and a transaction that its worker has left open hides everything behind it until
    /// the broker aborts it.
    fn agree(&self) -> Result<Outset, OpenError> {
        let gate = self.gate;
        let reconcile = |rewind| {
            let refused = |refusal| OpenError::Refused {
                partition: self.partition,
                refusal,
            };
            self.standing()?.reconcile(rewind).map_err(refused)
        };
        let timeout = Duration::from_millis(gate.config.gate.transaction_timeout_ms);
        let until = gate.services.now() + timeout + ABORT_INTERVAL;
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .without_max_times()
            .build();
        loop {
            let agreed = reconcile(false);
            let Err(OpenError::Refused { refusal, .. }) = &agreed else {
                return agreed;
            };
            let passing = refusal.may_pass()
                && gate.services.now() < until
                && !self.opening.is_cancelled()
                && !planted!(HeadNotAwaited);
            match pauses.next().filter(|_| passing) {
                Some(pause) => gate.services.rest(pause),
                // Only after the retries: while the last ledger record is not visible yet, the chain would continue
                // from the record before it.
                None if gate.may_rewind(self.partition) => return reconcile(true),
                None => return agreed,
            }
        }
    }

    fn standing(&self) -> Result<Standing, OpenError> {
        // Read the committed offset first: the broker answers only when no transaction has offsets pending here, so
        // the ledger read afterwards cannot be older.
        let committed = self.log.committed()?;
        let head = self.log.head()?;
        let (low, high) = self.log.watermarks()?;
        Ok(Standing {
            head,
            committed,
            low: if planted!(RetentionUnnoticed) { 0 } else { low },
            high,
        })
    }

    /// Replays the log from the start of the previous generation up to `position`, which gives the admission the state
    /// that it would have had without a pause (see [`Admission`](pulsegate_core::gate::admit::Admission)).
    fn rebuild(&self, position: i64) -> Result<(Past, usize), OpenError> {
        let mut past = self.gate.no_past(&self.gate.services.knowledge());
        let Some(from) = self.rescan_start(position)?.filter(|_| !planted!(PastNotRebuilt)) else {
            return Ok((past, 0));
        };
        let (mut pipeline, mut rescanned) = (Pipeline::default(), 0);
        self.log.read(from, |records| {
            rescanned += records.len();
            self.replay(&mut past, &mut pipeline, records, position)
        })?;
        Ok((past, rescanned))
    }

    /// Replays one chunk. True when it reached `position` or the end of the log.
    fn replay(
        &self,
        past: &mut Past,
        pipeline: &mut Pipeline,
        records: &L::Records,
        position: i64,
    ) -> Result<bool, OpenError> {
        let knowledge = self.gate.services.knowledge();
        let rules = self.gate.rules(&knowledge);
        pipeline.clear();
        past.admission.learn_classes(knowledge.keyring.classes());
        let mut next = None;
        for record in records.iter() {
            match record.error() {
                Some(RDKafkaErrorCode::PartitionEOF) => return Ok(true),
                Some(code) => {
                    return Err(OpenError::Kafka {
                        partition: self.partition,
                        error: KafkaError::MessageConsumption(code),
                    });
                }
                None => {}
            }
            let (record, by_broker) = record.received();
            if record.offset >= position {
                return Ok(true);
            }
            next = Some(record.offset + 1);
            // The timestamp is the producer's: no worker admitted this record, and the lane was moved past it.
            if by_broker {
                past.replay(pipeline, record, &rules, |id| self.ask_about_schema(id))?;
            }
        }
        Ok(next.is_some_and(|next| next >= position))
    }

    /// Resolves a schema id on this thread: if the opening started over after each id, the first of many ids would be
    /// evicted from the cache before the last were resolved.
    fn ask_about_schema(&self, id: u32) -> Result<Verdict, OpenError> {
        S::ask_about_schema(self.gate, id).map_err(|error| OpenError::Schema {
            partition: self.partition,
            id,
            error,
        })
    }

    /// The first offset of the generation before the one of the record at `position`; `None` when there is nothing to
    /// replay before it.
    fn rescan_start(&self, position: i64) -> Result<Option<i64>, OpenError> {
        let (low, _) = self.log.watermarks()?;
        if position <= low {
            return Ok(None);
        }
        let last_ms = match self.log.timestamp(position - 1)? {
            None => return Ok(None),
            Some((last_ms, true)) => last_ms,
            // A producer's timestamp does not tell how far back the generation began.
            Some((_, false)) => return Ok(Some(low)),
        };
        let found = self.log.offset_at(self.gate.rebuild_start_ms(last_ms))?;
        Ok(found
            .filter(|&offset| offset < position)
            .map(|offset| offset.max(low)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_opening_is_a_final_error() {
        let opened = answered(3, || -> Result<(), _> { panic!("a bug") });
        let Err(error @ OpenError::Panicked { partition: 3 }) = opened else {
            panic!("{opened:?}");
        };
        assert!(error.is_final());
    }
}
