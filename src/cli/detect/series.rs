//! Opens the file of a series.

use std::fs::File;
use std::path::Path;

use crate::roles::Failure;
use pulsegate_detect::file::{FileError, Rows};

/// Opens a series.
pub(super) fn open(path: &Path) -> Result<Rows<File>, Failure> {
    let file = File::open(path).map_err(|error| {
        let path = path.display();
        Failure::Usage(format!("failed to open {path}: {error}; give --input a file"))
    })?;
    Ok(Rows::new(file))
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Row { .. } => Self::Wrong(error.to_string()),
            FileError::Unreadable { .. } => Self::Usage(error.to_string()),
        }
    }
}
