//! Reads the key encryption key (KEK) from the configured source.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use pulsegate_core::crypto::kek::{Config, Kek, KekError, Source};

/// The environment variable that holds the KEK in base64.
pub const VARIABLE: &str = "PHI_MASTER_KEY";

// Far more than a key in base64 needs, and little enough to read at once.
const FILE_BYTES_MAX: u64 = 4096;

/// Why the KEK could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The variable is not set, or not valid Unicode.
    #[error("{VARIABLE} is not set: put the KEK there in base64, or set kek.source = \"file\" and kek.file")]
    NoVariable,
    /// `kek.file` is not set.
    #[error("kek.source is \"file\", but kek.file is not set: name the KEK file there")]
    NoFile,
    /// The file cannot be read.
    #[error("failed to read the KEK file {}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Every user of the machine can access the file.
    #[error("the KEK file {} is accessible to every user (mode {mode:03o}): run `chmod 600` on it", path.display())]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is too large to be a key.
    #[error("the KEK file {} is larger than {FILE_BYTES_MAX} bytes, so it is not a key", path.display())]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
    },
    /// The variable or the file does not hold a valid key.
    #[error("{place}: {error}")]
    NoKey {
        /// The file or the variable.
        place: String,
        /// What is wrong with the key.
        error: KekError,
    },
}

/// Reads the KEK. In the `local` environment a file that everyone can read is accepted.
///
/// # Errors
/// [`ReadError`]; its text never shows a part of the key.
pub fn read(config: &Config, environment: &str) -> Result<Kek, ReadError> {
    let (place, bytes) = match (config.source, &config.file) {
        (Source::Environment, _) => {
            let text = Zeroizing::new(std::env::var(VARIABLE).map_err(|_| ReadError::NoVariable)?);
            (VARIABLE.to_owned(), Zeroizing::new(text.as_bytes().to_vec()))
        }
        (Source::File, None) => return Err(ReadError::NoFile),
        (Source::File, Some(path)) => (path.display().to_string(), read_file(path, environment)?),
    };
    Kek::from_bytes(&bytes).map_err(|error| ReadError::NoKey { place, error })
}

fn read_file(path: &Path, environment: &str) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let unreadable = |source| ReadError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o777;
    if environment != "local" && mode & 0o007 != 0 {
        return Err(ReadError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(Zeroizing::new(std::fs::read(path).map_err(unreadable)?))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_file_open_to_everyone_is_read_only_locally() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("kek");
        fs::write(&path, [0xA5; 32]).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("set");
        let config = Config {
            source: Source::File,
            file: Some(path.clone()),
        };
        assert!(read(&config, "local").is_ok());
        let error = read(&config, "prod").expect_err("open to everyone");
        assert!(error.to_string().contains("mode 644"), "{error}");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
        assert!(read(&config, "prod").is_ok());
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = read(
            &Config {
                source: Source::File,
                file: None,
            },
            "local",
        )
        .expect_err("no file");
        assert!(error.to_string().contains("kek.file"), "{error}");
        let config = Config {
            source: Source::File,
            file: Some("does/not/exist".into()),
        };
        let error = read(&config, "local").expect_err("no such file");
        assert!(error.to_string().contains("does/not/exist"), "{error}");
    }
}
