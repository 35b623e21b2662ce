//! Misdeeds: what can be wrong with a record, how such a record is made, and which outcome it must have.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::draft::{Draft, Kind};
use super::event::Format;
use super::keys::{Claim, DeviceKey, Profile, Secret};
use crate::outcome::{Outcome, Outcomes};
use crate::record::{Header, JWS_SIGNATURE, WEBHOOK_SIGNATURE};

/// Share of records per misdeed, each from 0 to 1; all other records are good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hostile {
    /// Signed with another device's key or an unknown key id, or changed after signing.
    pub forged: f64,
    /// An exact copy of a good record, sent again.
    pub replayed: f64,
    /// An exact copy of a good record in another partition.
    pub misplaced: f64,
    /// Signed an hour ago, an hour ahead, or for another topic.
    pub stale: f64,
    /// In bursts of `flood_records` from one device.
    pub flooding: f64,
    /// Malformed: an invalid signature, JSON or payload, or an oversized value.
    pub malformed: f64,
    /// Number of records in a burst. Default 2,500, well above the gate's default burst of 1,000 per device.
    pub flood_records: u32,
    /// Size in bytes of an oversized value; 0 makes none. Default 0, because the operator sets the gate's and broker's
    /// limits.
    pub oversized_bytes: usize,
}

const FORGED: [Kind; 4] = [
    Kind::ForgedSecret,
    Kind::Tampered,
    Kind::UnknownKey,
    Kind::Impostor,
];
const STALE: [Kind; 3] = [Kind::Old, Kind::Future, Kind::WrongAudience];
const MALFORMED_ANYWHERE: [Kind; 8] = [
    Kind::StrangeHeader,
    Kind::Unsigned,
    Kind::RepeatedHeader,
    Kind::GarbageSignature,
    Kind::Empty,
    Kind::NotJson,
    Kind::Truncated,
    Kind::UnknownSchema,
];
const MALFORMED_JSON: [Kind; 4] = [
    Kind::UnknownField,
    Kind::WrongType,
    Kind::DuplicateMember,
    Kind::MissingField,
];

impl Default for Hostile {
    fn default() -> Self {
        Self {
            forged: 0.0,
            replayed: 0.0,
            misplaced: 0.0,
            stale: 0.0,
            flooding: 0.0,
            malformed: 0.0,
            flood_records: 2_500,
            oversized_bytes: 0,
        }
    }
}

impl Hostile {
    /// A small share of everything: about one record in six, with the first burst after about 20,000 records.
    #[must_use]
    pub fn some() -> Self {
        Self {
            forged: 0.03,
            replayed: 0.03,
            misplaced: 0.01,
            stale: 0.02,
            flooding: 0.06,
            malformed: 0.02,
            ..Self::default()
        }
    }

    /// Approximate number of `records` that are regular events of a device; the others are copies or part of a burst.
    pub(super) fn turns(&self, records: u64) -> u64 {
        let (records, burst) = (records as f64, f64::from(self.flood_records.max(1)));
        let uncopied = 1.0 - self.replayed - self.misplaced;
        // In the order in which `Flood` starts them: copies do not count, and a burst contains none.
        let begins = (0_u32..).map(f64::from).map(|number: f64| {
            let flood = number * burst;
            ((number + 0.5) * burst / self.flooding - flood) / uncopied + flood
        });
        let bursts = begins.take_while(|begin| *begin < records);
        let flood: f64 = bursts.map(|begin| (records - begin).min(burst)).sum();
        ((records - flood) * uncopied) as u64
    }

    /// Draws the kind of the next record, except for floods.
    pub(super) fn draw(&self, rng: &mut ChaCha8Rng, format: &Format) -> Kind {
        let mut draw: f64 = rng.random();
        let flood_starts = self.flooding / f64::from(self.flood_records.max(1));
        let shares = [
            self.forged,
            self.replayed,
            self.misplaced,
            self.stale,
            self.malformed,
            flood_starts,
        ];
        let Some(misdeed) = shares.iter().position(|share| {
            draw -= share;
            draw < 0.0
        }) else {
            return Kind::Good;
        };
        match misdeed {
            0 => one_of(&FORGED, rng),
            1 => Kind::Replayed,
            2 => Kind::Misplaced,
            3 => one_of(&STALE, rng),
            _ => self.draw_malformed(rng, matches!(format, Format::Json)),
        }
    }

    fn draw_malformed(&self, rng: &mut ChaCha8Rng, json: bool) -> Kind {
        let anywhere = MALFORMED_ANYWHERE.len();
        let oversized = usize::from(self.oversized_bytes > 0);
        let in_json = if json { MALFORMED_JSON.len() } else { 0 };
        match rng.random_range(0..anywhere + in_json + oversized) {
            index if index < anywhere => MALFORMED_ANYWHERE[index],
            index if index < anywhere + in_json => MALFORMED_JSON[index - anywhere],
            _ => Kind::Oversized,
        }
    }
}

fn one_of(kinds: &[Kind], rng: &mut ChaCha8Rng) -> Kind {
    kinds[rng.random_range(0..kinds.len())]
}

impl Kind {
    /// Outcomes that the gate may give the record.
    #[must_use]
    pub fn expected(self) -> Outcomes {
        match self {
            Self::Good | Self::StrangeHeader => Outcome::Clean.into(),
            Self::Flood => Outcomes::of(&[Outcome::Clean, Outcome::RateLimited]),
            Self::ForgedSecret | Self::Tampered => Outcome::BadSignature.into(),
            Self::UnknownKey => Outcome::UnknownKey.into(),
            Self::Impostor => Outcome::BindingMismatch.into(),
            Self::Replayed => Outcome::Duplicate.into(),
            Self::Misplaced => Outcome::Misrouted.into(),
            Self::Old | Self::Future => Outcome::Stale.into(),
            Self::WrongAudience => Outcome::WrongAudience.into(),
            Self::Unsigned => Outcome::MissingSignature.into(),
            Self::RepeatedHeader | Self::GarbageSignature => Outcome::MalformedSignature.into(),
            Self::Empty | Self::NotJson | Self::Truncated => Outcome::Undecodable.into(),
            Self::UnknownSchema => Outcome::UnknownSchema.into(),
            Self::UnknownField | Self::WrongType | Self::DuplicateMember | Self::MissingField => {
                Outcome::SchemaViolation.into()
            }
            Self::Oversized => Outcome::TooLarge.into(),
        }
    }

    /// Changes the record before signing.
    pub(super) fn before_signing(
        self,
        claim: &mut Claim<'_>,
        key: &DeviceKey,
        other: &str,
        draft: &mut Draft,
    ) {
        let value = draft.record.value.get_or_insert_default();
        match self {
            Self::Old => claim.signed_s -= 3600,
            Self::Future => claim.signed_s += 3600,
            // A webhook signature names no audience.
            Self::WrongAudience if key.profile() == Profile::Webhook => {
                claim.signed_s -= 3600;
                draft.expected = Outcome::Stale.into();
            }
            Self::WrongAudience => claim.audience = "elsewhere/biometrics.raw",
            Self::Empty => value.clear(),
            Self::NotJson => *value = b"\x7fnot an event".to_vec(),
            // Cut between two characters: a webhook body that is not UTF-8 is malformed for another reason.
            Self::Truncated => value.truncate(ascii_at(value, value.len() / 2)),
            Self::UnknownSchema => {
                value.splice(0..0, *b"\xC3\x01\xDE\xAD\xBE\xEF\xDE\xAD\xBE\xEF");
                // A webhook body is UTF-8 by its specification, so this would not be a webhook at all.
                if key.profile() == Profile::Webhook {
                    draft.expected = Outcome::MalformedSignature.into();
                }
            }
            Self::UnknownField => append_member(value, br#""colour":"red""#),
            Self::WrongType => append_member(value, br#""note":42"#),
            Self::DuplicateMember => append_member(value, br#""model":"again""#),
            Self::MissingField => {
                let event_id = value.get(..50).unwrap_or_default().to_vec();
                *value = event_id;
                value.push(b'}');
            }
            Self::Impostor => replace(value, key.device.as_bytes(), other.as_bytes()),
            _ => {}
        }
    }

    /// Key that signs instead of the device's, if any.
    pub(super) fn signs_with(self, key: &DeviceKey, rng: &mut ChaCha8Rng) -> Option<DeviceKey> {
        let mut forged = key.clone();
        match self {
            Self::ForgedSecret => {
                let bytes: [u8; 32] = rng.random();
                forged.secret = match key.profile() {
                    Profile::JwsHs256 => Secret::Hs256(bytes.to_vec()),
                    Profile::Webhook => Secret::Webhook(bytes.to_vec()),
                    Profile::JwsEd25519 => {
                        Secret::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(&bytes)))
                    }
                };
            }
            Self::UnknownKey => forged.kid = format!("nobody-{:08x}", rng.random::<u32>()),
            _ => return None,
        }
        Some(forged)
    }

    /// Changes the record after signing.
    pub(super) fn after_signing(self, draft: &mut Draft, rng: &mut ChaCha8Rng) {
        let record = &mut draft.record;
        match self {
            Self::Tampered => {
                if let Some(value) = &mut record.value {
                    let at = ascii_at(value, rng.random_range(0..value.len().max(1)));
                    if let Some(byte) = value.get_mut(at) {
                        *byte ^= 1;
                    }
                }
            }
            // The gate looks up a webhook's key by the device id in the record key.
            Self::UnknownKey if record.header(JWS_SIGNATURE).is_none() => {
                record.key = Some(format!("nobody-{:08x}", rng.random::<u32>()).into_bytes());
            }
            Self::StrangeHeader => record
                .headers
                .push(Header::new(b"x-\xFF\xFE", b"\x00\xFF".as_slice())),
            Self::Unsigned => record.headers.clear(),
            Self::RepeatedHeader => record.headers.extend(record.headers.last().cloned()),
            Self::GarbageSignature => {
                let own =
                    |header: &&mut Header| header.name == JWS_SIGNATURE || header.name == WEBHOOK_SIGNATURE;
                if let Some(header) = record.headers.iter_mut().find(own) {
                    header.value = Some(b"ceci n'est pas une signature".to_vec());
                }
            }
            _ => {}
        }
    }
}

/// Position of the first ASCII byte at or after `from`.
fn ascii_at(value: &[u8], from: usize) -> usize {
    let rest = value.get(from..).unwrap_or_default();
    rest.iter()
        .position(u8::is_ascii)
        .map_or(value.len(), |skipped| from + skipped)
}

/// Inserts a member before the closing brace of a JSON object.
fn append_member(value: &mut Vec<u8>, member: &[u8]) {
    if value.pop() == Some(b'}') {
        value.push(b',');
        value.extend_from_slice(member);
        value.push(b'}');
    }
}

fn replace(value: &mut [u8], from: &[u8], to: &[u8]) {
    // All device ids of a fleet have the same length.
    if from.len() != to.len() {
        return;
    }
    let found = value.windows(from.len()).position(|window| window == from);
    if let Some(at) = found {
        value[at..at + from.len()].copy_from_slice(to);
    }
}

/// Bursts from one device at a time, as often as their share requires.
#[derive(Default)]
pub(super) struct Flood {
    device: usize,
    left: u32,
    owed: f64,
}

impl Flood {
    /// The device whose burst the next record belongs to, if any, and whether the burst starts with it.
    pub(super) fn device(
        &mut self,
        hostile: &Hostile,
        devices: usize,
        rng: &mut ChaCha8Rng,
    ) -> Option<(usize, bool)> {
        self.owed += hostile.flooding;
        let begins = self.left == 0 && self.owed * 2.0 >= f64::from(hostile.flood_records.max(1));
        if begins {
            self.left = hostile.flood_records;
            self.owed -= f64::from(hostile.flood_records);
            self.device = rng.random_range(0..devices);
        }
        self.left = self.left.checked_sub(1)?;
        Some((self.device, begins))
    }
}

/// A few recent good records, to be copied.
#[derive(Default)]
pub(super) struct Recent {
    kept: Vec<Draft>,
    seen: usize,
}

impl Recent {
    const CAPACITY: usize = 64;
    /// One good record in this many is kept.
    const STRIDE: usize = 5;

    pub(super) fn keep(&mut self, hostile: &Hostile, kind: Kind, draft: &Draft) {
        if kind != Kind::Good || hostile.replayed + hostile.misplaced <= 0.0 {
            return;
        }
        self.seen += 1;
        if !self.seen.is_multiple_of(Self::STRIDE) {
            return;
        }
        if self.kept.len() < Self::CAPACITY {
            self.kept.push(draft.clone());
        } else {
            let oldest = self.seen / Self::STRIDE % Self::CAPACITY;
            self.kept[oldest].clone_from(draft);
        }
    }

    /// Drops the records: a burst would push their numbers out of the gate's replay window.
    pub(super) fn forget(&mut self) {
        self.kept.clear();
    }

    /// Copies one of the records; `false` if none is kept yet.
    pub(super) fn take(&self, kind: Kind, rng: &mut ChaCha8Rng, draft: &mut Draft) -> bool {
        if self.kept.is_empty() {
            return false;
        }
        draft.clone_from(&self.kept[rng.random_range(0..self.kept.len())]);
        draft.kind = kind;
        draft.misplaced = kind == Kind::Misplaced;
        draft.expected = kind.expected();
        true
    }
}
