//! Entries of the audit log. A leaf hashes an entry's bytes, and every entry is self-describing.
//!
//! - In a lane of the ledger: each ledger record, byte for byte; a record that does not follow from its predecessor is
//!   preceded by an [`Alert`].
//! - In the lane [`ADMINISTRATION`]: each [`Action`].
//!
//! Alerts and actions are canonical JSON: UTF-8, members in the order of the structures below, no white space. They
//! hold hashes, counts, places, actors and times, and never PHI, device ids or keys.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::entry as ledger;

/// Version of the entry format that this code writes and reads.
pub const VERSION: u32 = 1;

/// Largest entry in bytes; the database enforces the same limit.
pub const ENTRY_BYTES_MAX: usize = 65_535;

/// Lane of the actions of operators and programs.
pub const ADMINISTRATION: &str = "administration";

/// A parsed entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A ledger record.
    Ledger(Box<ledger::Entry>),
    /// A fault of the ledger at this place.
    Alert(Alert),
    /// An action of an operator or a program.
    Action(Action),
}

impl Entry {
    /// Parses an entry; `None` if it has no form that this version writes.
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

    /// Kind of the entry in one word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Ledger(_) => "ledger",
            Self::Alert(_) => "alert",
            Self::Action(_) => "action",
        }
    }
}

/// A fault of a ledger record in its place. The variants' names are the values of the member `alert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The value is not a ledger record: only its digest is kept.
    Unreadable,
    /// The record belongs to another lane.
    Foreign,
    /// The record is not in canonical form.
    NotCanonical,
    /// The record's number is not the next one: records before it are missing, or it is a duplicate.
    Sequence,
    /// The record does not carry its predecessor's hash: one of the two was changed.
    Previous,
    /// The record does not begin where its predecessor ended, or contradicts itself.
    Range,
}

/// An entry that reports a fault of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// Version of this format.
    pub v: u32,
    /// Kind of fault.
    pub alert: Fault,
    /// Lane of the faulty record.
    pub lane: String,
    /// Offset of the record in its partition of the ledger topic.
    pub ledger_offset: i64,
    /// Expected value: a number or a hash.
    pub expected: String,
    /// Value found instead.
    pub found: String,
}

/// An entry that records an action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// Version of this format.
    pub v: u32,
    /// Number of this entry in its lane.
    pub seq: u64,
    /// SHA-256 of the previous entry in hex; zeros in the first.
    pub prev: String,
    /// Time of the action, RFC 3339 in UTC with milliseconds.
    pub at: String,
    /// Kind of action, such as `device.add`.
    pub action: Deed,
    /// Actor.
    pub who: Who,
    /// Details by name: counts, places, hashes.
    pub detail: Map<String, Value>,
}

/// Kinds of action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// A device key was created.
    #[serde(rename = "device.add")]
    DeviceAdd,
    /// Device keys were imported.
    #[serde(rename = "device.import")]
    DeviceImport,
    /// Device keys were revoked.
    #[serde(rename = "device.revoke")]
    DeviceRevoke,
    /// The PHI of a record was decrypted to be read by a person.
    #[serde(rename = "phi.open")]
    PhiOpen,
    /// A KEK was registered with the vault.
    #[serde(rename = "kek.add")]
    KekAdd,
    /// A tenant and its branch key were created.
    #[serde(rename = "tenant.add")]
    TenantAdd,
    /// Data keys of a tenant's subjects were created, each a subject's first or a replacement.
    #[serde(rename = "data_key.make")]
    DataKeyMake,
    /// A tenant's quarantine key, to which its deadletters are sealed, was created: its first or a replacement.
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

/// Actor of an action, as far as its host knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// User id that owns the process, as reported by the kernel.
    pub uid: u32,
    /// Name of the host.
    pub host: String,
    /// Version of the program.
    pub version: String,
}

/// Encodes an alert or an action.
pub fn bytes(entry: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(entry).expect("an entry has only strings, numbers and maps with string keys")
}

/// SHA-256 of `bytes` in hex.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
