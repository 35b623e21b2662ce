//! The services' logins: one file per role, written when the role is created, readable by its owner only.
//!
//! A file holds the URL that the role connects with. If a secret manager has placed the file before, the role gets the
//! password in it.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use zeroize::Zeroizing;

use thiserror::Error;

use super::config::{Access, Config, is_encrypted};
use crate::io::private_file;
use pulsegate_settings::{LOCAL, Secret};

/// Why a login cannot be used.
#[derive(Debug, Error)]
pub enum LoginError {
    /// A login file could not be read or written.
    #[error("login file {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The login itself is not usable.
    #[error("{0}")]
    Invalid(String),
}

/// A login file is one URL.
const FILE_BYTES_MAX: u64 = 4096;

/// The URL that the service role `role` (without prefix, such as `gate_vault`) connects with.
///
/// # Errors
/// [`LoginError::File`] where the file is missing, or other users may access it.
pub fn read(config: &Config, role: &str) -> Result<Secret, LoginError> {
    find(config, role)?.ok_or_else(|| {
        let reason =
            "does not exist; run `pulsegate topology apply`, or set the URL in the configuration".to_owned();
        LoginError::File {
            path: path(config, role).display().to_string(),
            reason,
        }
    })
}

/// As [`read`], with `None` for a missing file.
pub fn find(config: &Config, role: &str) -> Result<Option<Secret>, LoginError> {
    let path = path(config, role);
    match private_file::read(&path, FILE_BYTES_MAX) {
        Ok(text) => Ok(Some(Secret::from(text.trim()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault(&path, &error)),
    }
}

/// Whether the login has the host and port of `admin`; true also for one that cannot be parsed.
pub fn is_at(login: &Secret, admin: &PgConnectOptions) -> bool {
    login.expose().parse::<PgConnectOptions>().map_or(true, |login| {
        (login.get_host(), login.get_port()) == (admin.get_host(), admin.get_port())
    })
}

/// Connection options of a service: the configured URL, or else the login of `role`.
///
/// # Errors
/// [`LoginError`] where there is neither, or the URL is invalid, or unencrypted outside `local`.
pub fn options(
    access: &Access,
    database: &str,
    role: &str,
    url: &Secret,
) -> Result<PgConnectOptions, LoginError> {
    let login = if url.is_empty() {
        &read(&access.databases, role)?
    } else {
        url
    };
    let invalid = |text: &str| LoginError::Invalid(format!("the URL of the {database} database {text}"));
    let options: PgConnectOptions = login
        .expose()
        .parse()
        .map_err(|_| invalid("is not a PostgreSQL URL"))?;
    if access.environment != LOCAL && !is_encrypted(&options) {
        return Err(invalid(
            "must have sslmode=require, verify-ca or verify-full outside the local environment",
        ));
    }
    Ok(options.application_name("pulsegate").disable_statement_logging())
}

/// Makes a new password for `role` and writes its login, with the host, port and parameters of `admin`.
pub fn make(
    config: &Config,
    role: &str,
    admin: &PgConnectOptions,
    database: &str,
) -> Result<Secret, LoginError> {
    let mut random = Zeroizing::new([0_u8; 32]);
    getrandom::fill(random.as_mut_slice()).map_err(|error| {
        LoginError::Invalid(format!(
            "failed to get random bytes from the operating system: {error}"
        ))
    })?;
    let password = Zeroizing::new(URL_SAFE_NO_PAD.encode(random.as_slice()));
    let login = admin
        .clone()
        .username(&format!("{}{role}", config.prefix))
        .password(&password)
        .database(database)
        .to_url_lossy();
    let path = path(config, role);
    private_file::replace(&path, login.as_str()).map_err(|error| fault(&path, &error))?;
    Ok(Secret::from(login.as_str()))
}

fn path(config: &Config, role: &str) -> PathBuf {
    config
        .logins_directory
        .join(format!("{}{role}.url", config.prefix))
}

fn fault(path: &Path, error: &io::Error) -> LoginError {
    LoginError::File {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(directory: &tempfile::TempDir) -> Config {
        Config {
            logins_directory: directory.path().join("logins"),
            ..Config::default()
        }
    }

    #[test]
    fn a_login_is_readable_by_its_owner_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = config(&directory);
        let admin: PgConnectOptions = "postgres://root:old@127.0.0.1:5432/postgres"
            .parse()
            .expect("a URL");
        let made = make(&config, "gate_vault", &admin, "pulsegate_vault").expect("made");
        assert!(
            made.expose().starts_with("postgres://pulsegate_gate_vault:"),
            "the role's name"
        );
        assert!(
            made.expose().contains("@127.0.0.1:5432/pulsegate_vault"),
            "the admin's host, the role's database"
        );
        assert!(!made.expose().contains(":old@"), "a password of its own");
        assert_eq!(read(&config, "gate_vault").expect("written"), made);

        let file = path(&config, "gate_vault");
        assert_eq!(
            fs::metadata(&file).expect("there").permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("allowed");
        assert!(
            read(&config, "gate_vault")
                .expect_err("others can read")
                .to_string()
                .contains("0600")
        );
    }

    #[test]
    fn a_missing_login_says_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = read(&config(&directory), "gate_vault").expect_err("missing");
        assert!(error.to_string().contains("pulsegate topology apply"), "{error}");
    }
}
