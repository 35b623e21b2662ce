//! Device keys: derived from the fleet's seed, written in the form of `device import`, and used to sign.
//!
//! These are keys of a synthetic fleet: they follow from the seed, so that two runs (and the demo and its oracle) agree
//! on them without a file. Never import them into a registry of real devices.

use std::io::Write;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::record::{Header, JWS_SIGNATURE, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};

/// Signature scheme of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Detached JWS with HMAC-SHA256.
    JwsHs256,
    /// Detached JWS with Ed25519.
    JwsEd25519,
    /// Standard Webhooks `v1`.
    Webhook,
}

/// Signing material of a device. Its `Debug` output shows nothing of it.
#[derive(Clone)]
pub enum Secret {
    /// A shared secret of any length (`jws` HS256).
    Hs256(Vec<u8>),
    /// A private key (`jws` Ed25519).
    Ed25519(Box<SigningKey>),
    /// A shared secret (`webhook`).
    Webhook(Vec<u8>),
}

/// Key of one device.
#[derive(Clone)]
pub struct DeviceKey {
    /// Device id, which is also the record key.
    pub device: String,
    /// Key id.
    pub kid: String,
    /// Tenant of the device.
    pub tenant: String,
    /// Device class, which selects the rate limit.
    pub class: String,
    /// Signing material.
    pub secret: Secret,
}

/// One line in the form of `device import`. `private_key` is an extension: it lets `replay` sign for an Ed25519 device.
#[derive(Clone, Serialize, Deserialize)]
pub struct KeyLine {
    /// Device id.
    pub device: String,
    /// Key id.
    pub kid: String,
    /// Tenant of the device.
    pub tenant: String,
    /// Device class.
    pub class: String,
    /// `jws` or `webhook`.
    pub profile: String,
    /// `HS256` or `Ed25519`; only for `jws`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// Base64 for HS256, `whsec_` followed by base64 for `webhook`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Public key: base64 of the 32 bytes; only for Ed25519.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Private key: base64 of the 32 bytes; only for Ed25519, and never in an import file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl DeviceKey {
    /// Derives the key of the device with that index in the fleet of that seed.
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

    /// Profile of the key.
    #[must_use]
    pub fn profile(&self) -> Profile {
        match self.secret {
            Secret::Hs256(_) => Profile::JwsHs256,
            Secret::Ed25519(_) => Profile::JwsEd25519,
            Secret::Webhook(_) => Profile::Webhook,
        }
    }

    /// The line for `device import`; with `private` also the private half that `replay` needs.
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

    /// Signing key of a line. `None` for an Ed25519 line without its private half and for an invalid line.
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

    /// Signs a value and replaces `headers` with the profile's headers.
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

/// Claims of a signature besides the signer.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// `<environment>/<topic>`.
    pub audience: &'a str,
    /// Time of signing (upload), in seconds since the Unix epoch.
    pub signed_s: i64,
    /// Boot number that the sequence is counted in.
    pub boot: u64,
    /// Number of the message within its boot.
    pub sequence: u64,
}

impl Claim<'_> {
    fn webhook_id(&self) -> String {
        format!("msg_{}-{}", self.boot, self.sequence)
    }
}

/// Reusable buffers for signing.
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
        // Key ids and audiences of a fleet contain nothing that JSON would escape. Writing to memory does not fail.
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

/// Appends unpadded base64url without an intermediate buffer.
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
