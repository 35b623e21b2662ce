//! What stands in the audit log. Every entry is the bytes that its leaf hashes, and says by itself what it is.
//!
//! - In a lane of the ledger: each ledger record, byte for byte, and before one that does not follow from the one before it
//!   an [`Alert`].
//! - In the lane [`ADMINISTRATION`]: each [`Action`].
//!
//! Alerts and actions are canonical JSON: UTF-8, the members in the order of the structures here, no white space. None of
//! them has PHI, a device id or a key: hashes, counts, places, who and when.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::entry as ledger;

/// The version that this code writes and reads.
pub const VERSION: u32 = 1;

/// The largest entry, as the database has it.
pub const ENTRY_BYTES_MAX: usize = 65_535;

/// The lane of what people and programs did.
pub const ADMINISTRATION: &str = "administration";

/// An entry, read.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A ledger record.
    Ledger(Box<ledger::Entry>),
    /// What is wrong with the ledger at this place.
    Alert(Alert),
    /// What somebody did.
    Action(Action),
}

impl Entry {
    /// Reads an entry; `None` where this version has written none like it.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if let Ok(entry) = ledger::Entry::parse(bytes) {
            return Some(Self::Ledger(Box::new(entry)));
        }
        if let Ok(alert) = serde_json::from_slice(bytes) {
            return Some(Self::Alert(alert));
        }
        serde_json::from_slice(bytes).ok().map(Self::Action)
    }

    /// Its kind, in one word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Ledger(_) => "ledger",
            Self::Alert(_) => "alert",
            Self::Action(_) => "action",
        }
    }
}

/// What is wrong with a ledger record where it stands. The words are the values of the member `alert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It is not a ledger record: it is not kept, only its digest.
    Unreadable,
    /// It is another lane's.
    Foreign,
    /// It is not in the canonical form.
    NotCanonical,
    /// Its number is not the next one: records before it are missing, or it came twice.
    Sequence,
    /// It does not carry the hash of the record before it: one of the two was changed.
    Previous,
    /// It does not begin where the one before it ended, or contradicts itself.
    Range,
}

/// An entry that says what is wrong with the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// The version of this format.
    pub v: u32,
    /// What is wrong.
    pub alert: Fault,
    /// The lane.
    pub lane: String,
    /// Where the record stands in its partition of the ledger topic.
    pub ledger_offset: i64,
    /// What should be there: a number or a hash.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// An entry that says what somebody did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// The version of this format.
    pub v: u32,
    /// The number of this entry in its lane.
    pub seq: u64,
    /// SHA-256 of the entry before it in hex; zeros for the first.
    pub prev: String,
    /// When, RFC 3339 in UTC with milliseconds.
    pub at: String,
    /// What, such as `device.add`.
    pub action: Deed,
    /// Who.
    pub who: Who,
    /// What there is to say of it, by name: counts, places, hashes.
    pub detail: Map<String, Value>,
}

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// A device key was made.
    #[serde(rename = "device.add")]
    DeviceAdd,
    /// Device keys were imported.
    #[serde(rename = "device.import")]
    DeviceImport,
    /// Device keys were revoked.
    #[serde(rename = "device.revoke")]
    DeviceRevoke,
    /// The PHI of a record was decrypted for somebody to see.
    #[serde(rename = "phi.open")]
    PhiOpen,
    /// A KEK was made known to the vault.
    #[serde(rename = "kek.add")]
    KekAdd,
    /// A tenant was made, with its branch key.
    #[serde(rename = "tenant.add")]
    TenantAdd,
    /// Data keys of a tenant's subjects were made, each a first one or in the place of an older one.
    #[serde(rename = "data_key.make")]
    DataKeyMake,
    /// A key that a tenant's deadletters are sealed to was made, the first one or in the place of an older one.
    #[serde(rename = "quarantine_key.make")]
    QuarantineKeyMake,
    /// A schema was registered.
    #[serde(rename = "schema.register")]
    SchemaRegister,
    /// Topics, databases, roles or grants were changed.
    #[serde(rename = "topology.apply")]
    TopologyApply,
    /// A gate started.
    #[serde(rename = "gate.start")]
    GateStart,
    /// A watch started.
    #[serde(rename = "watch.start")]
    WatchStart,
}

/// Who did it, as far as this machine knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// The owner of the process, as the kernel sees it.
    pub uid: u32,
    /// The host.
    pub host: String,
    /// The version of the program.
    pub version: String,
}

/// The bytes of an alert or an action.
pub fn bytes(entry: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(entry).expect("an entry has only strings, numbers and maps with string keys")
}

/// SHA-256 in hex.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
