//! Clean records of a lane, by event. Pure.
//!
//! Raw records claim them in order: the first raw record that claims an event takes the event's first clean record. An
//! event claimed by several raw records is `shared`: only the ledger's root tells which of them were accepted.

use std::ops::Range;

use itertools::Itertools as _;

use crate::verify::account::EventId;

/// The clean records of a lane.
#[derive(Default)]
pub struct Clean {
    /// Record numbers by event, and within an event in the order of the topic.
    by_event: Vec<(EventId, u32)>,
    records: Vec<Record>,
}

struct Record {
    /// Offset in the clean topic.
    offset: i64,
    /// Number of raw records that have claimed its event, as far as countable; kept at the event's first record.
    claims: u32,
    state: State,
}

/// Number of claims that stands for "unknown": the event occurs in a range that cannot be recomputed.
const LOOSE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No raw record has taken it.
    Free,
    /// A raw record has taken it.
    Taken,
    /// A raw record of a range that cannot be recomputed may have taken it.
    Loose,
}

/// Result of claiming an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The claim took a clean record of the event.
    Taken,
    /// All clean records of the event were already taken.
    Before,
    /// No clean record has the event.
    Nowhere,
}

impl Clean {
    /// Adds the next record of the topic. A record that is not an event is never claimed, hence left over.
    pub fn add(&mut self, offset: i64, event: Option<EventId>) {
        self.by_event
            .extend(event.map(|event| (event, self.records.len() as u32)));
        self.records.push(Record {
            offset,
            claims: 0,
            state: State::Free,
        });
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Sorts them by event, once all were added.
    pub fn sort(&mut self) {
        self.by_event.sort_unstable();
    }

    /// Places in `by_event` of the records with this event.
    fn having(&self, event: EventId) -> Range<usize> {
        let from = self.by_event.partition_point(|(other, _)| *other < event);
        let count = self.by_event[from..].partition_point(|(other, _)| *other == event);
        from..from + count
    }

    fn record(&self, place: usize) -> &Record {
        &self.records[self.by_event[place].1 as usize]
    }

    fn record_mut(&mut self, place: usize) -> &mut Record {
        &mut self.records[self.by_event[place].1 as usize]
    }

    /// Claims the event for a raw record.
    pub(super) fn claim(&mut self, event: EventId) -> Claim {
        let Some(first) = self.having(event).next() else {
            return Claim::Nowhere;
        };
        let claims = &mut self.record_mut(first).claims;
        *claims = claims.saturating_add(1);
        if self.turn(event, State::Free, State::Taken) {
            Claim::Taken
        } else {
            Claim::Before
        }
    }

    /// Notes a raw record with this event of which it is unknown whether, or how often, it was accepted.
    pub(super) fn loosen(&mut self, event: EventId) {
        for place in self.having(event) {
            let record = self.record_mut(place);
            record.claims = LOOSE;
            if record.state == State::Free {
                record.state = State::Loose;
            }
        }
    }

    /// Whether the event is in clean and more than one raw record claims it.
    pub(super) fn is_shared(&self, event: EventId) -> bool {
        let first = self.having(event).next();
        first.is_some_and(|first| self.record(first).claims > 1)
    }

    /// Takes back the last claim of this event: its raw record was a repeat.
    pub(super) fn give_back(&mut self, event: EventId) {
        let mut having = self.having(event);
        let is_loose = having.any(|place| self.record(place).claims == LOOSE);
        let to = if is_loose { State::Loose } else { State::Free };
        self.turn(event, State::Taken, to);
    }

    /// Takes a clean record for a raw record that was mistaken for a repeat. Returns false if no record is left.
    pub(super) fn take(&mut self, event: EventId) -> bool {
        self.turn(event, State::Free, State::Taken) || self.turn(event, State::Loose, State::Taken)
    }

    /// Changes the state of one record of the event: the first one to take it, the last one to give it back.
    fn turn(&mut self, event: EventId, from: State, to: State) -> bool {
        let mut places = self.having(event);
        let is_from = |place: &usize| self.record(*place).state == from;
        let found = match from {
            State::Taken => places.rfind(is_from),
            State::Free | State::Loose => places.find(is_from),
        };
        if let Some(place) = found {
            self.record_mut(place).state = to;
        }
        found.is_some()
    }

    /// Returns the first record that no raw record has taken, and that can neither be older than the records read
    /// (unless they are the `whole` topic) nor belong to the `pending` ones behind it.
    pub(super) fn left(&mut self, whole: bool, pending: Option<u64>) -> Option<i64> {
        let inside = self.inside(whole);
        self.prefer_from(inside.start);
        let is_free = |record: &&Record| record.state == State::Free;
        let mut behind = self.records[inside.end..].iter().filter(is_free);
        let too_many = pending.is_some_and(|pending| behind.clone().count() as u64 > pending);
        let behind = behind
            .next()
            .filter(|_| too_many && (whole || !inside.is_empty()));
        let left = self.records[inside].iter().find(is_free).or(behind);
        left.map(|record| record.offset)
    }

    /// Range from the first to the last record certainly taken: taken records that are the only one of their event.
    fn inside(&self, whole: bool) -> Range<usize> {
        let sure = self.events().filter_map(|same| match same {
            [(_, number)] => {
                Some(*number as usize).filter(|number| self.records[*number].state == State::Taken)
            }
            _ => None,
        });
        match sure.minmax().into_option() {
            Some((first, last)) => (if whole { 0 } else { first })..last + 1,
            None => 0..0,
        }
    }

    /// Moves claims of shared events to records from this place on where possible: earlier ones belong to raw records
    /// that were not read.
    fn prefer_from(&mut self, first: usize) {
        let mut turned = Vec::new();
        for same in self.events().filter(|same| same.len() > 1) {
            let (before, from) =
                same.split_at(same.partition_point(|(_, number)| (*number as usize) < first));
            let numbers = from.iter().chain(before).map(|(_, number)| *number as usize);
            let state = |number: usize| self.records[number].state;
            let taken = numbers
                .clone()
                .filter(|number| state(*number) == State::Taken)
                .count();
            let tight = numbers.filter(|number| state(*number) != State::Loose);
            turned.extend(tight.enumerate().map(|(place, number)| (number, place < taken)));
        }
        for (number, taken) in turned {
            self.records[number].state = if taken { State::Taken } else { State::Free };
        }
    }

    /// Records grouped by event.
    fn events(&self) -> impl Iterator<Item = &[(EventId, u32)]> {
        self.by_event.chunk_by(|(one, _), (other, _)| one == other)
    }
}
