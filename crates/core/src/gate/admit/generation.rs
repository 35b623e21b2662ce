//! The state that one generation of a lane remembers, in a few flat arrays.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::gate::clock::NEVER;
use crate::gate::verify::MessageId;

/// Index of an absent device or window.
pub(super) const NONE: u32 = u32::MAX;

/// A generation's verdict on a record. The larger verdict of two generations counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Judgement {
    /// Not seen before.
    New,
    /// Older than the window, so unknown.
    Unknowable,
    /// Seen before.
    Repeated,
}

/// A device in a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) slot: u32,
    /// The savepoint epoch in which this entry was last copied to the undo log.
    pub(super) touched: u32,
    /// Index of the device in the previous generation, or `NONE`. That generation no longer changes.
    pub(super) earlier: u32,
    /// Start of the device's window in `windows`, or `NONE` if the device has not sent a `jws` record.
    pub(super) window: u32,
    /// The highest boot counter seen.
    boot: u64,
    /// The highest message number of that boot.
    highest: u64,
    /// Rate state of the device: its theoretical arrival time in nanoseconds.
    pub(super) arrival_ns: i64,
}

/// A webhook id of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(Rust, packed(4))]
pub(super) struct WebhookId {
    pub(super) slot: u32,
    pub(super) hash: u64,
}

/// Devices, replay windows and webhook ids of one generation.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Generation {
    pub(super) number: i64,
    window_words: usize,
    index: HashTable<u32>,
    entries: Vec<Entry>,
    /// Replay windows in the manner of RFC 6479: bit `number mod size` of a device's words is set if the message was
    /// seen. Bits are cleared as the window moves over them, so the whole window is usable.
    windows: Vec<u64>,
    webhook_ids: HashTable<WebhookId>,
}

impl Generation {
    pub(super) fn new(window_words: usize) -> Self {
        Self {
            number: i64::MIN,
            window_words,
            index: HashTable::new(),
            entries: Vec::new(),
            windows: Vec::new(),
            webhook_ids: HashTable::new(),
        }
    }

    /// An empty generation with the same settings.
    pub(super) fn successor(&self, number: i64) -> Box<Self> {
        Box::new(Self {
            number,
            ..Self::new(self.window_words)
        })
    }

    pub(super) fn devices(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn webhook_ids(&self) -> usize {
        self.webhook_ids.len()
    }

    pub(super) fn find(&self, slot: u32) -> Option<u32> {
        self.index
            .find(hash_slot(slot), |&index| {
                self.entries[index as usize].slot == slot
            })
            .copied()
    }

    pub(super) fn entry_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }

    pub(super) fn insert(&mut self, slot: u32, earlier: u32, touched: u32) -> u32 {
        // The caller keeps the number of devices below `u32::MAX`.
        let index = self.entries.len() as u32;
        self.entries.push(Entry {
            slot,
            touched,
            earlier,
            window: NONE,
            boot: 0,
            highest: 0,
            arrival_ns: NEVER,
        });
        let entries = &self.entries;
        self.index.insert_unique(hash_slot(slot), index, |&index| {
            hash_slot(entries[index as usize].slot)
        });
        index
    }

    /// Judges a record of the device at `index` (`NONE`: the device has not been seen).
    pub(super) fn judge(&self, index: u32, slot: u32, id: MessageId) -> Judgement {
        match id {
            MessageId::Webhook { hash } if self.has_webhook_id(WebhookId { slot, hash }) => {
                Judgement::Repeated
            }
            MessageId::Webhook { .. } => Judgement::New,
            MessageId::Jws { boot, number } => match self.entries.get(index as usize) {
                Some(entry) if entry.window != NONE => self.judge_number(entry, boot, number),
                _ => Judgement::New,
            },
        }
    }

    fn judge_number(&self, entry: &Entry, boot: u64, number: u64) -> Judgement {
        if boot > entry.boot || (boot == entry.boot && number > entry.highest) {
            return Judgement::New;
        }
        if boot < entry.boot || entry.highest - number >= self.window_bits() {
            return Judgement::Unknowable;
        }
        let (word, bit) = self.bit(number);
        if self.windows[entry.window as usize + word] & bit == 0 {
            Judgement::New
        } else {
            Judgement::Repeated
        }
    }

    /// Marks a message as seen. One that lies before the window leaves no mark and stays unknowable.
    pub(super) fn mark(&mut self, index: u32, boot: u64, number: u64) {
        let bits = self.window_bits();
        let (word, bit) = self.bit(number);
        let entry = &mut self.entries[index as usize];
        if entry.window == NONE {
            entry.window = self.windows.len() as u32;
            (entry.boot, entry.highest) = (boot, number);
            self.windows.resize(self.windows.len() + self.window_words, 0);
        }
        let window = &mut self.windows[entry.window as usize..][..self.window_words];
        if boot > entry.boot {
            (entry.boot, entry.highest) = (boot, number);
            window.fill(0);
        } else if boot < entry.boot || (number < entry.highest && entry.highest - number >= bits) {
            return;
        } else if number > entry.highest {
            slide(window, entry.highest, number);
            entry.highest = number;
        }
        window[word] |= bit;
    }

    pub(super) fn has_webhook_id(&self, id: WebhookId) -> bool {
        self.webhook_ids
            .find(hash_webhook_id(id), |&known| known == id)
            .is_some()
    }

    pub(super) fn insert_webhook_id(&mut self, id: WebhookId) {
        self.webhook_ids
            .insert_unique(hash_webhook_id(id), id, |&id| hash_webhook_id(id));
    }

    pub(super) fn remove_webhook_id(&mut self, id: WebhookId) {
        if let Ok(entry) = self
            .webhook_ids
            .find_entry(hash_webhook_id(id), |&known| known == id)
        {
            entry.remove();
        }
    }

    /// The window words of an entry.
    pub(super) fn window(&self, entry: &Entry) -> &[u64] {
        match entry.window {
            NONE => &[],
            at => &self.windows[at as usize..][..self.window_words],
        }
    }

    /// Restores an entry. `words` are those of its window, empty if it had none.
    pub(super) fn restore(&mut self, index: u32, entry: Entry, words: impl Iterator<Item = u64>) {
        self.entries[index as usize] = entry;
        if entry.window != NONE {
            for (place, word) in self.windows[entry.window as usize..].iter_mut().zip(words) {
                *place = word;
            }
        }
    }

    pub(super) fn lengths(&self) -> (usize, usize) {
        (self.entries.len(), self.windows.len())
    }

    /// Drops the devices and windows beyond these lengths.
    pub(super) fn truncate(&mut self, devices: usize, window_words: usize) {
        for (index, entry) in self.entries.iter().enumerate().skip(devices) {
            let found = self
                .index
                .find_entry(hash_slot(entry.slot), |&other| other as usize == index);
            if let Ok(place) = found {
                place.remove();
            }
        }
        self.entries.truncate(devices);
        self.windows.truncate(window_words);
    }

    fn window_bits(&self) -> u64 {
        self.window_words as u64 * 64
    }

    fn bit(&self, number: u64) -> (usize, u64) {
        let at = number % self.window_bits();
        ((at / 64) as usize, 1 << (at % 64))
    }

    /// Everything that affects decisions, in canonical order.
    #[cfg(test)]
    pub(super) fn contents(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let devices: std::collections::BTreeMap<_, _> = self
            .entries
            .iter()
            .map(|entry| {
                assert_eq!(
                    self.find(entry.slot).map(|index| self.entries[index as usize]),
                    Some(*entry)
                );
                let window = self.window(entry).to_vec();
                (
                    entry.slot,
                    (entry.earlier, entry.boot, entry.highest, entry.arrival_ns, window),
                )
            })
            .collect();
        assert_eq!(self.index.len(), self.entries.len());
        (
            self.number,
            devices,
            self.webhook_ids
                .iter()
                .copied()
                .collect::<std::collections::BTreeSet<_>>(),
        )
    }
}

/// Clears the bits of the messages after `from` up to `to`, in a ring of bits.
fn slide(window: &mut [u64], from: u64, to: u64) {
    let bits = window.len() as u64 * 64;
    if to - from >= bits {
        return window.fill(0);
    }
    let mut next = from + 1;
    while next <= to {
        let at = next % bits;
        // Up to the end of this word or to the last message.
        let run = (64 - at % 64).min(to - next + 1);
        let ones = if run == 64 { u64::MAX } else { (1 << run) - 1 };
        window[(at / 64) as usize] &= !(ones << (at % 64));
        next = match next.checked_add(run) {
            Some(next) => next,
            None => return,
        };
    }
}

fn hash_slot(slot: u32) -> u64 {
    FixedState::default().hash_one(slot)
}

fn hash_webhook_id(id: WebhookId) -> u64 {
    FixedState::default().hash_one((id.hash, id.slot))
}
