//! Files that only their owner may access: logins and keys.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Reads the text of a file that only its owner may access.
///
/// # Errors
/// When the file can't be read, other users may access it, or it is larger than `bytes_max`. No error quotes its text.
pub(super) fn read(path: &Path, bytes_max: u64) -> io::Result<Zeroizing<String>> {
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other(
            "other users may access it; set its mode to 0600",
        ));
    }
    read_public(path, bytes_max)
}

/// As [`read`], for a file that other users may read.
pub(super) fn read_public(path: &Path, bytes_max: u64) -> io::Result<Zeroizing<String>> {
    if fs::metadata(path)?.len() > bytes_max {
        let what = format!("larger than {bytes_max} bytes, so it is not the expected file");
        return Err(io::Error::other(what));
    }
    fs::read_to_string(path).map(Zeroizing::new)
}

/// Writes a file, replacing an existing one. It is renamed into place, so that no reader sees half of it.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    fs::rename(write_beside(path, text)?, path)
}

/// Writes a file unless it exists. It is linked into place, so no reader sees half of it and no file is replaced.
pub(super) fn create(path: &Path, text: &str) -> io::Result<()> {
    let temporary = write_beside(path, text)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn write_beside(path: &Path, text: &str) -> io::Result<PathBuf> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    Ok(temporary)
}
