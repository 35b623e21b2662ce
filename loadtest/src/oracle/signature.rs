//! Signatures of records: the two profiles of the contract's §5, checked with code independent of the gate's.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::Signature as Ed25519Signature;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::keys::{Key, Keys, Material};
use super::once::Once;
use crate::outcome::{Outcome, Outcomes};
use crate::record::{JWS_SIGNATURE, Record, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};

const PROTECTED_BYTES_MAX: usize = 512;

/// The signature headers of one record.
#[derive(Default)]
pub(super) struct Headers<'a> {
    pub count: usize,
    repeated: bool,
    jws: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    timestamp: Option<&'a [u8]>,
    webhook: Option<&'a [u8]>,
}

/// A valid signature.
pub(super) struct Signed<'k> {
    pub key: &'k Key,
    pub signed_s: i64,
    /// `None` if the profile names no audience.
    pub audience: Option<String>,
    pub once: Once,
}

/// Content of a valid signature, for code that passes records on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Device that signed.
    pub device: String,
    /// Identifier of the message.
    pub once: Once,
    /// Time of signing, in seconds since the Unix epoch.
    pub signed_s: i64,
    /// Audience; `None` if the profile names none.
    pub audience: Option<String>,
}

/// The signature of a record, if it is valid.
#[must_use]
pub fn check_signature(record: &Record, keys: &Keys) -> Option<Signature> {
    let mut headers = Headers::default();
    record
        .headers
        .iter()
        .for_each(|header| headers.take(&header.name, header.value.as_deref()));
    let signed = headers
        .check(
            record.key.as_deref(),
            record.value.as_deref().unwrap_or_default(),
            keys,
        )
        .ok()?;
    let Signed {
        key,
        signed_s,
        audience,
        once,
    } = signed;
    Some(Signature {
        device: key.name.clone(),
        once,
        signed_s,
        audience,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Protected {
    alg: String,
    kid: String,
    typ: String,
    aud: String,
    iat: i64,
    jti: String,
}

impl<'a> Headers<'a> {
    pub fn take(&mut self, name: &[u8], value: Option<&'a [u8]>) {
        self.count += 1;
        let slot = match name {
            JWS_SIGNATURE => &mut self.jws,
            WEBHOOK_ID => &mut self.id,
            WEBHOOK_TIMESTAMP => &mut self.timestamp,
            WEBHOOK_SIGNATURE => &mut self.webhook,
            _ => return,
        };
        self.repeated |= slot.is_some();
        *slot = Some(value.unwrap_or_default());
    }

    /// Checks presence, form, key and signature, in this order.
    pub fn check<'k>(
        &self,
        key: Option<&[u8]>,
        value: &[u8],
        keys: &'k Keys,
    ) -> Result<Signed<'k>, Outcomes> {
        let webhook = self.id.is_some() || self.timestamp.is_some() || self.webhook.is_some();
        match (self.jws, self.webhook) {
            (None, None) => Err(Outcome::MissingSignature.into()),
            _ if self.repeated || (self.jws.is_some() && webhook) => Err(Outcome::MalformedSignature.into()),
            (Some(jws), _) => check_jws(jws, value, keys),
            (None, Some(signatures)) => self.check_webhook(signatures, key, value, keys),
        }
    }

    fn check_webhook<'k>(
        &self,
        signatures: &[u8],
        key: Option<&[u8]>,
        value: &[u8],
        keys: &'k Keys,
    ) -> Result<Signed<'k>, Outcomes> {
        let malformed = || Outcomes::from(Outcome::MalformedSignature);
        let id = self.id.filter(|id| is_message_id(id)).ok_or_else(malformed)?;
        let timestamp = self.timestamp.ok_or_else(malformed)?;
        let signed_s = decimal(timestamp)
            .and_then(|s| i64::try_from(s).ok())
            .ok_or_else(malformed)?;
        let macs = webhook_macs(signatures).ok_or_else(malformed)?;
        if std::str::from_utf8(value).is_err() {
            return Err(malformed());
        }
        let candidates = keys.webhook(key.unwrap_or_default());
        if candidates.is_empty() {
            return Err(Outcome::UnknownKey.into());
        }
        let matches = |key: &&Key| match &key.material {
            Material::Hmac(secret) => macs
                .iter()
                .any(|mac| hmac_holds(secret, &[id, b".", timestamp, b".", value], mac)),
            Material::Ed25519(_) => false,
        };
        let key = candidates
            .iter()
            .find(matches)
            .ok_or(Outcomes::from(Outcome::BadSignature))?;
        let digest = Sha256::digest(id)[..16]
            .iter()
            .fold(0, |digest, byte| digest << 8 | u128::from(*byte));
        Ok(Signed {
            key,
            signed_s,
            audience: None,
            once: Once::Named {
                device: key.device,
                digest,
            },
        })
    }
}

fn check_jws<'k>(header: &[u8], value: &[u8], keys: &'k Keys) -> Result<Signed<'k>, Outcomes> {
    let malformed = || Outcomes::from(Outcome::MalformedSignature);
    let text = std::str::from_utf8(header).map_err(|_| malformed())?;
    let (protected, signature) = text.split_once("..").ok_or_else(malformed)?;
    let json = BASE64_URL_SAFE_NO_PAD
        .decode(protected)
        .map_err(|_| malformed())?;
    let signature = BASE64_URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| malformed())?;
    if json.len() > PROTECTED_BYTES_MAX
        || signature.len() > 64
        || json.trim_ascii_start().first() != Some(&b'{')
    {
        return Err(malformed());
    }
    // "Exactly" in the contract leaves each member one spelling, so any escape is invalid.
    if json.contains(&b'\\') {
        return Err(malformed());
    }
    let claim: Protected = serde_json::from_slice(&json).map_err(|_| malformed())?;
    let (boot, number) = claim.jti.split_once('-').ok_or_else(malformed)?;
    let (boot, number) = decimal(boot.as_bytes())
        .zip(decimal(number.as_bytes()))
        .ok_or_else(malformed)?;
    if claim.typ != "bio+jws" {
        return Err(malformed());
    }
    let key = keys
        .by_kid(&claim.kid)
        .ok_or(Outcomes::from(Outcome::UnknownKey))?;
    let input = format!("{protected}.{}", BASE64_URL_SAFE_NO_PAD.encode(value));
    let holds = match (&key.material, claim.alg.as_str()) {
        (Material::Hmac(secret), "HS256") => hmac_holds(secret, &[input.as_bytes()], &signature),
        (Material::Ed25519(key), "Ed25519" | "EdDSA") => {
            let signature = Ed25519Signature::from_slice(&signature);
            signature.is_ok_and(|signature| key.verify_strict(input.as_bytes(), &signature).is_ok())
        }
        _ => false,
    };
    if holds {
        let once = Once::Counted {
            device: key.device,
            boot,
            number,
        };
        Ok(Signed {
            key,
            signed_s: claim.iat,
            audience: Some(claim.aud),
            once,
        })
    } else if matches!(signature.len(), 32 | 64) {
        Err(Outcome::BadSignature.into())
    } else {
        // The contract does not say which of the two outcomes a signature of the wrong length has.
        Err(Outcomes::of(&[
            Outcome::BadSignature,
            Outcome::MalformedSignature,
        ]))
    }
}

/// The `v1` entries of a list of signatures: at least one, at most eight in total.
fn webhook_macs(list: &[u8]) -> Option<Vec<Vec<u8>>> {
    let entries: Vec<_> = list.split(|byte| *byte == b' ').collect();
    let mut macs = Vec::new();
    for entry in &entries {
        let comma = entry.iter().position(|byte| *byte == b',')?;
        if &entry[..comma] == b"v1" {
            macs.push(
                BASE64_STANDARD
                    .decode(&entry[comma + 1..])
                    .ok()
                    .filter(|mac| mac.len() == 32)?,
            );
        }
    }
    (!macs.is_empty() && entries.len() <= 8).then_some(macs)
}

fn is_message_id(id: &[u8]) -> bool {
    (1..=64).contains(&id.len())
        && id
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
}

/// Parses a decimal without sign or leading zeros.
fn decimal(text: &[u8]) -> Option<u64> {
    let canonical =
        text == b"0" || (!text.is_empty() && text[0] != b'0' && text.iter().all(u8::is_ascii_digit));
    std::str::from_utf8(text).ok().filter(|_| canonical)?.parse().ok()
}

fn hmac_holds(secret: &[u8], parts: &[&[u8]], mac: &[u8]) -> bool {
    let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return false;
    };
    parts.iter().for_each(|part| hmac.update(part));
    hmac.verify_slice(mac).is_ok()
}
