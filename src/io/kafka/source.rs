//! The seam under the workers' loops: what a worker asks of the group and of the log.
//!
//! [`Consumer`] answers from Kafka; the simulations of the roles answer from a scripted log in memory, so that every
//! rebalance, gap and error can be played in every order, without a broker and without waiting.

use std::collections::BTreeMap;
use std::time::Duration;

use pulsegate_ledger::record::Received;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::consumer::{Consumer, Rebalance};
use super::raw::{Message, Messages};

/// A group member's consumer of one topic. See [`Consumer`] for the contract of each method.
pub trait Source {
    /// Records that were fetched together.
    type Records: Records;

    /// An empty buffer for at most `records_max` records.
    fn buffer(records_max: usize) -> Self::Records;

    /// Serves the group protocol without waiting. Returns a fatal error, after which the source is of no use.
    fn serve(&self) -> Option<KafkaError>;

    /// The oldest rebalance that was not answered.
    fn rebalance(&self) -> Option<Rebalance>;

    /// Whether, since the last call, the next offset of some partition was found not to be in the log.
    fn take_gap(&self) -> bool;

    /// Takes the partitions, paused.
    ///
    /// # Errors
    /// When the client does not know them.
    fn assign(&self, partitions: &[i32]) -> KafkaResult<()>;

    /// Gives the partitions back.
    ///
    /// # Errors
    /// When the client does not know them.
    fn unassign(&self, partitions: &[i32]) -> KafkaResult<()>;

    /// Stops fetching a partition.
    ///
    /// # Errors
    /// When it is not assigned.
    fn pause(&self, partition: i32) -> KafkaResult<()>;

    /// Fetches a partition from `offset` on; what was fetched before is never delivered.
    ///
    /// # Errors
    /// When it is not assigned, or the assignment is not applied yet: call again.
    fn start(&self, partition: i32, offset: i64) -> KafkaResult<()>;

    /// Takes up to `records_max` of what was fetched, waiting at most `timeout` for as many.
    fn consume(&self, records: &mut Self::Records, records_max: usize, timeout: Duration);

    /// The last stable offset of each partition, if it was reported since the last call.
    fn take_stable_offsets(&self) -> Option<BTreeMap<i32, i64>>;
}

/// Records that were fetched together, in their order.
pub trait Records {
    /// One of them.
    type Record<'a>: Record<'a>
    where
        Self: 'a;

    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    fn iter(&self) -> impl Iterator<Item = Self::Record<'_>>;

    /// Drops the first `count`.
    fn release(&mut self, count: usize);

    /// Drops those of a partition.
    fn forget(&mut self, partition: i32);
}

/// A record, or the error that was delivered in its place.
pub trait Record<'a>: Copy {
    /// Its partition, also of an error.
    fn partition(self) -> i32;

    /// Its offset.
    fn offset(self) -> i64;

    /// Size of key and value, in bytes.
    fn bytes(self) -> usize;

    /// The error in its place.
    fn error(self) -> Option<RDKafkaErrorCode>;

    /// Whether it marks the present end of the log; such messages come only with `enable.partition.eof`.
    fn is_end(self) -> bool {
        self.error() == Some(RDKafkaErrorCode::PartitionEOF)
    }

    /// The record, and whether its timestamp is the broker's (`LogAppendTime`).
    fn received(self) -> (Received<'a>, bool);
}

impl Source for Consumer {
    type Records = Messages;

    fn buffer(records_max: usize) -> Messages {
        Messages::with_capacity(records_max)
    }

    fn serve(&self) -> Option<KafkaError> {
        Self::serve(self)
    }

    fn rebalance(&self) -> Option<Rebalance> {
        Self::rebalance(self)
    }

    fn take_gap(&self) -> bool {
        Self::take_gap(self)
    }

    fn assign(&self, partitions: &[i32]) -> KafkaResult<()> {
        Self::assign(self, partitions)
    }

    fn unassign(&self, partitions: &[i32]) -> KafkaResult<()> {
        Self::unassign(self, partitions)
    }

    fn pause(&self, partition: i32) -> KafkaResult<()> {
        Self::pause(self, partition)
    }

    fn start(&self, partition: i32, offset: i64) -> KafkaResult<()> {
        Self::start(self, partition, offset)
    }

    fn consume(&self, records: &mut Messages, records_max: usize, timeout: Duration) {
        Self::consume(self, records, records_max, timeout);
    }

    fn take_stable_offsets(&self) -> Option<BTreeMap<i32, i64>> {
        Self::take_stable_offsets(self)
    }
}

impl Records for Messages {
    type Record<'a> = Message<'a>;

    fn len(&self) -> usize {
        Self::len(self)
    }

    fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        Self::iter(self)
    }

    fn release(&mut self, count: usize) {
        Self::release(self, count);
    }

    fn forget(&mut self, partition: i32) {
        Self::forget(self, partition);
    }
}

impl<'a> Record<'a> for Message<'a> {
    fn partition(self) -> i32 {
        Self::partition(self)
    }

    fn offset(self) -> i64 {
        Self::offset(self)
    }

    fn bytes(self) -> usize {
        Self::bytes(self)
    }

    fn error(self) -> Option<RDKafkaErrorCode> {
        Self::error(self)
    }

    fn received(self) -> (Received<'a>, bool) {
        Self::received(self)
    }
}
