//! A log in memory: partitions that grow, lose their beginning to retention, and lose their end with a broker.

use std::collections::BTreeMap;
use std::ops::Range;

/// Number of partitions.
pub const PARTITIONS: usize = 3;

/// A record.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Identifies the record: no two have the same.
    pub id: u64,
    /// Schema id that has to be resolved; 0 for none.
    pub schema: u32,
}

impl Entry {
    /// The value of the record.
    pub fn value(self) -> [u8; 12] {
        let mut value = [0; 12];
        value[..8].copy_from_slice(&self.id.to_le_bytes());
        value[8..].copy_from_slice(&self.schema.to_le_bytes());
        value
    }

    /// The record with this value.
    pub fn parse(value: &[u8]) -> Self {
        let number = |range: Range<usize>| {
            let bytes = value[range].iter().rev();
            bytes.fold(0, |number, &byte| number << 8 | u64::from(byte))
        };
        Self {
            id: number(0..8),
            schema: number(8..12) as u32,
        }
    }
}

/// One partition.
#[derive(Debug, Default)]
pub struct Partition {
    start: i64,
    /// By offset; transaction markers have no record.
    entries: Vec<Option<Entry>>,
    /// Offset of every record that there ever was.
    ever: BTreeMap<u64, i64>,
    /// Whether it ever lost its end.
    pub truncated: bool,
    /// Whether a worker has found that it did.
    pub is_seen_truncated: bool,
}

impl Partition {
    /// Offsets from the first one in the log up to the end, exclusive.
    pub fn offsets(&self) -> Range<i64> {
        self.start..self.entries.len() as i64
    }

    /// The record at an offset that is in the log.
    pub fn get(&self, offset: i64) -> Option<Entry> {
        let is_kept = self.offsets().contains(&offset);
        is_kept.then(|| self.entries[offset as usize]).flatten()
    }

    /// The records in the log within `range`.
    pub fn within(&self, range: Range<i64>) -> impl Iterator<Item = (i64, Entry)> {
        let kept = range.start.max(self.start)..range.end.min(self.offsets().end);
        kept.filter_map(|offset| Some((offset, self.get(offset)?)))
    }

    /// Whether the record was ever at this offset.
    pub fn ever_held(&self, offset: i64, id: u64) -> bool {
        self.ever.get(&id) == Some(&offset)
    }

    /// Appends a record, or a transaction marker.
    pub fn append(&mut self, entry: Option<Entry>) {
        if let Some(entry) = entry {
            self.ever.insert(entry.id, self.offsets().end);
        }
        self.entries.push(entry);
    }

    /// Deletes what is before `start`, as retention does.
    pub fn expire(&mut self, start: i64) {
        self.start = self.start.max(start.min(self.offsets().end));
    }

    /// Deletes what is at `end` and behind it, as when a broker loses the end of its log.
    pub fn truncate(&mut self, end: i64) {
        self.entries.truncate(end as usize);
        self.start = self.start.min(end);
        self.truncated = true;
    }
}
