//! Many series in little memory: a bounded table, and the window in which readings are averaged.
//!
//! Evictions depend only on the order of observations, so a rebuild from the log holds the same entries.

use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Number of entries that are allocated together, so that growth never moves existing entries.
const CHUNK: usize = 256;

/// A bounded map. When it is full, a new key evicts one that was not used recently (the CLOCK algorithm, Corbató 1968):
/// a hand goes round, clears the mark of each entry used since its last pass, and stops at the first entry without a
/// mark.
pub struct Table<K, V> {
    index: HashTable<u32>,
    chunks: Vec<Vec<Entry<K, V>>>,
    hasher: FixedState,
    hand: u32,
    len: u32,
    max: u32,
    evicted: u64,
}

struct Entry<K, V> {
    key: K,
    used: bool,
    value: V,
}

impl<K: Copy + Eq + Hash, V: Default> Table<K, V> {
    /// An empty table of at most `max` entries; at least one.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self {
            index: HashTable::new(),
            chunks: Vec::new(),
            hasher: FixedState::default(),
            hand: 0,
            len: 0,
            max: max.max(1),
            evicted: 0,
        }
    }

    /// Number of entries.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether the table has no entries.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of entries evicted since the table was created.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Heap memory of the table, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.chunks.len() * (CHUNK * size_of::<Entry<K, V>>() + size_of::<Vec<Entry<K, V>>>())
            + self.index.allocation_size()
    }

    /// The value of a key, marked as used. A missing entry is created with the default value, evicting one if
    /// necessary.
    pub fn enter(&mut self, key: K) -> &mut V {
        let hash = self.hasher.hash_one(key);
        let chunks = &self.chunks;
        let found = self.index.find(hash, |&at| entry(chunks, at).key == key);
        let at = match found {
            Some(&at) => at,
            None if self.len < self.max => self.append(key, V::default()),
            None => self.replace(key),
        };
        let entry = entry_mut(&mut self.chunks, at);
        entry.used = true;
        &mut entry.value
    }

    /// The entries in the order that [`Table::restore`] expects, each with its mark.
    pub fn entries(&self) -> impl Iterator<Item = (&K, &V, bool)> {
        self.chunks
            .iter()
            .flatten()
            .map(|entry| (&entry.key, &entry.value, entry.used))
    }

    /// The position of the hand.
    #[must_use]
    pub const fn hand(&self) -> u32 {
        self.hand
    }

    /// Adds an entry from a snapshot and returns false if the table is full or already has the key.
    #[must_use]
    pub fn restore(&mut self, key: K, value: V, used: bool) -> bool {
        let hash = self.hasher.hash_one(key);
        let chunks = &self.chunks;
        if self.len >= self.max
            || self
                .index
                .find(hash, |&at| entry(chunks, at).key == key)
                .is_some()
        {
            return false;
        }
        let at = self.append(key, value);
        entry_mut(&mut self.chunks, at).used = used;
        true
    }

    /// Sets the hand and returns false if the position does not exist.
    #[must_use]
    pub const fn restore_hand(&mut self, hand: u32) -> bool {
        self.hand = hand;
        hand == 0 || hand < self.len
    }

    fn append(&mut self, key: K, value: V) -> u32 {
        let at = self.len;
        if (at as usize).is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(Entry {
                key,
                used: false,
                value,
            });
        }
        self.len += 1;
        self.insert(key, at);
        at
    }

    fn replace(&mut self, key: K) -> u32 {
        let at = loop {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.len;
            let entry = entry_mut(&mut self.chunks, at);
            if !std::mem::take(&mut entry.used) {
                break at;
            }
        };
        let old = std::mem::replace(&mut entry_mut(&mut self.chunks, at).key, key);
        if let Ok(found) = self
            .index
            .find_entry(self.hasher.hash_one(old), |&other| other == at)
        {
            found.remove();
        }
        entry_mut(&mut self.chunks, at).value = V::default();
        self.insert(key, at);
        self.evicted += 1;
        at
    }

    fn insert(&mut self, key: K, at: u32) {
        let (chunks, hasher) = (&self.chunks, &self.hasher);
        self.index.insert_unique(hasher.hash_one(key), at, |&at| {
            hasher.hash_one(entry(chunks, at).key)
        });
    }
}

fn entry<K, V>(chunks: &[Vec<Entry<K, V>>], at: u32) -> &Entry<K, V> {
    &chunks[at as usize / CHUNK][at as usize % CHUNK]
}

fn entry_mut<K, V>(chunks: &mut [Vec<Entry<K, V>>], at: u32) -> &mut Entry<K, V> {
    &mut chunks[at as usize / CHUNK][at as usize % CHUNK]
}

/// The average of a few minutes of readings. On real wrist heart rates, scoring averages instead of single readings
/// gives a tenth of the alerts and misses nothing that lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    start_ms: i64,
    sum: f64,
    count: u32,
}

/// A window that takes no more readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Closed {
    /// Event time of its start, in ms since 1970.
    pub start_ms: i64,
    /// The mean of its readings.
    pub mean: f64,
}

impl Window {
    /// Whether a reading of this time is late, because its window is already closed.
    #[must_use]
    pub const fn is_past(&self, time_ms: i64, length_ms: i64) -> bool {
        self.count > 0 && start(time_ms, length_ms) < self.start_ms
    }

    /// Takes a reading that is not late. Returns the previous window if the reading belongs to a later one and closes
    /// it.
    pub fn observe(&mut self, time_ms: i64, value: f64, length_ms: i64) -> Option<Closed> {
        let start_ms = start(time_ms, length_ms);
        let closed = (self.count > 0 && start_ms != self.start_ms).then(|| Closed {
            start_ms: self.start_ms,
            mean: self.sum / f64::from(self.count),
        });
        if closed.is_some() || self.count == 0 {
            *self = Self {
                start_ms,
                sum: 0.0,
                count: 0,
            };
        }
        self.sum += value;
        self.count += 1;
        closed
    }

    /// The start, sum and count, for a snapshot.
    #[must_use]
    pub const fn parts(&self) -> (i64, f64, u32) {
        (self.start_ms, self.sum, self.count)
    }

    /// Restores the window from [`Window::parts`].
    #[must_use]
    pub const fn from_parts((start_ms, sum, count): (i64, f64, u32)) -> Self {
        Self { start_ms, sum, count }
    }
}

const fn start(time_ms: i64, length_ms: i64) -> i64 {
    time_ms - time_ms.rem_euclid(length_ms)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn recently_used_entries_are_not_evicted() {
        let mut table = Table::<u32, u32>::new(3);
        for key in [1, 2, 3] {
            *table.enter(key) = key * 10;
        }
        // The hand clears every mark and comes back to 1.
        assert_eq!(*table.enter(4), 0);
        assert_eq!(*table.enter(2), 20);
        assert_eq!(*table.enter(5), 0, "3 is evicted, since 2 was just used");
        assert_eq!((*table.enter(2), table.len(), table.evicted()), (20, 3, 2));
    }

    proptest! {
        #[test]
        fn a_table_is_a_bounded_map_and_a_restored_copy_behaves_the_same(
            keys in proptest::collection::vec(0..60_u32, 1..600), cut in 0..600_usize, max in 1..40_u32
        ) {
            let mut table = Table::<u32, Vec<u32>>::new(max);
            let mut copy: Option<Table<u32, Vec<u32>>> = None;
            for (step, &key) in keys.iter().enumerate() {
                if step == cut % keys.len() {
                    let mut other = Table::new(max);
                    for (key, value, used) in table.entries() {
                        prop_assert!(other.restore(*key, value.clone(), used));
                    }
                    prop_assert!(other.restore_hand(table.hand()));
                    copy = Some(other);
                }
                for table in std::iter::once(&mut table).chain(&mut copy) {
                    let value = table.enter(key);
                    prop_assert!(value.iter().all(|&one| one == key), "each key has its own value");
                    value.push(key);
                    prop_assert!(table.len() <= max);
                }
            }
            let all = |table: &Table<u32, Vec<u32>>| -> Vec<_> {
                table.entries().map(|(key, value, used)| (*key, value.clone(), used)).collect()
            };
            let held: HashSet<_> = all(&table).into_iter().map(|(key, ..)| key).collect();
            prop_assert_eq!(held.len(), table.len() as usize);
            prop_assert!(held.contains(keys.last().expect("not empty")));
            if let Some(copy) = copy {
                prop_assert_eq!(all(&copy), all(&table));
                prop_assert_eq!(copy.hand(), table.hand());
            }
        }
    }

    #[test]
    fn a_window_is_closed_by_the_next_one() {
        let mut window = Window::default();
        assert_eq!(window.observe(61_000, 60.0, 60_000), None);
        assert_eq!(window.observe(119_999, 70.0, 60_000), None);
        assert!(window.is_past(59_999, 60_000) && !window.is_past(60_000, 60_000));
        let closed = window.observe(300_000, 80.0, 60_000);
        assert_eq!(
            closed,
            Some(Closed {
                start_ms: 60_000,
                mean: 65.0
            })
        );
        assert_eq!(
            window.observe(-1, 1.0, 60_000).map(|closed| closed.start_ms),
            Some(300_000)
        );
        assert_eq!(window.parts().0, -60_000);
    }
}
