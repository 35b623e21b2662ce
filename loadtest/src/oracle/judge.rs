//! Outcomes that one raw record may have, judged from the record and the keys alone.

use super::event::{self, AvroSchemas, EventLimits};
use super::keys::Keys;
use super::once::Once;
use super::signature::{Headers, Signed};
use crate::murmur2;
use crate::outcome::{Outcome, Outcomes};
use crate::record::Record;

/// Rate limit of one device.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Sustained rate, in events per minute.
    pub events_per_minute: u32,
    /// Number of events allowed at once.
    pub burst: u32,
}

/// The limits of the gate's configuration that decide outcomes.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `gate.verify.value_bytes_max`, in bytes. Default 1 MiB.
    pub value_bytes_max: usize,
    /// `gate.verify.headers_max`. Default 32.
    pub headers_max: usize,
    /// `gate.verify.freshness_seconds`, in milliseconds. Default 300,000.
    pub freshness_ms: i64,
    /// `gate.verify.budget.failures_burst`: while a lane has fewer failed verifications than this, none of them is
    /// `rate_limited`. Default 20,000.
    pub failures_burst: u64,
    /// `gate.admit.window_messages`: for a message this far behind its device's newest one the gate cannot tell a
    /// repeat from a late message, and reports `stale`. Default 512.
    pub replay_window: u64,
    /// `gate.admit.rate`; `None` if device classes have their own rates: then every otherwise clean record may be
    /// `rate_limited`. Default 6,000 events per minute, burst 1,000.
    pub rate: Option<Rate>,
    /// Limits of the event.
    pub event: EventLimits,
    /// Avro schemas, if the fleet writes Avro.
    pub avro: AvroSchemas,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            value_bytes_max: 1 << 20,
            headers_max: 32,
            freshness_ms: 300_000,
            failures_burst: 20_000,
            replay_window: 512,
            rate: Some(Rate {
                events_per_minute: 6_000,
                burst: 1_000,
            }),
            event: EventLimits::default(),
            avro: AvroSchemas::default(),
        }
    }
}

/// The parts of a raw record that the judge reads.
pub(super) struct Evidence<'a> {
    pub partition: i32,
    pub appended_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
    pub headers: Headers<'a>,
}

/// Judgement of a record without the records before it.
pub(super) struct Judgement {
    /// If `Clean` is included, every check passes that needs no memory.
    pub allowed: Outcomes,
    /// The event id, if one can be read.
    pub event: Option<u128>,
    pub once: Option<Once>,
}

/// Judges single records.
pub struct Judge<'a> {
    /// Keys of the registry.
    pub keys: &'a Keys,
    /// The gate's limits.
    pub rules: &'a Rules,
    /// `<environment>/<raw topic>`.
    pub audience: String,
    /// Number of partitions of the raw topic.
    pub partitions: i32,
}

impl Judge<'_> {
    /// The outcomes allowed for a record that was appended to a partition at that time (milliseconds since the Unix
    /// epoch), without regard to earlier records: `clean` also stands for `duplicate` and `rate_limited`.
    #[must_use]
    pub fn deserves(&self, record: &Record, partition: i32, appended_ms: i64) -> Outcomes {
        let mut headers = Headers::default();
        record
            .headers
            .iter()
            .for_each(|header| headers.take(&header.name, header.value.as_deref()));
        let value = record.value.as_deref().unwrap_or_default();
        self.judge(&Evidence {
            partition,
            appended_ms,
            key: record.key.as_deref(),
            value,
            headers,
        })
        .allowed
    }

    pub(super) fn judge(&self, record: &Evidence<'_>) -> Judgement {
        match self.check(record) {
            Ok((event, once)) => Judgement {
                allowed: Outcome::Clean.into(),
                event: Some(event),
                once: Some(once),
            },
            // If the gate accepts the record anyway, the id finds its clean record.
            Err(allowed) => Judgement {
                allowed,
                event: event::clean_id(record.value, None),
                once: None,
            },
        }
    }

    /// The checks, in the order of the contract's §6.
    fn check(&self, record: &Evidence<'_>) -> Result<(u128, Once), Outcomes> {
        let rules = self.rules;
        if record.value.len() > rules.value_bytes_max || record.headers.count > rules.headers_max {
            return Err(Outcome::TooLarge.into());
        }
        let signed = record.headers.check(record.key, record.value, self.keys)?;
        self.check_claims(&signed, record)?;
        let home = record.key.map(|key| murmur2::home(key, self.partitions));
        if home != Some(record.partition) {
            return Err(Outcome::Misrouted.into());
        }
        let event = event::read(record.value, &rules.avro, &rules.event)?;
        let name = &signed.key.name;
        if record.key != Some(name.as_bytes()) || event.device != *name {
            return Err(Outcome::BindingMismatch.into());
        }
        Ok((event.id, signed.once))
    }

    fn check_claims(&self, signed: &Signed<'_>, record: &Evidence<'_>) -> Result<(), Outcomes> {
        if signed
            .audience
            .as_ref()
            .is_some_and(|audience| *audience != self.audience)
        {
            return Err(Outcome::WrongAudience.into());
        }
        let apart_ms = signed
            .signed_s
            .saturating_mul(1000)
            .saturating_sub(record.appended_ms)
            .saturating_abs();
        if apart_ms > self.rules.freshness_ms {
            Err(Outcome::Stale.into())
        } else {
            Ok(())
        }
    }
}
