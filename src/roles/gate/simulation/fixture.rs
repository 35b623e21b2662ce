//! What every run shares: a handful of devices with their keys, records that they have signed, and a compiled schema.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::config::Config;
use crate::telemetry::metrics::Metrics;
use pulsegate_core::crypto::envelope::{FieldKey, Nonce};
use pulsegate_core::crypto::kek::Kek;
use pulsegate_core::crypto::keys::{Key32, SubjectKey, Tenant};
use pulsegate_core::event::{self, Catalog, Source};
use pulsegate_core::gate::keyring::{Algorithm, KeyRow, KeyState, Keyring, Profile};
use pulsegate_core::gate::pipeline::TenantKeys;
use pulsegate_core::gate::verify::home_partition;
use pulsegate_ledger::outcome::{Outcome, Reason};

/// Partitions of the raw topic.
pub const PARTITIONS: NonZeroU32 = NonZeroU32::new(3).expect("not zero");
/// Subjects, whose keys the vault may not have ready.
pub const SUBJECTS: usize = 3;
/// Schema ids that the registry knows nothing of, once it is asked.
pub const SCHEMAS: [u32; 2] = [7, 8];
/// The time at which the records are signed, in seconds.
pub const SIGNED_S: i64 = 1_800_000_000;

/// Devices in each partition.
const DEVICES: usize = 2;
/// Records of each device.
const RECORDS: u32 = 40;
const SECRET: [u8; 32] = [7; 32];

/// A signed record.
pub struct Signed {
    /// Number of the record; its event id ends in it.
    pub event: usize,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub signature: Vec<u8>,
    /// Its outcome where it is not a repeat.
    pub outcome: Outcome,
}

/// Keys of the one tenant.
pub struct Tenants {
    tenant: Tenant,
    quarantine: FieldKey,
}

impl TenantKeys for Tenants {
    fn tenant(&self, number: u16) -> Option<&Tenant> {
        (number == 0).then_some(&self.tenant)
    }

    #[expect(
        refining_impl_trait,
        reason = "the vault shares its key, the simulation borrows it"
    )]
    fn quarantine(&self, _: Option<u16>) -> &FieldKey {
        &self.quarantine
    }
}

/// What every run shares.
pub struct Fixture {
    /// The records of each partition, in an order in which its devices may have signed them.
    pub records: Vec<Vec<Signed>>,
    pub keyring: Arc<Keyring>,
    pub tenants: Arc<Tenants>,
    pub subjects: BTreeMap<Vec<u8>, (usize, Arc<SubjectKey>)>,
    pub catalog: Arc<Catalog>,
    pub config: Config,
    pub metrics: Arc<Metrics>,
    /// When the simulated time began.
    pub began: Instant,
}

/// The one fixture.
pub fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(Fixture::new)
}

impl Fixture {
    fn new() -> Self {
        let devices = devices();
        let kek = Kek::from_bytes(&(1..33).collect::<Vec<u8>>()).expect("a key");
        let nonce = Nonce::from_random([1; 12]);
        let branch = Tenant::wrap_branch(&kek, "acme", &Key32::random([6; 32]), nonce).expect("short");
        let tenant = Tenant::open(&kek, "acme", &branch).expect("just wrapped");
        let subject = |number: usize| {
            let id = subject_id(number).into_bytes();
            let field_key = FieldKey::new(number as u32, Key32::random([number as u8 + 1; 32]));
            let key = tenant
                .subject_key(&id, [number as u8; 16], field_key)
                .expect("short");
            (id, (number, Arc::new(key)))
        };
        let source = Source {
            name: "biometric_event".to_owned(),
            text: include_str!("../../../../schemas/biometric_event.avsc").to_owned(),
        };
        let catalog = Catalog::compile(&[source], &event::Config::default()).expect("the default event");
        Self {
            records: devices
                .iter()
                .enumerate()
                .map(|(at, devices)| records(at, devices))
                .collect(),
            keyring: Arc::new(keyring(&devices)),
            subjects: (0..SUBJECTS).map(subject).collect(),
            tenants: Arc::new(Tenants {
                quarantine: tenant.quarantine(1, 0),
                tenant,
            }),
            catalog: Arc::new(catalog),
            config: config(),
            metrics: Arc::new(Metrics::new()),
            began: Instant::now(),
        }
    }
}

fn config() -> Config {
    let mut config = Config {
        environment: "test".to_owned(),
        ..Config::default()
    };
    config.topics.raw = "raw".to_owned();
    config.gate.transaction_timeout_ms = 1_000;
    config.gate.settle_timeout_ms = 400;
    config
}

fn subject_id(number: usize) -> String {
    format!("s-{number}")
}

/// The devices whose home is each partition.
fn devices() -> Vec<Vec<String>> {
    let mut devices = vec![Vec::new(); PARTITIONS.get() as usize];
    let mut names = (0..).map(|number| format!("d-{number}"));
    while devices.iter().any(|devices| devices.len() < DEVICES) {
        let name = names.next().expect("endless");
        let home = &mut devices[home_partition(name.as_bytes(), PARTITIONS) as usize];
        if home.len() < DEVICES {
            home.push(name);
        }
    }
    devices
}

fn keyring(devices: &[Vec<String>]) -> Keyring {
    let row = |device| KeyRow {
        kid: device,
        device,
        tenant: "acme",
        class: "wearable",
        profile: Profile::Jws,
        algorithm: Algorithm::HmacSha256,
        state: KeyState::Active,
        material: &SECRET,
        device_token: b"AAAAAAAAAAAAAAAAAAAAAA",
    };
    let rows: Vec<_> = devices
        .iter()
        .flatten()
        .map(|device| row(device.as_str()))
        .collect();
    Keyring::empty().apply(&rows).expect("the registry's rules hold")
}

/// Most are clean; some are forged, some have no event, and some carry a schema id.
fn records(partition: usize, devices: &[String]) -> Vec<Signed> {
    let numbers = (0..RECORDS).flat_map(|number| devices.iter().map(move |device| (number, device)));
    numbers
        .enumerate()
        .map(|(at, (number, device))| {
            let event = partition * 1_000 + at;
            let (value, outcome) = match at % 8 {
                3 => (b"{}".to_vec(), Reason::SchemaViolation.into()),
                5 => {
                    let id = SCHEMAS[at / 8 % SCHEMAS.len()].to_be_bytes();
                    let value = [&[0][..], &id, b"datum"].concat();
                    (value, Reason::UnknownSchema.into())
                }
                6 if at % 3 == 0 => (json(event, device), Reason::BadSignature.into()),
                _ => (json(event, device), Outcome::Clean),
            };
            let forged = outcome == Reason::BadSignature.into();
            Signed {
                event,
                signature: sign(device, number, &value, forged),
                key: device.clone().into_bytes(),
                value,
                outcome,
            }
        })
        .collect()
}

fn json(event: usize, device: &str) -> Vec<u8> {
    let subject = subject_id(event % SUBJECTS);
    format!(
        r#"{{"event_id":"0192f0c1-2f5e-7c11-9f3a-{event:012}","device_id":"{device}","subject":{{"id":"{subject}","name":"A"}},"recorded_at":"2026-11-22T16:44:01Z","firmware":"f","model":"m","readings":[]}}"#
    )
    .into_bytes()
}

fn sign(device: &str, number: u32, value: &[u8], forged: bool) -> Vec<u8> {
    let protected = format!(
        r#"{{"alg":"HS256","kid":"{device}","typ":"bio+jws","aud":"test/raw","iat":{SIGNED_S},"jti":"1-{number}"}}"#
    );
    let protected = BASE64_URL_SAFE_NO_PAD.encode(protected);
    let input = format!("{protected}.{}", BASE64_URL_SAFE_NO_PAD.encode(value));
    let secret = if forged { [8; 32] } else { SECRET };
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret).expect("any length");
    mac.update(input.as_bytes());
    let tag = BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    format!("{protected}..{tag}").into_bytes()
}
