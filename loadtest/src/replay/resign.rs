//! Signs captured records again, so that they are fresh today.

use hashbrown::HashMap;

use crate::fleet::keys::{Claim, DeviceKey, KeyLine, Scratch};
use crate::oracle::{Keys, Once, Signature, check_signature};
use crate::record::{Captured, JWS_SIGNATURE, Record, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};

/// Signs captured records for another time and topic. Only a valid signature is replaced, so that forged records stay
/// forged; the delay between signing and appending is kept, so that stale records stay stale; and a repeat of a message
/// stays a repeat.
pub struct Resigner {
    keys: Keys,
    signing: HashMap<String, DeviceKey>,
    audience: String,
    boot: u64,
    sequences: HashMap<String, u64>,
    renamed: HashMap<Once, u64>,
    scratch: Scratch,
}

/// Result for a captured record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resigned {
    /// It carries a new signature.
    Anew,
    /// Unchanged: its signature is invalid or for another audience.
    DidNotHold,
    /// Unchanged: no key to sign with.
    NoKey,
}

impl Resigner {
    /// `boot` must be higher than any that the devices have used, or the gate takes every record for a repeat. Lines
    /// without a usable signing key are ignored.
    pub fn new(lines: &[KeyLine], keys: Keys, audience: String, boot: u64) -> Self {
        let signing = lines.iter().filter_map(DeviceKey::from_line);
        Self {
            keys,
            signing: signing.map(|key| (key.device.clone(), key)).collect(),
            audience,
            boot,
            sequences: HashMap::new(),
            renamed: HashMap::new(),
            scratch: Scratch::default(),
        }
    }

    /// Key of a device, for signing records that were not captured.
    #[must_use]
    pub fn key(&self, device: &str) -> Option<&DeviceKey> {
        self.signing.get(device)
    }

    /// Signs the record as of `now_ms`.
    pub fn resign(&mut self, captured: &mut Captured, now_ms: i64) -> Resigned {
        let Some(Signature {
            device,
            once,
            signed_s,
            audience,
        }) = check_signature(&captured.record, &self.keys)
        else {
            return Resigned::DidNotHold;
        };
        let same_topic = |audience: String| audience.ends_with(&format!("/{}", captured.topic));
        if !audience.is_none_or(same_topic) {
            return Resigned::DidNotHold;
        }
        let Some(key) = self.signing.get(&device) else {
            return Resigned::NoKey;
        };
        let sequences = &mut self.sequences;
        let sequence = *self.renamed.entry(once).or_insert_with(|| {
            let next = sequences.entry(device).or_default();
            *next += 1;
            *next
        });
        let late_ms = signed_s
            .saturating_mul(1000)
            .saturating_sub(captured.timestamp_ms);
        let claim = Claim {
            audience: &self.audience,
            signed_s: now_ms.saturating_add(late_ms).div_euclid(1000),
            boot: self.boot,
            sequence,
        };
        let own =
            |name: &[u8]| [JWS_SIGNATURE, WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE].contains(&name);
        let mut headers = Vec::new();
        let value = captured.record.value.as_deref().unwrap_or_default();
        key.sign(&claim, value, &mut self.scratch, &mut headers);
        captured.record.headers.retain(|header| !own(&header.name));
        captured.record.headers.splice(0..0, headers);
        Resigned::Anew
    }

    /// Signs a new value as the device's next message.
    pub fn sign(&mut self, device: &str, record: &mut Record, now_ms: i64) -> Resigned {
        let Some(key) = self.signing.get(device) else {
            return Resigned::NoKey;
        };
        let next = self.sequences.entry(device.to_owned()).or_default();
        *next += 1;
        let signed_s = now_ms.div_euclid(1000);
        let claim = Claim {
            audience: &self.audience,
            signed_s,
            boot: self.boot,
            sequence: *next,
        };
        key.sign(
            &claim,
            record.value.as_deref().unwrap_or_default(),
            &mut self.scratch,
            &mut record.headers,
        );
        Resigned::Anew
    }
}
