//! Device keys: made from the fleet's seed, written as `device import` takes them, and used to sign.
//!
//! These are keys of a synthetic fleet: they follow from the seed, so that two runs (and the demo and its oracle) agree on
//! them without a file. Never import them where real devices are.

use std::io::Write;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::record::{Header, JWS_SIGNATURE, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};

/// How a device signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Detached JWS with HMAC-SHA256.
    JwsHs256,
    /// Detached JWS with Ed25519.
    JwsEd25519,
    /// Standard Webhooks `v1`.
    Webhook,
}

/// What a device signs with. Prints nothing of itself.
#[derive(Clone)]
pub enum Secret {
    /// A shared secret of any length (`jws` HS256).
    Hs256(Vec<u8>),
    /// A private key (`jws` Ed25519).
    Ed25519(Box<SigningKey>),
    /// A shared secret (`webhook`).
    Webhook(Vec<u8>),
}

/// One device's key.
#[derive(Clone)]
pub struct DeviceKey {
    /// The device id, which is also the record key.
    pub device: String,
    /// The key id.
    pub kid: String,
    /// The tenant.
    pub tenant: String,
    /// The device class, which picks the rate limit.
    pub class: String,
    /// What it signs with.
    pub secret: Secret,
}

/// One line as `device import` takes it. `private_key` is ours alone: it lets `replay` sign for an Ed25519 device.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeyLine {
    /// The device id.
    pub device: String,
    /// The key id.
    pub kid: String,
    /// The tenant.
    pub tenant: String,
    /// The device class.
    pub class: String,
    /// `jws` or `webhook`.
    pub profile: String,
    /// `HS256` or `Ed25519`; `jws` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// Base64 for HS256, `whsec_` and base64 for `webhook`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Base64 of the 32 bytes; Ed25519 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Base64 of the 32 bytes; Ed25519 only, and never in an import file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl DeviceKey {
    /// The key of the device with that number in the fleet of that seed.
    #[must_use]
    pub fn derive(seed: u64, index: u32, device: &str, profile: Profile, tenant: &str, class: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"pulsegate-loadtest device key");
        hash.update(seed.to_be_bytes());
        hash.update(index.to_be_bytes());
        let bytes: [u8; 32] = hash.finalize().into();
        let secret = match profile {
            Profile::JwsHs256 => Secret::Hs256(bytes.to_vec()),
            Profile::JwsEd25519 => Secret::Ed25519(Box::new(SigningKey::from_bytes(&bytes))),
            Profile::Webhook => Secret::Webhook(bytes.to_vec()),
        };
        let kid = format!("{device}-a");
        Self {
            device: device.to_owned(),
            kid,
            tenant: tenant.to_owned(),
            class: class.to_owned(),
            secret,
        }
    }

    /// The profile that the key is for.
    #[must_use]
    pub fn profile(&self) -> Profile {
        match self.secret {
            Secret::Hs256(_) => Profile::JwsHs256,
            Secret::Ed25519(_) => Profile::JwsEd25519,
            Secret::Webhook(_) => Profile::Webhook,
        }
    }

    /// The line for `device import`; with `private` also what signing needs beyond it.
    #[must_use]
    pub fn line(&self, private: bool) -> KeyLine {
        let mut line = KeyLine {
            device: self.device.clone(),
            kid: self.kid.clone(),
            tenant: self.tenant.clone(),
            class: self.class.clone(),
            profile: "jws".to_owned(),
            alg: None,
            secret: None,
            public_key: None,
            private_key: None,
        };
        match &self.secret {
            Secret::Hs256(secret) => {
                line.alg = Some("HS256".to_owned());
                line.secret = Some(BASE64_STANDARD.encode(secret));
            }
            Secret::Ed25519(key) => {
                line.alg = Some("Ed25519".to_owned());
                line.public_key = Some(BASE64_STANDARD.encode(key.verifying_key().as_bytes()));
                line.private_key = private.then(|| BASE64_STANDARD.encode(key.to_bytes()));
            }
            Secret::Webhook(secret) => {
                line.profile = "webhook".to_owned();
                line.secret = Some(format!("whsec_{}", BASE64_STANDARD.encode(secret)));
            }
        }
        line
    }

    /// The signing key of a line. `None` for an Ed25519 line without its private half, and for a line that is not valid.
    #[must_use]
    pub fn from_line(line: &KeyLine) -> Option<Self> {
        let base64 = |text: &Option<String>| BASE64_STANDARD.decode(text.as_deref()?).ok();
        let secret = match (line.profile.as_str(), line.alg.as_deref()) {
            ("jws", Some("HS256")) => Secret::Hs256(base64(&line.secret)?),
            ("jws", Some("Ed25519")) => {
                let bytes: [u8; 32] = base64(&line.private_key)?.try_into().ok()?;
                Secret::Ed25519(Box::new(SigningKey::from_bytes(&bytes)))
            }
            ("webhook", _) => {
                let text = line.secret.as_deref()?.strip_prefix("whsec_")?;
                Secret::Webhook(BASE64_STANDARD.decode(text).ok()?)
            }
            _ => return None,
        };
        let (tenant, class) = (line.tenant.clone(), line.class.clone());
        Some(Self {
            device: line.device.clone(),
            kid: line.kid.clone(),
            tenant,
            class,
            secret,
        })
    }

    /// Signs a value and puts the profile's headers in place of those that `headers` held.
    pub fn sign(&self, claim: &Claim<'_>, value: &[u8], scratch: &mut Scratch, headers: &mut Vec<Header>) {
        headers.clear();
        match &self.secret {
            Secret::Hs256(secret) => {
                scratch.protected("HS256", &self.kid, claim);
                scratch.append_payload(value);
                let tag = hmac_sha256(secret, &[&scratch.input]);
                headers.push(Header::new(JWS_SIGNATURE, scratch.detached(&tag)));
            }
            Secret::Ed25519(key) => {
                scratch.protected("Ed25519", &self.kid, claim);
                scratch.append_payload(value);
                let signature = key.sign(&scratch.input).to_bytes();
                headers.push(Header::new(JWS_SIGNATURE, scratch.detached(&signature)));
            }
            Secret::Webhook(secret) => {
                let id = claim.webhook_id();
                let timestamp = claim.signed_s.to_string();
                let tag = hmac_sha256(secret, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", value]);
                headers.push(Header::new(WEBHOOK_ID, id));
                headers.push(Header::new(WEBHOOK_TIMESTAMP, timestamp));
                headers.push(Header::new(
                    WEBHOOK_SIGNATURE,
                    format!("v1,{}", BASE64_STANDARD.encode(tag)),
                ));
            }
        }
    }
}

/// What a signature says besides whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// `<environment>/<topic>`.
    pub audience: &'a str,
    /// Time of signing (upload), seconds since the Unix epoch.
    pub signed_s: i64,
    /// The boot that the sequence counts in.
    pub boot: u64,
    /// The number of the message in its boot.
    pub sequence: u64,
}

impl Claim<'_> {
    fn webhook_id(&self) -> String {
        format!("msg_{}-{}", self.boot, self.sequence)
    }
}

/// Buffers for signing, reused.
#[derive(Default)]
pub struct Scratch {
    json: Vec<u8>,
    input: Vec<u8>,
    protected_len: usize,
}

impl Scratch {
    /// Sets the signing input to `B64URL(protected) "."`.
    fn protected(&mut self, alg: &str, kid: &str, claim: &Claim<'_>) {
        self.json.clear();
        let Claim {
            audience,
            signed_s,
            boot,
            sequence,
        } = claim;
        // Key ids and audiences of a fleet hold nothing that JSON would escape. Writing to memory does not fail.
        let _ = write!(
            self.json,
            r#"{{"alg":"{alg}","kid":"{kid}","typ":"bio+jws","aud":"{audience}","iat":{signed_s},"jti":"{boot}-{sequence}"}}"#
        );
        self.input.clear();
        append_base64url(&mut self.input, &self.json);
        self.protected_len = self.input.len();
        self.input.push(b'.');
    }

    fn append_payload(&mut self, value: &[u8]) {
        append_base64url(&mut self.input, value);
    }

    /// `B64URL(protected) ".." B64URL(signature)`.
    fn detached(&self, signature: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.protected_len + 2 + signature.len() * 4 / 3 + 3);
        text.extend_from_slice(&self.input[..self.protected_len]);
        text.extend_from_slice(b"..");
        append_base64url(&mut text, signature);
        text
    }
}

/// Appends unpadded base64url without a buffer in between.
fn append_base64url(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = BASE64_URL_SAFE_NO_PAD
        .encode_slice(bytes, &mut out[start..])
        .unwrap_or_default();
    out.truncate(start + written);
}

fn hmac_sha256(secret: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes keys of any length, so this never fails.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return [0; 32];
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
