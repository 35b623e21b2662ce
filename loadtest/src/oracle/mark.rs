//! Ends of the four topics at one moment, so that a later verification can begin there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::topics::Topics;
use crate::kafka::{Kafka, KafkaError, Range, offsets_at, watermarks};

/// Ends of the four topics, by partition. Take a mark only when the gate has caught up: records that it produces later
/// for raw records before the mark would be reported as records without a raw one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    raw: BTreeMap<i32, i64>,
    clean: BTreeMap<i32, i64>,
    deadletter: BTreeMap<i32, i64>,
    ledger: BTreeMap<i32, i64>,
}

impl Mark {
    /// Reads the current ends.
    ///
    /// # Errors
    /// When no broker answers, or a topic does not exist.
    pub fn take(kafka: &Kafka, topics: &Topics) -> Result<Self, KafkaError> {
        let ends = |topic: &str| -> Result<BTreeMap<i32, i64>, KafkaError> {
            Ok(watermarks(kafka, topic)?
                .into_iter()
                .map(|range| (range.partition, range.next))
                .collect())
        };
        Ok(Self {
            raw: ends(&topics.raw)?,
            clean: ends(&topics.clean)?,
            deadletter: ends(&topics.deadletter)?,
            ledger: ends(&topics.ledger)?,
        })
    }

    pub(super) fn raw(&self, partition: i32) -> i64 {
        self.raw.get(&partition).copied().unwrap_or_default()
    }

    pub(super) fn clean(&self, partition: i32) -> i64 {
        self.clean.get(&partition).copied().unwrap_or_default()
    }

    pub(super) fn deadletter(&self, partition: i32) -> i64 {
        self.deadletter.get(&partition).copied().unwrap_or_default()
    }

    pub(super) fn ledger(&self, partition: i32) -> i64 {
        self.ledger.get(&partition).copied().unwrap_or_default()
    }
}

/// The ranges, extended back by that many milliseconds of log: records accepted then can be repeated inside the range.
pub(super) fn reach_back(
    kafka: &Kafka,
    topic: &str,
    ranges: &[Range],
    reach_ms: i64,
) -> Result<Vec<Range>, KafkaError> {
    let earlier = offsets_at(kafka, topic, ranges, reach_ms)?;
    let reach = |(range, offset): (&Range, i64)| Range {
        first: offset.min(range.first),
        ..*range
    };
    Ok(ranges.iter().zip(earlier).map(reach).collect())
}
