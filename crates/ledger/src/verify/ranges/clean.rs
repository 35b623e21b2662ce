//! The clean records of a lane, by event. Pure.
//!
//! Raw records claim them one after the other: the first that claims an event takes the first record that has it. An event
//! that several claim is `shared`: which of them have got a record is then known only by the ledger's root.

use std::ops::Range;

use itertools::Itertools as _;

use crate::verify::account::EventId;

/// The clean records of a lane.
#[derive(Default)]
pub struct Clean {
    /// By event, and in the order of the topic within one.
    by_event: Vec<(EventId, u32)>,
    records: Vec<Record>,
}

struct Record {
    /// Where it stands in the topic.
    offset: i64,
    /// How many raw records have claimed its event, as far as that can be counted here; at the first that has it.
    claims: u32,
    state: State,
}

/// More claims than there can be: of ranges that can't be recomputed.
const LOOSE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No raw record has taken it.
    Free,
    /// One has.
    Taken,
    /// One of a range that can't be recomputed may have.
    Loose,
}

/// Whether an event was in clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Now it is taken.
    Taken,
    /// It was, as often as it is there.
    Before,
    /// No record has it.
    Nowhere,
}

impl Clean {
    /// Takes the next record of the topic. One that is no event is nobody's: it is left over.
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

    /// The places by event of those that have this one.
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

    /// A raw record has this event.
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

    /// A raw record has this event, and nobody can say whether, or how often, it was accepted.
    pub(super) fn loosen(&mut self, event: EventId) {
        for place in self.having(event) {
            let record = self.record_mut(place);
            record.claims = LOOSE;
            if record.state == State::Free {
                record.state = State::Loose;
            }
        }
    }

    /// It is in clean, and more than one raw record claims it.
    pub(super) fn is_shared(&self, event: EventId) -> bool {
        let first = self.having(event).next();
        first.is_some_and(|first| self.record(first).claims > 1)
    }

    /// The raw record that took the last of this event was a repeat.
    pub(super) fn give_back(&mut self, event: EventId) {
        let mut having = self.having(event);
        let is_loose = having.any(|place| self.record(place).claims == LOOSE);
        let to = if is_loose { State::Loose } else { State::Free };
        self.turn(event, State::Taken, to);
    }

    /// A raw record that was taken for a repeat of this event was accepted. False where there is no record left for it.
    pub(super) fn take(&mut self, event: EventId) -> bool {
        self.turn(event, State::Free, State::Taken) || self.turn(event, State::Loose, State::Taken)
    }

    /// Turns one record that has the event: the first that is to be taken, the last that is not any more.
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

    /// The first one that no raw record has taken and that can be neither older than what was read (unless that is the
    /// `whole`), nor of the `pending` ones behind it.
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

    /// From the first to the last that was taken for certain: because no other has its event.
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

    /// What raw records took of an event that others have, too, they took from this place on if they could: those before
    /// it are of raw records that were not read.
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

    /// What each event has.
    fn events(&self) -> impl Iterator<Item = &[(EventId, u32)]> {
        self.by_event.chunk_by(|(one, _), (other, _)| one == other)
    }
}
