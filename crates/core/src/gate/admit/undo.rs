//! How an aborted transaction is taken back: a log of what was there before, in the order in which it changed.

use std::collections::VecDeque;

use super::generation::{Entry, Generation, WebhookId};
use crate::gate::clock::LaneClock;

/// A point in a lane to which its state can return. Neither `Copy` nor `Clone`: it is used up by commit or rollback.
#[derive(Debug)]
#[must_use = "a transaction has to be committed or rolled back"]
pub struct Savepoint(u64);

/// What a savepoint has to know beyond the log.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    pub(super) clock: LaneClock,
    /// The length of the present generation's arrays: they only grow, so their growth needs no step.
    pub(super) devices: usize,
    pub(super) window_words: usize,
}

/// One change that can be taken back. All but `Rotated` are changes of the generation that was the present one then.
#[cfg_attr(test, derive(Clone))]
pub(super) enum Step {
    /// A device's entry, which stood in the generation before the savepoint, changed for the first time since. The words
    /// of its window stand in `UndoLog::words`.
    Device { index: u32, entry: Entry, words: usize },
    /// An id was added.
    WebhookId(WebhookId),
    /// A generation began. `previous` was dropped, and so was `current` unless it became the one before.
    Rotated {
        previous: Box<Generation>,
        current: Option<Box<Generation>>,
    },
}

/// The log, and the savepoints that are open. Bounded by what the open transactions may hold.
#[derive(Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct UndoLog {
    steps: VecDeque<Step>,
    words: VecDeque<u64>,
    /// How many steps have left at the front.
    left: u64,
    /// Identity, the step at which it was taken, and the rest.
    savepoints: VecDeque<(u64, u64, Mark)>,
    taken: u64,
    /// Grows with every savepoint. An entry that carries the present one need not be written down
    /// again. It may wrap: no entry outlives two generations.
    epoch: u32,
}

impl UndoLog {
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(super) fn open(&mut self, mark: Mark) -> Savepoint {
        self.taken += 1;
        self.epoch = self.epoch.wrapping_add(1);
        self.savepoints
            .push_back((self.taken, self.left + self.steps.len() as u64, mark));
        Savepoint(self.taken)
    }

    pub(super) fn push(&mut self, step: Step) {
        if !self.savepoints.is_empty() {
            self.steps.push_back(step);
        }
    }

    /// Writes an entry down before its first change since the last savepoint.
    pub(super) fn touch(&mut self, generation: &mut Generation, index: u32) {
        let old = *generation.entry_mut(index);
        if self.savepoints.is_empty() || old.touched == self.epoch {
            return;
        }
        let words = generation.window(&old);
        self.words.extend(words);
        self.steps.push_back(Step::Device {
            index,
            entry: old,
            words: words.len(),
        });
        generation.entry_mut(index).touched = self.epoch;
    }

    /// Takes back every step since the savepoint. The caller cuts the present generation's arrays to the mark's lengths.
    pub(super) fn rollback(
        &mut self,
        savepoint: Savepoint,
        current: &mut Box<Generation>,
        previous: &mut Box<Generation>,
    ) -> Mark {
        let place = self.place_of(savepoint);
        let (_, since, mark) = self.savepoints[place];
        self.savepoints.truncate(place);
        while self.left + self.steps.len() as u64 > since {
            let Some(step) = self.steps.pop_back() else {
                break;
            };
            self.take_back(step, current, previous);
        }
        mark
    }

    fn take_back(&mut self, step: Step, current: &mut Box<Generation>, previous: &mut Box<Generation>) {
        match step {
            Step::Device { index, entry, words } => {
                let at = self.words.len() - words;
                current.restore(index, entry, self.words.drain(at..));
            }
            Step::WebhookId(id) => current.remove_webhook_id(id),
            Step::Rotated {
                previous: older,
                current: ended,
            } => {
                let before = std::mem::replace(previous, older);
                *current = ended.unwrap_or(before);
            }
        }
    }

    fn place_of(&self, Savepoint(identity): Savepoint) -> usize {
        let place = self
            .savepoints
            .iter()
            .position(|savepoint| savepoint.0 == identity);
        place.expect("the savepoint is no longer open")
    }

    /// Forgets what only this savepoint and earlier ones need.
    pub(super) fn commit(&mut self, savepoint: Savepoint) {
        let place = self.place_of(savepoint);
        self.savepoints.drain(..=place);
        let end = self.left + self.steps.len() as u64;
        let keep_from = self.savepoints.front().map_or(end, |savepoint| savepoint.1);
        while self.left < keep_from {
            match self.steps.pop_front() {
                Some(Step::Device { words, .. }) => drop(self.words.drain(..words)),
                Some(Step::WebhookId(_) | Step::Rotated { .. }) | None => {}
            }
            self.left += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.words.is_empty() && self.savepoints.is_empty()
    }
}
