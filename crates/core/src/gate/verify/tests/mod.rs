#![expect(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod jws;
mod webhook;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::*;
use crate::gate::keyring::{KeyRow, KeyState};
use pulsegate_ledger::record::SignatureHeaders;

/// Time at which the records of these tests are signed and appended, unless a test says otherwise.
pub(super) const NOW_S: i64 = 1_800_000_000;
pub(super) const PARTITIONS: u32 = 8;
const TOKEN: [u8; 22] = *b"AAAAAAAAAAAAAAAAAAAAAA";
const SECRET: [u8; 32] = [7; 32];
const OTHER_SECRET: [u8; 40] = [9; 40];
/// Longer than a SHA-256 block.
const LONG_SECRET: [u8; 100] = [3; 100];
const SEED: [u8; 32] = [5; 32];

fn row<'a>(
    kid: &'a str,
    device: &'a str,
    profile: Profile,
    state: KeyState,
    material: &'a [u8],
) -> KeyRow<'a> {
    KeyRow {
        kid,
        device,
        tenant: "acme",
        class: "wearable",
        profile,
        algorithm: Algorithm::HmacSha256,
        state,
        material,
        device_token: &TOKEN,
    }
}

fn keyring() -> Keyring {
    let public = SigningKey::from_bytes(&SEED).verifying_key().to_bytes();
    let ed25519 = KeyRow {
        algorithm: Algorithm::Ed25519,
        ..row("ed", "d-ed", Profile::Jws, KeyState::Active, &public)
    };
    Keyring::empty()
        .apply(&[
            row("hs", "d-hs", Profile::Jws, KeyState::Active, &SECRET),
            row(
                "hs-old",
                "d-hs",
                Profile::Jws,
                KeyState::VerifyOnly,
                &OTHER_SECRET,
            ),
            row("hs-long", "d-long", Profile::Jws, KeyState::Active, &LONG_SECRET),
            row("hs-pending", "d-hs", Profile::Jws, KeyState::Pending, &SECRET),
            row("hs-revoked", "d-hs", Profile::Jws, KeyState::Revoked, &SECRET),
            row("hook", "d-hook", Profile::Webhook, KeyState::Active, &SECRET),
            row(
                "hook-new",
                "d-hook",
                Profile::Webhook,
                KeyState::Active,
                &OTHER_SECRET,
            ),
            row(
                "hook-gone",
                "d-gone",
                Profile::Webhook,
                KeyState::Revoked,
                &SECRET,
            ),
            ed25519,
        ])
        .unwrap()
}

/// A record that owns its bytes.
#[derive(Clone)]
pub(super) struct Record {
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    headers: Vec<(&'static str, Vec<u8>)>,
    partition: i32,
    appended_ms: i64,
}

impl Record {
    /// A record in its home partition, appended now.
    fn new(device: &str, value: &[u8], headers: Vec<(&'static str, Vec<u8>)>) -> Self {
        Self {
            key: Some(device.into()),
            value: value.to_vec(),
            headers,
            partition: home(device),
            appended_ms: NOW_S * 1_000,
        }
    }

    fn received(&self) -> Received<'_> {
        let mut signature = SignatureHeaders::default();
        for (name, value) in &self.headers {
            signature.take(name.as_bytes(), Some(value));
        }
        Received {
            partition: self.partition,
            offset: 0,
            appended_ms: self.appended_ms,
            key: self.key.as_deref(),
            value: &self.value,
            signature,
        }
    }

    fn check(&self) -> Result<(String, Sequence), Reason> {
        let context = context();
        let (keyring, mut scratch, mut budget) = (keyring(), Scratch::default(), context.budget());
        let verified = verify(&self.received(), &keyring, &context, &mut scratch, &mut budget);
        let verified = verified.map_err(|rejection| rejection.reason)?;
        Ok((verified.key.device.to_owned(), verified.sequence))
    }

    /// The reason for the rejection, and the device that counts as the signer.
    fn rejected(&self) -> (Reason, Option<String>) {
        let context = context();
        let (keyring, mut scratch, mut budget) = (keyring(), Scratch::default(), context.budget());
        let rejection = verify(&self.received(), &keyring, &context, &mut scratch, &mut budget).unwrap_err();
        (
            rejection.reason,
            rejection.signer.map(|key| key.device.to_owned()),
        )
    }
}

fn context() -> Context {
    Context::new(
        "test",
        "raw",
        NonZeroU32::new(PARTITIONS).unwrap(),
        Config::default(),
    )
}

fn home(device: &str) -> i32 {
    home_partition(device.as_bytes(), NonZeroU32::new(PARTITIONS).unwrap())
}

fn hmac(secret: &[u8], input: &[u8]) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(secret)
        .unwrap()
        .chain_update(input)
        .finalize()
        .into_bytes()
        .to_vec()
}

fn ed25519(input: &[u8]) -> Vec<u8> {
    SigningKey::from_bytes(&SEED).sign(input).to_bytes().to_vec()
}

/// The protected header as devices write it.
fn protected(alg: &str, kid: &str) -> String {
    format!(r#"{{"alg":"{alg}","kid":"{kid}","typ":"bio+jws","aud":"test/raw","iat":{NOW_S},"jti":"3-41"}}"#)
}

/// A detached JWS over `value` with `protected` as its protected header, valid or not.
fn jws_header(protected: &[u8], value: &[u8], sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let protected = BASE64_URL_SAFE_NO_PAD.encode(protected);
    let input = format!("{protected}.{}", BASE64_URL_SAFE_NO_PAD.encode(value));
    format!(
        "{protected}..{}",
        BASE64_URL_SAFE_NO_PAD.encode(sign(input.as_bytes()))
    )
    .into_bytes()
}

fn jws_record(device: &str, protected: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> Record {
    let value = br#"{"event_id":"1"}"#;
    Record::new(
        device,
        value,
        vec![("x-jws-signature", jws_header(protected.as_bytes(), value, sign))],
    )
}

/// The valid record that the JWS tests modify.
fn good_jws() -> Record {
    jws_record("d-hs", &protected("HS256", "hs"), |input| hmac(&SECRET, input))
}

fn webhook_record(device: &str, secret: &[u8], id: &str, timestamp: &str, body: &[u8]) -> Record {
    let mac = hmac(
        secret,
        &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat(),
    );
    let signature = format!("v1,{}", BASE64_STANDARD.encode(mac));
    let headers = vec![
        ("webhook-id", id.as_bytes().to_vec()),
        ("webhook-timestamp", timestamp.as_bytes().to_vec()),
        ("webhook-signature", signature.into_bytes()),
    ];
    Record::new(device, body, headers)
}

fn good_webhook() -> Record {
    webhook_record("d-hook", &SECRET, "msg_1", &NOW_S.to_string(), b"{}")
}

#[test]
fn size_limits_are_checked_first() {
    let mut record = good_jws();
    record.headers.clear();
    record.value = vec![0; 1_048_577];
    assert_eq!(record.check(), Err(Reason::TooLarge));

    let mut record = good_jws();
    record
        .headers
        .extend(std::iter::repeat_n(("x-trace", Vec::new()), 31));
    assert!(record.check().is_ok());
    record.headers.push(("x-trace", Vec::new()));
    assert_eq!(record.check(), Err(Reason::TooLarge));
}

#[test]
fn an_empty_value_and_one_at_the_limit_verify() {
    for length in [0, 1, 2, 3, 1_048_576] {
        let value = vec![b'x'; length];
        let header = jws_header(protected("HS256", "hs").as_bytes(), &value, |input| {
            hmac(&SECRET, input)
        });
        assert!(
            Record::new("d-hs", &value, vec![("x-jws-signature", header)])
                .check()
                .is_ok(),
            "{length}"
        );
    }
}

#[test]
fn a_record_without_a_signature_header_is_missing_one() {
    for keep in [
        &[][..],
        &["webhook-id"],
        &["webhook-timestamp"],
        &["webhook-id", "webhook-timestamp"],
    ] {
        let mut record = good_webhook();
        record.headers.retain(|(name, _)| keep.contains(name));
        assert_eq!(record.check(), Err(Reason::MissingSignature), "{keep:?}");
    }
}

#[test]
fn a_repeated_signature_header_is_malformed_even_if_both_say_the_same() {
    for (record, index) in [
        (good_jws(), 0),
        (good_webhook(), 0),
        (good_webhook(), 1),
        (good_webhook(), 2),
    ] {
        let mut record = record;
        record.headers.push(record.headers[index].clone());
        assert_eq!(record.check(), Err(Reason::MalformedSignature));
    }
}

#[test]
fn a_message_can_not_choose_its_profile() {
    let mut both = good_jws();
    both.headers.extend(good_webhook().headers);
    assert_eq!(both.check(), Err(Reason::MalformedSignature));
    let mut stray = good_jws();
    stray.headers.push(("webhook-id", b"msg_1".to_vec()));
    assert_eq!(stray.check(), Err(Reason::MalformedSignature));

    // A webhook key under its kid, and a JWS device by its record key, with signatures that would match.
    let crossed = jws_record("d-hook", &protected("HS256", "hook"), |input| {
        hmac(&SECRET, input)
    });
    assert_eq!(crossed.check(), Err(Reason::UnknownKey));
    let crossed = webhook_record("d-hs", &SECRET, "msg_1", &NOW_S.to_string(), b"{}");
    assert_eq!(crossed.check(), Err(Reason::UnknownKey));
}

#[test]
fn freshness_ends_to_the_millisecond() {
    for (offset_ms, expected) in [
        (300_000, None),
        (300_001, Some(Reason::Stale)),
        (-300_000, None),
        (-300_001, Some(Reason::Stale)),
    ] {
        for mut record in [good_jws(), good_webhook()] {
            record.appended_ms += offset_ms;
            assert_eq!(record.check().err(), expected, "{offset_ms}");
        }
    }
}

#[test]
fn a_record_belongs_in_its_keys_partition_and_nowhere_else() {
    for partition in 0..PARTITIONS.cast_signed() {
        let mut record = good_jws();
        record.partition = partition;
        let expected = (partition != home("d-hs")).then_some(Reason::Misrouted);
        assert_eq!(record.check().err(), expected);
    }
    let mut homeless = good_jws();
    homeless.key = None;
    assert_eq!(homeless.check(), Err(Reason::Misrouted));
    let mut homeless = good_webhook();
    homeless.key = None;
    assert_eq!(homeless.check(), Err(Reason::UnknownKey));
}

#[test]
fn a_record_that_fails_after_its_signature_is_attributed_to_the_signer() {
    let bend = |bend: fn(&mut Record), mut record: Record| {
        bend(&mut record);
        record.rejected()
    };
    let audience = protected("HS256", "hs").replace("test/raw", "test/other");
    let elsewhere = jws_record("d-hs", &audience, |input| hmac(&SECRET, input));
    let late = |record: &mut Record| record.appended_ms += 300_001;
    let away = |record: &mut Record| record.partition += 1;
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(elsewhere.rejected(), (Reason::WrongAudience, named("d-hs")));
    assert_eq!(bend(late, good_jws()), (Reason::Stale, named("d-hs")));
    assert_eq!(bend(late, good_webhook()), (Reason::Stale, named("d-hook")));
    assert_eq!(bend(away, good_jws()), (Reason::Misrouted, named("d-hs")));

    let forge = |record: &mut Record| record.value.push(b' ');
    assert_eq!(bend(forge, good_jws()), (Reason::BadSignature, None));
    assert_eq!(bend(forge, good_webhook()), (Reason::BadSignature, None));
}

#[test]
fn binding_requires_three_names_of_one_device() {
    let (record, context, keyring) = (good_jws(), context(), keyring());
    let mut budget = context.budget();
    let verified = verify(
        &record.received(),
        &keyring,
        &context,
        &mut Scratch::default(),
        &mut budget,
    )
    .unwrap();
    assert!(verified.bind(Some(b"d-hs"), b"d-hs").is_ok());
    for (key, payload) in [
        (Some(&b"d-ed"[..]), &b"d-hs"[..]),
        (Some(b"d-hs"), b"d-ed"),
        (Some(b"d-ed"), b"d-ed"),
        (None, b"d-hs"),
    ] {
        assert_eq!(verified.bind(key, payload).err(), Some(Reason::BindingMismatch));
    }
}

#[test]
fn a_flood_of_false_signatures_costs_a_lane_no_more_than_its_budget() {
    let context = Context {
        config: Config {
            budget: BudgetConfig {
                failures_per_second: NonZeroU32::new(10).unwrap(),
                failures_burst: NonZeroU32::new(3).unwrap(),
            },
            ..Config::default()
        },
        ..context()
    };
    let (keyring, mut scratch, mut budget) = (keyring(), Scratch::default(), context.budget());
    let mut check = |record: &Record, budget: &mut Budget| {
        let result = verify(&record.received(), &keyring, &context, &mut scratch, budget);
        result.err().map(|rejection| rejection.reason)
    };
    let forged = jws_record("d-hs", &protected("HS256", "hs"), |input| {
        hmac(&OTHER_SECRET, input)
    });
    let unknown = jws_record("d-hs", &protected("HS256", "nobody"), |input| {
        hmac(&SECRET, input)
    });
    let hook = webhook_record("d-hook", &[1; 32], "msg_1", &NOW_S.to_string(), b"{}");
    assert_eq!(check(&forged, &mut budget), Some(Reason::BadSignature));
    assert_eq!(check(&unknown, &mut budget), Some(Reason::UnknownKey));
    assert_eq!(check(&hook, &mut budget), Some(Reason::BadSignature));
    for record in [&forged, &unknown, &hook, &good_jws(), &good_webhook()] {
        assert_eq!(check(record, &mut budget), Some(Reason::RateLimited));
    }
    // Reasons that need no computation are still reported.
    let revoked = jws_record("d-hs", &protected("HS256", "hs-revoked"), |input| {
        hmac(&SECRET, input)
    });
    assert_eq!(check(&revoked, &mut budget), Some(Reason::KeyNotActive));
    let mut later = good_jws();
    later.appended_ms += 100;
    assert_eq!(check(&later, &mut budget), None);
    // A valid signature is not charged to the budget.
    assert_eq!(check(&later, &mut budget), None);
    let mut forged_later = forged.clone();
    forged_later.appended_ms += 100;
    assert_eq!(check(&forged_later, &mut budget), Some(Reason::BadSignature));
    assert_eq!(check(&later, &mut budget), Some(Reason::RateLimited));
}

#[test]
fn nothing_that_prints_a_verified_record_names_its_device() {
    let (record, context, keyring) = (good_jws(), context(), keyring());
    let mut budget = context.budget();
    let verified = verify(
        &record.received(),
        &keyring,
        &context,
        &mut Scratch::default(),
        &mut budget,
    )
    .unwrap();
    assert!(!format!("{verified:?} {:?} {keyring:?}", record.received()).contains("d-hs"));
}
