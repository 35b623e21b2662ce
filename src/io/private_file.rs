//! Files that only their owner may access: logins and keys.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use tempfile::NamedTempFile;
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
    write_beside(path, text)?.persist(path)?;
    Ok(())
}

/// Writes a file unless it exists. It is moved into place, so no reader sees half of it and no file is replaced.
pub(super) fn create(path: &Path, text: &str) -> io::Result<()> {
    match write_beside(path, text)?.persist_noclobber(path) {
        Err(failed) if failed.error.kind() != io::ErrorKind::AlreadyExists => Err(failed.error),
        _ => Ok(()),
    }
}

/// Writes a file with a random name and mode 0600 in the same directory. It is removed unless it is moved into place.
fn write_beside(path: &Path, text: &str) -> io::Result<NamedTempFile> {
    let directory = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let mut file = NamedTempFile::new_in(directory)?;
    writeln!(file, "{text}")?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_files_are_for_their_owner_and_leave_nothing_beside_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("logins").join("role");
        create(&path, "first").expect("created");
        create(&path, "second").expect("an existing file is kept");
        assert_eq!(*read(&path, 64).expect("private"), "first\n");
        replace(&path, "third").expect("replaced");
        assert_eq!(*read(&path, 64).expect("private"), "third\n");
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        let parent = path.parent().expect("a parent");
        assert_eq!(mode(parent), 0o700);
        assert_eq!(fs::read_dir(parent).expect("readable").count(), 1);
    }
}
