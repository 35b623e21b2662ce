//! Authenticates a record: every check that runs before a byte of the payload is parsed.
//!
//! The checks run in this order, and the first that fails is the record's outcome:
//!
//! 1. `too_large`: value or number of headers over the limit.
//! 2. `missing_signature`: neither `x-jws-signature` nor `webhook-signature`.
//! 3. `malformed_signature`: a signature header repeated, of both profiles at once, oversized or not in its exact form;
//!    for the webhook profile also a body that is not UTF-8.
//! 4. `unknown_key`: no row for the `kid` (`jws`) or the record key (`webhook`, null included), or a row that is pinned
//!    to the other profile: a message can't choose its profile. Costs as much as a known key.
//! 5. `key_not_active`: pending or revoked. Costs no signature check.
//! 6. `bad_signature`: does not match, or `alg` is not the one that the row is pinned to.
//! 7. `wrong_audience`: `aud` is not `<environment>/<topic>`. The webhook profile has no audience.
//! 8. `stale`: signed more than the freshness window before or after the broker appended it.
//! 9. `misrouted`: not in its key's home partition. A record without a key has no home.
//!
//! Cost of a record whose value has 280 bytes (`benches/verify.rs`, best of many runs on a busy core): `jws` with HS256
//! 0.79 us, of which 0.45 us for the HMAC itself and 0.13 us for the header's JSON; `webhook` 0.54 us; Ed25519 40 to 50
//! us. Keeping the two hash states of each key would save a tenth, for 32 more bytes per key.
//!
//! Checks 4 and 6 compute a signature only if the lane's [`Budget`] allows it; otherwise the outcome is `rate_limited`.

mod budget;
mod home;
mod jws;
mod mac;
mod webhook;

use std::fmt;
use std::hash::Hasher;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

pub use budget::{Budget, Config as BudgetConfig};
pub use home::home_partition;

use super::keyring::{Algorithm, Key, Keyring, Profile};
use pulsegate_ledger::outcome::Reason;
use pulsegate_ledger::record::Received;
use pulsegate_settings::Check;

/// The limits of verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Maximum size of a record value, in bytes. Default 1048576.
    pub value_bytes_max: u32,
    /// Maximum number of headers of a record, of any name. Default 32.
    pub headers_max: u16,
    /// Maximum distance between the times of signing and of appending, in either direction, in seconds. Default 300.
    pub freshness_seconds: NonZeroU32,
    /// Limit on the failed signature checks of a lane.
    pub budget: BudgetConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            value_bytes_max: 1_048_576,
            headers_max: 32,
            freshness_seconds: NonZeroU32::MIN.saturating_add(299),
            budget: BudgetConfig::default(),
        }
    }
}

impl Config {
    /// Reports invalid values.
    pub fn check(&self, check: &mut Check) {
        check.range(
            "value_bytes_max",
            u64::from(self.value_bytes_max),
            // The sealed value must fit into the producer's limit of 32 MiB.
            1..=16 << 20,
        );
        check.range("headers_max", u64::from(self.headers_max), 3..=1_000);
        check.range(
            "freshness_seconds",
            u64::from(self.freshness_seconds.get()),
            1..=86_400,
        );
    }

    /// The freshness window in milliseconds.
    #[must_use]
    pub fn freshness_ms(&self) -> i64 {
        i64::from(self.freshness_seconds.get()) * 1_000
    }
}

/// What a lane verifies against besides the keys: audience, partitions and limits. Built once per assignment.
#[derive(Clone, Debug)]
pub struct Context {
    audience: String,
    partitions: NonZeroU32,
    config: Config,
}

impl Context {
    /// Creates the context; `partitions` is the number of partitions of the raw topic.
    #[must_use]
    pub fn new(environment: &str, topic: &str, partitions: NonZeroU32, config: Config) -> Self {
        Self {
            audience: format!("{environment}/{topic}"),
            partitions,
            config,
        }
    }

    /// An unspent budget for one lane.
    #[must_use]
    pub fn budget(&self) -> Budget {
        Budget::new(&self.config.budget, self.config.freshness_ms())
    }
}

/// Buffers that a worker reuses for every record.
pub struct Scratch {
    protected: Box<[u8; jws::PROTECTED_BYTES_MAX]>,
    input: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            protected: Box::new([0; jws::PROTECTED_BYTES_MAX]),
            input: Vec::new(),
        }
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scratch([redacted])")
    }
}

/// Identity of a message within its device, and the time of signing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Time of signing that the device states, in milliseconds since the Unix epoch.
    pub issued_ms: i64,
    /// Id that the signer promises to use once.
    pub id: MessageId,
}

/// Id that a signer promises to use once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageId {
    /// `jti` of the `jws` profile.
    Jws {
        /// Boot counter: grows with every start of the device.
        boot: u64,
        /// Message counter: grows with every message since that start.
        number: u64,
    },
    /// `webhook-id` of the `webhook` profile.
    Webhook {
        /// SipHash-2-4 of the id under a fixed key. Ids are only ever compared within one device, so a device that
        /// computes two ids with the same hash harms only itself.
        hash: u64,
    },
}

/// Private member that keeps other modules from constructing the two types below.
#[derive(Clone, Copy, Debug)]
struct Proof;

/// A record that passed every check of this stage. Only [`verify`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'k> {
    /// Key that signed the record.
    pub key: Key<'k>,
    /// Identity of the message, and its time of signing.
    pub sequence: Sequence,
    _proof: Proof,
}

/// A verified record whose payload and record key name the device that signed it. Only [`Verified::bind`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'k> {
    /// Key that signed the record.
    pub key: Key<'k>,
    /// Identity of the message, and its time of signing.
    pub sequence: Sequence,
    _proof: Proof,
}

/// The first check that a record failed. If it failed after its signature matched, the deadletter belongs to the
/// signer's tenant.
#[derive(Clone, Copy, Debug)]
pub struct Rejection<'k> {
    /// Reason that the failed check gives.
    pub reason: Reason,
    /// Key that signed the record, if the signature was verified.
    pub signer: Option<Key<'k>>,
}

impl From<Reason> for Rejection<'_> {
    fn from(reason: Reason) -> Self {
        Self { reason, signer: None }
    }
}

impl<'k> Verified<'k> {
    /// Checks that the key, the record key and the decoded payload name the same device.
    ///
    /// # Errors
    /// `binding_mismatch`.
    pub fn bind(self, record_key: Option<&[u8]>, payload_device: &[u8]) -> Result<Bound<'k>, Reason> {
        let device = self.key.device.as_bytes();
        if record_key != Some(device) || payload_device != device {
            return Err(Reason::BindingMismatch);
        }
        Ok(Bound {
            key: self.key,
            sequence: self.sequence,
            _proof: Proof,
        })
    }
}

/// Checks one record. Does not allocate once the scratch has grown to the largest value.
///
/// # Errors
/// The first check that fails, in the order of the module's documentation.
pub fn verify<'k>(
    record: &Received<'_>,
    keyring: &'k Keyring,
    context: &Context,
    scratch: &mut Scratch,
    budget: &mut Budget,
) -> Result<Verified<'k>, Rejection<'k>> {
    check_size(record, &context.config)?;
    let (key, sequence) = match present(record)? {
        Profile::Jws => authenticate_jws(record, keyring, &context.audience, scratch, budget)?,
        Profile::Webhook => authenticate_webhook(record, keyring, scratch, budget)?,
    };
    check_freshness(sequence.issued_ms, record.appended_ms, &context.config)
        .and_then(|()| check_home(record, context.partitions))
        .map_err(|reason| signed_by(key, reason))?;
    Ok(Verified {
        key,
        sequence,
        _proof: Proof,
    })
}

fn check_size(record: &Received<'_>, config: &Config) -> Result<(), Reason> {
    let fits = record.value.len() <= config.value_bytes_max as usize
        && record.signature.count <= usize::from(config.headers_max);
    if fits { Ok(()) } else { Err(Reason::TooLarge) }
}

/// The profile whose signature header is present.
fn present(record: &Received<'_>) -> Result<Profile, Reason> {
    let headers = &record.signature;
    let any_webhook = headers.webhook_id.is_some()
        || headers.webhook_timestamp.is_some()
        || headers.webhook_signature.is_some();
    match (headers.jws.is_some(), headers.webhook_signature.is_some()) {
        (false, false) => Err(Reason::MissingSignature),
        _ if headers.repeated => Err(Reason::MalformedSignature),
        (true, _) if any_webhook => Err(Reason::MalformedSignature),
        (true, _) => Ok(Profile::Jws),
        (false, true) => Ok(Profile::Webhook),
    }
}

fn authenticate_jws<'k>(
    record: &Received<'_>,
    keyring: &'k Keyring,
    audience: &str,
    scratch: &mut Scratch,
    budget: &mut Budget,
) -> Result<(Key<'k>, Sequence), Rejection<'k>> {
    let header = record.signature.jws.unwrap_or_default();
    let claim = jws::parse(header, record.value, &mut scratch.protected).ok_or(Reason::MalformedSignature)?;
    let found = keyring
        .by_kid(claim.kid.as_bytes())
        .filter(|found| found.profile == Profile::Jws);
    if found.as_ref().is_some_and(|found| !found.state.verifies()) {
        return Err(Reason::KeyNotActive.into());
    }
    if !budget.allows(record.appended_ms) {
        return Err(Reason::RateLimited.into());
    }
    // The work follows what the message claims, so that its duration says nothing about the row.
    let material = |algorithm| {
        found
            .as_ref()
            .filter(|found| found.algorithm == algorithm)
            .map(|found| found.material)
    };
    let matches = match claim.algorithm {
        jws::ClaimedAlgorithm::HmacSha256 => {
            claim
                .input
                .hmac_matches(material(Algorithm::HmacSha256), &claim.mac, &mut scratch.input)
        }
        jws::ClaimedAlgorithm::Ed25519 => {
            claim
                .input
                .ed25519_matches(material(Algorithm::Ed25519), &claim.mac, &mut scratch.input)
        }
        jws::ClaimedAlgorithm::Other => claim.input.hmac_matches(None, &claim.mac, &mut scratch.input),
    };
    let key = match found {
        Some(found) if matches => found.key,
        Some(_) => return fail(budget, Reason::BadSignature),
        None => return fail(budget, Reason::UnknownKey),
    };
    if claim.audience != audience {
        return Err(signed_by(key, Reason::WrongAudience));
    }
    let id = MessageId::Jws {
        boot: claim.boot,
        number: claim.number,
    };
    Ok((
        key,
        Sequence {
            issued_ms: claim.issued_s.saturating_mul(1_000),
            id,
        },
    ))
}

fn authenticate_webhook<'k>(
    record: &Received<'_>,
    keyring: &'k Keyring,
    scratch: &mut Scratch,
    budget: &mut Budget,
) -> Result<(Key<'k>, Sequence), Rejection<'k>> {
    let claim = webhook::parse(&record.signature).ok_or(Reason::MalformedSignature)?;
    if std::str::from_utf8(record.value).is_err() {
        return Err(Reason::MalformedSignature.into());
    }
    let keys = record.key.and_then(|device| keyring.webhook_keys(device));
    if keys.as_ref().is_some_and(|keys| keys.iter().all(Option::is_none)) {
        return Err(Reason::KeyNotActive.into());
    }
    if !budget.allows(record.appended_ms) {
        return Err(Reason::RateLimited.into());
    }
    let parts = [claim.id, claim.timestamp, record.value];
    let input = mac::webhook_input(parts, &mut scratch.input);
    let Some(keys) = keys else {
        mac::webhook_matches(None, input, claim.signatures());
        return fail(budget, Reason::UnknownKey);
    };
    let mut keys = keys.into_iter().flatten();
    let Some(found) =
        keys.find(|found| mac::webhook_matches(Some(found.material), input, claim.signatures()))
    else {
        return fail(budget, Reason::BadSignature);
    };
    let mut hasher = SipHasher24::new();
    hasher.write(claim.id);
    let id = MessageId::Webhook {
        hash: hasher.finish(),
    };
    Ok((
        found.key,
        Sequence {
            issued_ms: claim.issued_s.saturating_mul(1_000),
            id,
        },
    ))
}

/// Rejects after a computed signature did not match, and charges the lane's budget.
fn fail<'k, T>(budget: &mut Budget, reason: Reason) -> Result<T, Rejection<'k>> {
    budget.spend();
    Err(reason.into())
}

const fn signed_by(key: Key<'_>, reason: Reason) -> Rejection<'_> {
    Rejection {
        reason,
        signer: Some(key),
    }
}

fn check_freshness(issued_ms: i64, appended_ms: i64, config: &Config) -> Result<(), Reason> {
    let apart_ms = issued_ms.saturating_sub(appended_ms).saturating_abs();
    if apart_ms <= config.freshness_ms() {
        Ok(())
    } else {
        Err(Reason::Stale)
    }
}

fn check_home(record: &Received<'_>, partitions: NonZeroU32) -> Result<(), Reason> {
    let home = record.key.map(|key| home_partition(key, partitions));
    if home == Some(record.partition) {
        Ok(())
    } else {
        Err(Reason::Misrouted)
    }
}

#[cfg(test)]
mod tests;
