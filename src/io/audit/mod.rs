//! The audit log: each ledger record extends its lane's Merkle log (RFC 6962) in the audit database, exactly once, and
//! signed checkpoints say what the logs were at a time.
//!
//! ```text
//! ledger topic ──▶ chain (what follows, what does not) ──▶ log: entries + head + offset, one transaction ──▶ checkpoints
//! commands ─────▶ journal (the lane `administration`) ──▶ the same log
//! vault's key events ─▶ gate ─▶ journal
//! verify ◀── raw, clean, deadletter and ledger topics, database, checkpoints that people held
//! ```
//!
//! Nothing in the database is believed. Whoever claims a lane takes its head from the newest checkpoint that a trusted
//! key signed and recomputes what came after it, and refuses to go on from anything else: so no checkpoint is signed that
//! does not contain the one before it.

pub mod browse;
mod head;
pub mod journal;
pub mod keys;
pub mod log;
pub mod snapshot;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::head::failed;
pub use self::journal::Journal;
pub use self::log::{Appended, AuditLog, Claim, LedgerBatch, LedgerRecord};
use crate::io::kafka::Topics;
use crate::io::postgres::DatabaseError;
use crate::io::postgres::{Access, check_url};
use pulsegate_settings::{Check, Secret};

/// The audit log. Timeouts are those of the section `timescale`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The audit database's URL, `postgres://role:password@host:port/database`. Default: none; then the login file of the
    /// command's role in `databases.logins_directory` is read, which `pulsegate topology apply` has written.
    pub url: Secret,
    /// The file with the Ed25519 private key that signs checkpoints: 32 bytes in base64, mode 0600. Default: none; in the
    /// environment `local` one in `databases.logins_directory`, which is made when it is not there.
    pub key_file: Option<PathBuf>,
    /// The file with the public keys whose checkpoints are trusted, one a line in base64, also those of the past.
    /// Default: `audit.key_file` with `.pub` after it.
    pub public_keys_file: Option<PathBuf>,
    /// How often a checkpoint is signed of each lane that has grown, in milliseconds. One of a lane that has not is signed
    /// every minute. Default: 5,000.
    pub checkpoint_interval_ms: u64,
}

/// What the audit log is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How its database is reached.
    pub access: Access,
    /// Its section.
    pub audit: Config,
    /// The topics, whose names are in those of lanes.
    pub topics: Topics,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            key_file: None,
            public_keys_file: None,
            checkpoint_interval_ms: 5_000,
        }
    }
}

impl Config {
    /// What is wrong with the values.
    pub fn check(&self, check: &mut Check) {
        check_url("url", &self.url, check);
        check.range(
            "checkpoint_interval_ms",
            self.checkpoint_interval_ms,
            1_000..=600_000,
        );
    }
}

/// Why the audit log did not do what was asked.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A key that signs or verifies can't be used.
    #[error("the audit log's key file {path}: {reason}")]
    Key {
        /// The file.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// What the database has is not what was written. Nothing is signed or appended before somebody has looked.
    #[error(
        "the audit log's lane {lane} was changed by somebody at or before entry {seq}: {reason}; run `pulsegate audit \
         verify`, and restore the database from a backup"
    )]
    Tampered {
        /// The lane.
        lane: String,
        /// The first entry that can't be vouched for.
        seq: u64,
        /// What does not agree.
        reason: String,
    },
}
