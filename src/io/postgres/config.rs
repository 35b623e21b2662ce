//! How databases are reached: by the superuser, and by services with logins of their own.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

use pulsegate_settings::{Check, Secret};

/// How `pulsegate topology` reaches the databases. Services connect with their own logins.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// URL of a superuser, `postgres://user:password@host:port/postgres`; used by `pulsegate topology` only.
    pub admin_url: Secret,
    /// Prefix of the names of databases and roles. Default: `pulsegate_`.
    pub prefix: String,
    /// Directory where `topology apply` writes the logins that it makes, one file per role, readable by the owner only,
    /// and where a service finds its login when no URL is configured. Default: `.stack/logins`.
    pub logins_directory: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            admin_url: Secret::default(),
            prefix: "pulsegate_".to_owned(),
            logins_directory: PathBuf::from(".stack/logins"),
        }
    }
}

impl Config {
    /// What is wrong with the values.
    pub fn check(&self, check: &mut Check) {
        if !is_name(&self.prefix) || self.prefix.len() > 40 {
            check.problem(
                "prefix",
                "must be 1 to 40 of a-z, 0-9 and _, beginning with a letter",
            );
        }
        check_url("admin_url", &self.admin_url, check);
    }
}

/// Adds a problem if a PostgreSQL URL is invalid. An empty one counts as not set, which is valid.
pub fn check_url(member: &str, url: &Secret, check: &mut Check) {
    if url.is_empty() {
        return;
    }
    match url.expose().parse::<PgConnectOptions>() {
        Err(_) => check.problem(
            member,
            "is not a PostgreSQL URL; write postgres://user:password@host:port/database",
        ),
        Ok(options) if !check.is_local() && !is_encrypted(&options) => {
            check.problem(
                member,
                "must have sslmode=require, verify-ca or verify-full outside the local environment",
            );
        }
        Ok(_) => {}
    }
}

pub fn is_encrypted(options: &PgConnectOptions) -> bool {
    use sqlx::postgres::PgSslMode::{Require, VerifyCa, VerifyFull};
    matches!(options.get_ssl_mode(), Require | VerifyCa | VerifyFull)
}

/// Whether a name needs no escaping when it is quoted.
pub fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// How services reach their databases.
#[derive(Clone, Debug)]
pub struct Access {
    /// The environment; outside `local` every connection must be encrypted.
    pub environment: String,
    /// Where the logins of services are.
    pub databases: Config,
    /// How long to wait for a connection, in milliseconds.
    pub acquire_time_max_ms: u64,
    /// How long a request may take, in milliseconds.
    pub request_time_max_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_need_no_escaping() {
        for good in ["pulsegate_", "a", "t1_"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "1a", "A", "a\"", "a-b", "ä"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
