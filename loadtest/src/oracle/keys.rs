//! The oracle's view of the registry: public keys and shared secrets from import lines.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::VerifyingKey;
use hashbrown::HashMap;

use crate::fleet::keys::KeyLine;

/// Keys of all devices, by key id for `jws` and by device id for `webhook`.
#[derive(Default)]
pub struct Keys {
    devices: HashMap<String, u32>,
    by_kid: HashMap<String, Key>,
    webhook: HashMap<String, Vec<Key>>,
}

/// One key and its device.
pub(super) struct Key {
    /// Number of the device within the file.
    pub device: u32,
    /// Device id.
    pub name: String,
    /// Material that verifies signatures.
    pub material: Material,
}

pub(super) enum Material {
    Hmac(Vec<u8>),
    Ed25519(Box<VerifyingKey>),
}

/// A line that is not a valid key.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the keys file is not a device key: {problem}")]
pub struct BadKey {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it; never the key.
    pub problem: &'static str,
}

impl Keys {
    /// Reads JSON lines in the form of `device import`.
    ///
    /// # Errors
    /// Reports the first line that is not a valid key.
    pub fn read<'l>(lines: impl IntoIterator<Item = &'l str>) -> Result<Self, BadKey> {
        let mut keys = Self::default();
        for (index, text) in lines
            .into_iter()
            .enumerate()
            .filter(|(_, text)| !text.trim().is_empty())
        {
            let bad = |problem| BadKey {
                line: index + 1,
                problem,
            };
            let line: KeyLine = serde_json::from_str(text)
                .map_err(|_| bad("not JSON in the form of `pulsegate device import`"))?;
            keys.add(line).map_err(bad)?;
        }
        Ok(keys)
    }

    /// Number of devices that have a key.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    fn add(&mut self, line: KeyLine) -> Result<(), &'static str> {
        let next = u32::try_from(self.devices.len()).map_err(|_| "too many devices")?;
        let device = *self.devices.entry(line.device.clone()).or_insert(next);
        let bytes = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| "not base64");
        let secret = line.secret.as_deref().ok_or("no secret");
        let material = match (line.profile.as_str(), line.alg.as_deref()) {
            ("jws", Some("HS256")) => Material::Hmac(bytes(secret?)?),
            ("jws", Some("Ed25519")) => {
                let key = bytes(line.public_key.as_deref().ok_or("no public key")?)?;
                let key: [u8; 32] = key.try_into().map_err(|_| "a public key has 32 bytes")?;
                let key = VerifyingKey::from_bytes(&key)
                    .map_err(|_| "the public key is not a point of the curve")?;
                Material::Ed25519(Box::new(key))
            }
            ("webhook", _) => Material::Hmac(bytes(
                secret?
                    .strip_prefix("whsec_")
                    .ok_or("the secret does not begin with whsec_")?,
            )?),
            _ => return Err("the profile is neither jws with HS256 or Ed25519, nor webhook"),
        };
        let key = Key {
            device,
            name: line.device.clone(),
            material,
        };
        if line.profile == "webhook" {
            self.webhook.entry(line.device).or_default().push(key);
        } else if self.by_kid.insert(line.kid, key).is_some() {
            return Err("duplicate key id");
        }
        Ok(())
    }

    pub(super) fn by_kid(&self, kid: &str) -> Option<&Key> {
        self.by_kid.get(kid)
    }

    pub(super) fn webhook(&self, device: &[u8]) -> &[Key] {
        let found = std::str::from_utf8(device)
            .ok()
            .and_then(|device| self.webhook.get(device));
        found.map_or(&[], Vec::as_slice)
    }
}
