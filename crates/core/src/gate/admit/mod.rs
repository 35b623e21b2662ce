//! Decides whether a verified record is new and within its device's rate. Each lane has one [`Admission`].
//!
//! The state is a pure function of the raw log since the start of the previous generation (generations: see
//! [`super::clock`]), so a worker that takes over a lane rebuilds it by reading that part of the log again
//! ([`Admission::rebuild_start_ms`]). That holds because of three rules:
//!
//! - Every record that reaches the replay check is *looked up* in this generation and in the previous one, and *marked*
//!   in this one, whatever the outcome. The content of a generation then depends on its own records alone. (So a replay
//!   of a record that is rejected here is `duplicate`: the first copy is in the deadletter topic, nothing is lost.)
//! - Rate limits start anew with every generation, at the cost of at most one more burst.
//! - Freshness is checked a second time, against the lane's clock. That differs from the first check only after append
//!   times stepped back, and makes two generations sufficient even then.
//!
//! Outcomes: `duplicate`; `stale` for a record that can't be judged because it is older than the window, from before
//! the device's last start, or not fresh by the lane's clock; `rate_limited` beyond the device's rate, and where a
//! bound of [`Config`] leaves no room to remember the record.

mod generation;
mod undo;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::clock::{self, Gcra, LaneClock};
use super::verify::{MessageId, Sequence};
use generation::{Generation, Judgement, NONE, WebhookId};
use pulsegate_ledger::outcome::{Outcome, Reason};
use pulsegate_settings::Check;
pub use undo::Savepoint;
use undo::{Mark, Step, UndoLog};

/// Period of the configured rates, in nanoseconds.
const MINUTE_NS: i64 = 60_000_000_000;

/// Limits of the replay and rate checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Size of a `jws` device's replay window in messages: an older message is `stale`. 64 to 4096, rounded up to a
    /// power of two. Default 512.
    pub window_messages: u32,
    /// Devices that a lane remembers per generation (two freshness windows), about 115 bytes each with the default
    /// window; a further device is `rate_limited`. Default 262144.
    pub devices_max: u32,
    /// Webhook ids that a lane remembers per generation, 15 to 30 bytes each; a further id is `rate_limited`.
    /// Default 1800000, which is 3,000 per second for a whole generation.
    pub webhook_ids_max: u32,
    /// Rate of a device whose class has no entry in `classes`. Default 6000 per minute and 1000 at once.
    pub rate: Rate,
    /// Rates by device class. Default: none.
    pub classes: BTreeMap<String, Rate>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window_messages: 512,
            devices_max: 262_144,
            webhook_ids_max: 1_800_000,
            rate: Rate::default(),
            classes: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reports invalid values.
    pub fn check(&self, check: &mut Check) {
        check.range("window_messages", u64::from(self.window_messages), 64..=4_096);
        check.range("devices_max", u64::from(self.devices_max), 1..=16_777_216);
        check.range(
            "webhook_ids_max",
            u64::from(self.webhook_ids_max),
            1..=134_217_728,
        );
    }
}

/// Rate limit of one device, by the log's own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    /// Events per minute in the long run. Default 6000.
    pub events_per_minute: NonZeroU32,
    /// Events at once (burst). Default 1000.
    pub burst: NonZeroU32,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            events_per_minute: NonZeroU32::MIN.saturating_add(5_999),
            burst: NonZeroU32::MIN.saturating_add(999),
        }
    }
}

impl Rate {
    const fn limit(self) -> Gcra {
        Gcra::new(self.events_per_minute, MINUTE_NS, self.burst)
    }
}

/// Proof that a record was admitted. Only [`Admission::admit`] makes one.
#[derive(Debug)]
pub struct Admitted(());

/// The replay windows and rate states of one lane.
#[cfg_attr(test, derive(Clone))]
pub struct Admission {
    config: Config,
    freshness_ms: i64,
    /// Limit of each device class, indexed by its number in the keyring.
    limits: Vec<Gcra>,
    /// Limit of a class that is not in `limits`.
    limit: Gcra,
    clock: LaneClock,
    current: Box<Generation>,
    previous: Box<Generation>,
    undo: UndoLog,
}

impl Admission {
    /// The state of a lane that has read no record.
    #[must_use]
    pub fn new(config: &Config, freshness_ms: i64) -> Self {
        let window_words = config.window_messages.clamp(64, 4096).next_power_of_two() as usize / 64;
        Self {
            config: config.clone(),
            freshness_ms,
            limits: Vec::new(),
            limit: config.rate.limit(),
            clock: LaneClock::new(freshness_ms),
            current: Box::new(Generation::new(window_words)),
            previous: Box::new(Generation::new(window_words)),
            undo: UndoLog::default(),
        }
    }

    /// Append time from which the raw log has to be read again (verified, decoded, bound and admitted, with nothing
    /// produced) so that an empty `Admission` decides the record appended at `time_ms`, and all that follow, like one
    /// that has read the whole log. Start at the first offset at or after it, as the broker's lookup by time gives it.
    #[must_use]
    pub const fn rebuild_start_ms(freshness_ms: i64, time_ms: i64) -> i64 {
        clock::rebuild_start_ms(freshness_ms, time_ms)
    }

    /// Takes over the keyring's device classes. Must be called after every change of the keyring; classes are only ever
    /// appended, so known ones are skipped.
    pub fn learn_classes<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        let known = self.limits.len();
        let rate = |name| self.config.classes.get(name).unwrap_or(&self.config.rate).limit();
        self.limits.extend(names.into_iter().skip(known).map(rate));
    }

    /// Number of devices that the current generation remembers.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.current.devices()
    }

    /// Decides one verified and bound record, the next of its lane.
    ///
    /// # Errors
    /// `duplicate`, `stale` or `rate_limited`: see the module's documentation.
    pub fn admit(
        &mut self,
        slot: u32,
        class: u8,
        sequence: Sequence,
        appended_ms: i64,
    ) -> Result<Admitted, Outcome> {
        self.clock.advance(appended_ms);
        self.enter_generation();
        let now_ms = self.clock.now_ms();
        if sequence.issued_ms.saturating_sub(now_ms).saturating_abs() > self.freshness_ms {
            return Err(Reason::Stale.into());
        }
        let (index, earlier) = self.device(slot);
        let judgement = self
            .current
            .judge(index, slot, sequence.id)
            .max(self.previous.judge(earlier, slot, sequence.id));
        let marked = index != NONE && self.mark(index, slot, sequence.id);
        match judgement {
            Judgement::Repeated => return Err(Outcome::Duplicate),
            Judgement::Unknowable => return Err(Reason::Stale.into()),
            Judgement::New if !marked => return Err(Reason::RateLimited.into()),
            Judgement::New => {}
        }
        let limit = self.limits.get(usize::from(class)).copied().unwrap_or(self.limit);
        let entry = self.current.entry_mut(index);
        entry.arrival_ns = limit.take(entry.arrival_ns, now_ms).ok_or(Reason::RateLimited)?;
        Ok(Admitted(()))
    }

    /// Indices of the device in this generation and in the previous one. Adds the device to this one unless it is full.
    fn device(&mut self, slot: u32) -> (u32, u32) {
        if let Some(index) = self.current.find(slot) {
            return (index, self.current.entry_mut(index).earlier);
        }
        let earlier = self.previous.find(slot).unwrap_or(NONE);
        if self.current.devices() >= self.config.devices_max as usize {
            return (NONE, earlier);
        }
        (self.current.insert(slot, earlier, self.undo.epoch()), earlier)
    }

    /// Marks the record as seen in this generation. Returns false if there is no room for its id.
    fn mark(&mut self, index: u32, slot: u32, id: MessageId) -> bool {
        self.undo.touch(&mut self.current, index);
        match id {
            MessageId::Jws { boot, number } => {
                self.current.mark(index, boot, number);
                true
            }
            MessageId::Webhook { hash } => {
                let id = WebhookId { slot, hash };
                if self.current.has_webhook_id(id) {
                    return true;
                }
                if self.current.webhook_ids() >= self.config.webhook_ids_max as usize {
                    return false;
                }
                self.current.insert_webhook_id(id);
                self.undo.push(Step::WebhookId(id));
                true
            }
        }
    }

    /// Makes the clock's generation the current one. Generations older than the previous one are dropped.
    fn enter_generation(&mut self) {
        let number = self.clock.generation();
        if number == self.current.number {
            return;
        }
        let next = self.current.successor(number);
        let ended = std::mem::replace(&mut self.current, next);
        let step = if ended.number.checked_add(1) == Some(number) {
            Step::Rotated {
                previous: std::mem::replace(&mut self.previous, ended),
                current: None,
            }
        } else {
            let empty = self.current.successor(number.saturating_sub(1));
            Step::Rotated {
                previous: std::mem::replace(&mut self.previous, empty),
                current: Some(ended),
            }
        };
        self.undo.push(step);
    }

    /// Begins a transaction. Until it is committed, everything since can be undone.
    ///
    /// Transactions may overlap: the next savepoint may be taken before the previous transaction is committed.
    pub fn savepoint(&mut self) -> Savepoint {
        let (devices, window_words) = self.current.lengths();
        self.undo.open(Mark {
            clock: self.clock,
            devices,
            window_words,
        })
    }

    /// Aborts a transaction and all that began after it: the state is what it was when the savepoint was taken.
    ///
    /// # Panics
    /// If the savepoint is no longer open. Continuing with an undefined state would be worse.
    pub fn rollback_to(&mut self, savepoint: Savepoint) {
        let mark = self
            .undo
            .rollback(savepoint, &mut self.current, &mut self.previous);
        self.current.truncate(mark.devices, mark.window_words);
        self.clock = mark.clock;
    }

    /// Commits a transaction and all that began before it.
    ///
    /// # Panics
    /// If the savepoint is no longer open.
    pub fn commit_through(&mut self, savepoint: Savepoint) {
        self.undo.commit(savepoint);
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admission({} devices)", self.devices())
    }
}

#[cfg(test)]
mod tests;
