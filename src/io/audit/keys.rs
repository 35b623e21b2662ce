//! The key that signs checkpoints, and the keys that are trusted: read from files, never from the database.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{AuditError, Settings};
use crate::io::private_file;
use pulsegate_ledger::note::{LogKey, PublicKey};
use pulsegate_settings::LOCAL;

/// Far more than many years of keys need.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// Path of the signing key. In the environment `local` it has a default.
fn key_file(settings: &Settings) -> Option<PathBuf> {
    let local = || {
        let databases = &settings.access.databases;
        databases
            .logins_directory
            .join(format!("{}audit.key", databases.prefix))
    };
    let configured = settings.audit.key_file.clone();
    configured.or_else(|| (settings.access.environment == LOCAL).then(local))
}

/// Path of the trusted keys: next to the signing key unless configured otherwise.
fn public_keys_file(settings: &Settings) -> Option<PathBuf> {
    let beside = || {
        let mut name = key_file(settings)?.into_os_string();
        name.push(".pub");
        Some(name.into())
    };
    settings.audit.public_keys_file.clone().or_else(beside)
}

/// Reads the key that signs checkpoints; in the environment `local` a missing key is created.
///
/// # Errors
/// [`AuditError::Key`]; its text never contains any part of the key.
pub fn signing(settings: &Settings) -> Result<LogKey, AuditError> {
    let path = key_file(settings).ok_or_else(|| missing("audit.key_file"))?;
    if settings.access.environment == LOCAL && !path.exists() {
        make(
            &path,
            &public_keys_file(settings).ok_or_else(|| missing("audit.public_keys_file"))?,
        )?;
    }
    let text = private_file::read(&path, FILE_BYTES_MAX).map_err(|error| unreadable(&path, &error))?;
    let seed = Zeroizing::new(STANDARD.decode(text.trim()).unwrap_or_default());
    match seed.as_slice().try_into() {
        Ok(seed) => Ok(LogKey::new(seed)),
        Err(_) => Err(fault(
            &path,
            "is not an Ed25519 private key: 32 bytes in base64".to_owned(),
        )),
    }
}

/// Reads the keys whose checkpoints are trusted, including former signing keys: one per line in base64.
///
/// # Errors
/// [`AuditError::Key`] if the file is missing, invalid or empty.
pub fn trusted(settings: &Settings) -> Result<Vec<PublicKey>, AuditError> {
    let path = public_keys_file(settings).ok_or_else(|| missing("audit.public_keys_file"))?;
    let text = private_file::read_public(&path, FILE_BYTES_MAX).map_err(|error| unreadable(&path, &error))?;
    let lines = text.lines().map(str::trim);
    let keys: Option<Vec<PublicKey>> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| PublicKey::new(&STANDARD.decode(line).ok()?.try_into().ok()?))
        .collect();
    match keys {
        Some(keys) if !keys.is_empty() => Ok(keys),
        _ => Err(fault(
            &path,
            "is not a list of Ed25519 public keys: 32 bytes in base64, one per line".to_owned(),
        )),
    }
}

/// Creates a key, unless another process does so first.
fn make(path: &Path, public_path: &Path) -> Result<(), AuditError> {
    let mut seed = Zeroizing::new([0_u8; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|error| {
        fault(
            path,
            format!("failed to get random bytes from the operating system: {error}"),
        )
    })?;
    let text = Zeroizing::new(STANDARD.encode(seed.as_slice()));
    private_file::create(path, &text).map_err(|error| unreadable(path, &error))?;
    // The process that wrote the file first decides what the public key is.
    let written = private_file::read(path, FILE_BYTES_MAX).map_err(|error| unreadable(path, &error))?;
    let seed = Zeroizing::new(STANDARD.decode(written.trim()).unwrap_or_default());
    let Ok(seed) = <&[u8; 32]>::try_from(seed.as_slice()) else {
        return Ok(());
    };
    let public = STANDARD.encode(LogKey::new(seed).public().to_bytes());
    private_file::create(public_path, &public).map_err(|error| unreadable(public_path, &error))
}

fn fault(path: &Path, reason: String) -> AuditError {
    AuditError::Key {
        path: path.display().to_string(),
        reason,
    }
}

fn unreadable(path: &Path, error: &io::Error) -> AuditError {
    fault(path, error.to_string())
}

fn missing(setting: &str) -> AuditError {
    AuditError::Key {
        path: "none".to_owned(),
        reason: format!("{setting} must name a file outside the environment local"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::io::kafka::Topics;
    use crate::io::postgres::{self, Access};

    fn settings(directory: &tempfile::TempDir) -> Settings {
        let mut settings = Settings {
            access: Access {
                environment: LOCAL.to_owned(),
                databases: postgres::Config::default(),
                acquire_time_max_ms: 1_000,
                request_time_max_ms: 1_000,
            },
            audit: super::super::Config::default(),
            topics: Topics::default(),
        };
        settings.access.databases.logins_directory = directory.path().join("logins");
        settings
    }

    #[test]
    fn locally_a_key_is_created_once_and_readable_by_its_owner_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = settings(&directory);
        let public = signing(&settings).expect("made").public();
        assert_eq!(signing(&settings).expect("read").public(), public);
        assert_eq!(trusted(&settings).expect("beside it"), [public]);
        let path = key_file(&settings).expect("a default");
        assert_eq!(
            fs::metadata(&path).expect("there").permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("allowed");
        let error = signing(&settings).expect_err("others can read it");
        assert!(error.to_string().contains("0600"), "{error}");
    }

    #[test]
    fn outside_the_environment_local_no_key_is_created() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut settings = settings(&directory);
        settings.access.environment = "prod".to_owned();
        let error = signing(&settings).expect_err("nothing is configured");
        assert!(error.to_string().contains("audit.key_file"), "{error}");
        settings.audit.key_file = Some(directory.path().join("absent"));
        assert!(signing(&settings).is_err() && trusted(&settings).is_err());
        assert!(!directory.path().join("absent").exists());
    }

    #[test]
    fn former_keys_are_trusted_and_invalid_keys_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut settings = settings(&directory);
        let file = directory.path().join("keys");
        settings.audit.public_keys_file = Some(file.clone());
        let key = |number| STANDARD.encode(LogKey::new(&[number; 32]).public().to_bytes());
        fs::write(&file, format!("# since 2026\n{}\n\n{}\n", key(1), key(2))).expect("written");
        assert_eq!(trusted(&settings).expect("two").len(), 2);
        // The neutral element: any signature verifies under it.
        let weak = STANDARD.encode([[1].as_slice(), &[0; 31]].concat());
        for bad in [
            "",
            "# nothing\n",
            "not base64",
            "AAAA",
            &weak,
            &"x".repeat(20_000),
        ] {
            fs::write(&file, bad).expect("written");
            assert!(trusted(&settings).is_err(), "{bad:.40}");
        }
    }
}
