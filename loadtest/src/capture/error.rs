//! Why a file of records cannot be read or written.

use std::io;

/// Why a file of records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is not in kcat's form.
    #[error("line {line} is not a record in the form of `kcat -J` ({problem})")]
    BadLine {
        /// Line number, from 1.
        line: usize,
        /// Where the line is invalid; never its content.
        problem: String,
    },
    /// The file is not a container of captured records.
    #[error("not an Avro object container of captured records: {0}")]
    Avro(#[from] apache_avro::Error),
}
