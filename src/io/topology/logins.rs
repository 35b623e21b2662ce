//! The services' logins: one file a role, written when the role is made, readable by its owner only.
//!
//! A file holds the URL that the role connects with. Where a secret manager places the file first, the password in it
//! is the one that the role gets.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use zeroize::Zeroizing;

use super::Fault;
use super::databases::Config;
use crate::config::Secret;

/// A login file is one URL.
const FILE_BYTES_MAX: u64 = 4096;

/// The URL that the service role `role` (without prefix, such as `gate_vault`) connects with.
///
/// # Errors
/// [`Fault::Login`] where the file is missing, or others may read it.
pub fn read(config: &Config, role: &str) -> Result<Secret, Fault> {
    find(config, role)?.ok_or_else(|| {
        let reason =
            "does not exist; run `pulsegate topology apply`, or set the URL in the configuration".to_owned();
        Fault::Login {
            path: path(config, role).display().to_string(),
            reason,
        }
    })
}

/// As [`read`], with `None` for a missing file.
pub(super) fn find(config: &Config, role: &str) -> Result<Option<Secret>, Fault> {
    let path = path(config, role);
    let fault = |reason: String| Fault::Login {
        path: path.display().to_string(),
        reason,
    };
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(error.to_string())),
    };
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(fault("others may read it; its mode must be 0600".to_owned()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(fault(format!(
            "larger than {FILE_BYTES_MAX} bytes, so it is no login"
        )));
    }
    let text = Zeroizing::new(fs::read_to_string(&path).map_err(|error| fault(error.to_string()))?);
    Ok(Some(Secret::from(text.trim())))
}

/// Makes a new password for `role` and writes its login, with the host, port and parameters that `admin` has.
pub(super) fn make(
    config: &Config,
    role: &str,
    admin: &PgConnectOptions,
    database: &str,
) -> Result<Secret, Fault> {
    let mut random = Zeroizing::new([0_u8; 32]);
    getrandom::fill(random.as_mut_slice())
        .map_err(|error| Fault::Invalid(format!("the operating system gave no random bytes: {error}")))?;
    let password = Zeroizing::new(URL_SAFE_NO_PAD.encode(random.as_slice()));
    let login = admin
        .clone()
        .username(&format!("{}{role}", config.prefix))
        .password(&password)
        .database(database)
        .to_url_lossy();
    write(&path(config, role), login.as_str())?;
    Ok(Secret::from(login.as_str()))
}

fn path(config: &Config, role: &str) -> PathBuf {
    config
        .logins_directory
        .join(format!("{}{role}.url", config.prefix))
}

/// Written beside and renamed, so that no reader finds half a login.
fn write(path: &Path, login: &str) -> Result<(), Fault> {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let attempt = || -> std::io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        writeln!(file, "{login}")?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(|error| Fault::Login {
        path: path.display().to_string(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
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
