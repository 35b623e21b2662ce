//! The audit log: each ledger record extends its lane's Merkle log (RFC 6962) in the audit database, exactly once, and
//! signed checkpoints record the logs' states over time.
//!
//! ```text
//! ledger topic ──▶ chain (checks each link) ──▶ log: entries + head + offset, one transaction ──▶ checkpoints
//! commands ─────▶ journal (the lane `administration`) ──▶ the same log
//! vault's key events ─▶ gate ─▶ journal
//! verify ◀── raw, clean, deadletter and ledger topics, database, checkpoints kept elsewhere
//! ```
//!
//! The database is not trusted. A worker that claims a lane takes its head from the newest checkpoint signed by a
//! trusted key, recomputes everything after it, and refuses to continue from anything else: so every signed checkpoint
//! contains the one before it.

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

pub use self::head::{connect, failed};
pub use self::journal::Journal;
pub use self::log::{Appended, AuditLog, Claim, LedgerBatch, LedgerRecord};
use crate::io::kafka::Topics;
use crate::io::postgres::DatabaseError;
use crate::io::postgres::{Access, check_url};
use pulsegate_settings::{Check, Secret};

/// Settings of the audit log. Timeouts are those of the section `timescale`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The audit database's URL, `postgres://role:password@host:port/database`. Default: none; the login file of the
    /// command's role in `databases.logins_directory`, written by `pulsegate topology apply`, is used then.
    pub url: Secret,
    /// File with the Ed25519 private key that signs checkpoints: 32 bytes in base64, mode 0600. Default: none; in the
    /// environment `local` a file in `databases.logins_directory`, which is created if missing.
    pub key_file: Option<PathBuf>,
    /// File with the public keys whose checkpoints are trusted, including former ones, one per line in base64. Default:
    /// `audit.key_file` with `.pub` appended.
    pub public_keys_file: Option<PathBuf>,
    /// Interval between checkpoints of a lane that grows, in milliseconds. An idle lane gets one every minute. Default:
    /// 5,000.
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
    /// Reports invalid settings to `check`.
    pub fn check(&self, check: &mut Check) {
        check_url("url", &self.url, check);
        check.range(
            "checkpoint_interval_ms",
            self.checkpoint_interval_ms,
            1_000..=600_000,
        );
    }
}

/// Failure of an operation on the audit log.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The audit database is unreachable or refused the request.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A key that signs or verifies is missing or invalid.
    #[error("failed to use the audit log's key file {path}: {reason}")]
    Key {
        /// Path of the key file.
        path: String,
        /// What is wrong with the file, and what to do.
        reason: String,
    },
    /// The database does not hold what was written. Nothing is signed or appended until an operator has investigated.
    #[error(
        "the audit log's lane {lane} was tampered with at or before entry {seq}: {reason}; run `pulsegate audit \
         verify` and restore the database from a backup"
    )]
    Tampered {
        /// Name of the lane.
        lane: String,
        /// First entry that no checkpoint vouches for.
        seq: u64,
        /// The discrepancy.
        reason: String,
    },
}
