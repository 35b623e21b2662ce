//! Which outcomes one raw record may have, from the record and the keys alone.

use super::event::{self, AvroSchemas, EventLimits};
use super::keys::Keys;
use super::signature::{Headers, Signed};
use crate::murmur2;
use crate::outcome::{Outcome, Outcomes};
use crate::record::Record;

/// What one device may send.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Events in the long run, a minute.
    pub events_per_minute: u32,
    /// Events at once.
    pub burst: u32,
}

/// The limits of the gate's configuration that decide outcomes.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `gate.verify.value_bytes_max`. Default 1 MiB.
    pub value_bytes_max: usize,
    /// `gate.verify.headers_max`. Default 32.
    pub headers_max: usize,
    /// `gate.verify.freshness_seconds`, in milliseconds. Default 300,000.
    pub freshness_ms: i64,
    /// `gate.verify.budget.failures_burst`: below so many failed verifications in a lane, none is answered with
    /// `rate_limited`. Default 20,000.
    pub failures_burst: u64,
    /// `gate.admit.window_messages`: so far behind the newest message of its device the gate can no longer tell a repeat
    /// from a late one, and says `stale`. Default 512.
    pub replay_window: u64,
    /// `gate.admit.rate`; `None` where classes of devices have rates of their own: any record that is else clean may
    /// then be `rate_limited`. Default 6,000 events a minute, 1,000 at once.
    pub rate: Option<Rate>,
    /// Limits of the event.
    pub event: EventLimits,
    /// Avro schemas, where the fleet writes Avro.
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

/// A raw record as the judge sees it.
pub(super) struct Evidence<'a> {
    pub partition: i32,
    pub appended_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
    pub headers: Headers<'a>,
}

/// What a device promises to use once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Once {
    /// The `jti` of a device.
    Counted {
        /// The device's number among the keys.
        device: u32,
        /// The boot.
        boot: u64,
        /// The number in it.
        number: u64,
    },
    /// A digest of the `webhook-id` of a device.
    Named {
        /// The device's number among the keys.
        device: u32,
        /// 128 bits of the id's SHA-256.
        digest: u128,
    },
}

impl Once {
    /// The device's number among the keys.
    pub(super) const fn device(self) -> u32 {
        match self {
            Self::Counted { device, .. } | Self::Named { device, .. } => device,
        }
    }
}

/// What can be said of a record without the records before it.
pub(super) struct Judgement {
    /// `Clean` among them means: every check holds that needs no memory.
    pub allowed: Outcomes,
    /// The event id, wherever one can be read.
    pub event: Option<u128>,
    pub once: Option<Once>,
}

/// Says of single records which outcomes they may have.
pub struct Judge<'a> {
    /// The registry.
    pub keys: &'a Keys,
    /// The gate's limits.
    pub rules: &'a Rules,
    /// `<environment>/<raw topic>`.
    pub audience: String,
    /// Partitions of the raw topic.
    pub partitions: i32,
}

impl Judge<'_> {
    /// The outcomes that a record may have which was appended to a partition at that time (milliseconds since the Unix
    /// epoch), the records before it aside: `clean` stands for `duplicate` and `rate_limited`, too.
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
            // Should the gate take it for clean all the same, the id says which clean record that is.
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
