//! Where the four topics end at some moment, so that a later verification can begin there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Topics;
use crate::kafka::{Kafka, KafkaError, Range, offsets_at, watermarks};

/// The ends of the four topics, by partition. Take it while the gate has nothing left to do: what it still produces for
/// raw records before the mark would be taken for records without a raw one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    raw: BTreeMap<i32, i64>,
    clean: BTreeMap<i32, i64>,
    deadletter: BTreeMap<i32, i64>,
    ledger: BTreeMap<i32, i64>,
}

impl Mark {
    /// Reads the present ends.
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

/// The ranges, begun as many milliseconds of log earlier: what was accepted then can be repeated inside.
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
