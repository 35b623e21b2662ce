//! Undo log of aborted transactions: the previous values, in the order of the changes.

use std::collections::VecDeque;

use super::generation::{Entry, Generation, WebhookId};
use crate::gate::clock::LaneClock;

/// A point that a lane's state can return to. Neither `Copy` nor `Clone`: commit or rollback consumes it.
#[derive(Debug)]
#[must_use = "a transaction has to be committed or rolled back"]
pub struct Savepoint(u64);

/// State of a savepoint that is not in the log.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    pub(super) clock: LaneClock,
    /// Lengths of the current generation's arrays: they only grow, so their growth needs no step.
    pub(super) devices: usize,
    pub(super) window_words: usize,
}

/// One change that can be undone. All but `Rotated` change the generation that was current at the time.
#[cfg_attr(test, derive(Clone))]
pub(super) enum Step {
    /// First change since the savepoint of a device's entry that existed before it. The words of its window are in
    /// `UndoLog::words`.
    Device { index: u32, entry: Entry, words: usize },
    /// A webhook id was added.
    WebhookId(WebhookId),
    /// A generation began. `previous` was dropped, and so was `current` unless it became the previous one.
    Rotated {
        previous: Box<Generation>,
        current: Option<Box<Generation>>,
    },
}

/// The log and the open savepoints. Its size is bounded by the limits of the open transactions.
#[derive(Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct UndoLog {
    steps: VecDeque<Step>,
    words: VecDeque<u64>,
    /// Number of steps that were removed at the front.
    left: u64,
    /// Identity, number of the step at which it was taken, and mark of each savepoint.
    savepoints: VecDeque<(u64, u64, Mark)>,
    taken: u64,
    /// Grows with every savepoint. An entry that carries the current epoch is in the log already.
    /// It may wrap: no entry outlives two generations.
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

    /// Logs an entry before its first change since the last savepoint.
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

    /// Undoes every step since the savepoint. The caller truncates the current generation to the mark's lengths.
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

    /// Drops the steps that only this savepoint and earlier ones need.
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
