//! Files that hold what nobody but their owner may know: logins and keys.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The text of a file that nobody but its owner may read.
///
/// # Errors
/// Where it can't be read, others may read it, or it is larger than `bytes_max`. Nothing of its text is in the error.
pub(super) fn read(path: &Path, bytes_max: u64) -> io::Result<Zeroizing<String>> {
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other("others may read it; its mode must be 0600"));
    }
    read_public(path, bytes_max)
}

/// As [`read`], of what others may read.
pub(super) fn read_public(path: &Path, bytes_max: u64) -> io::Result<Zeroizing<String>> {
    if fs::metadata(path)?.len() > bytes_max {
        let what = format!("larger than {bytes_max} bytes, so it is not what belongs there");
        return Err(io::Error::other(what));
    }
    fs::read_to_string(path).map(Zeroizing::new)
}

/// Writes a file, in the place of the one that is there. Renamed, so that no reader finds half of it.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    fs::rename(write_beside(path, text)?, path)
}

/// Writes a file, unless there is one. Linked, so that no reader finds half of it and nobody's is replaced.
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
