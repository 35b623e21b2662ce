//! Records in files: JSON lines as `kcat -J` writes them, and Avro object container files.
//!
//! A line of kcat is lossless but not always text: kcat escapes what JSON must escape and copies every other byte as it
//! is, so a payload in Avro makes a line that is not UTF-8. Lines are written here exactly so, and read back byte for
//! byte; other tools may replace such bytes. For binary payloads the container file is the better choice.

pub mod container;
pub mod kcat;

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use crate::record::Captured;

/// The longest line that is read: a record of 20 MB of control characters, six bytes each, does not fit.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// A file of records, by its ending: `.avro` is a container, anything else lines of kcat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One JSON object a line.
    Kcat,
    /// Avro object container file.
    Container,
}

impl Layout {
    /// The layout that a path's ending asks for.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        match path.extension() {
            Some(ending) if ending.eq_ignore_ascii_case("avro") => Self::Container,
            _ => Self::Kcat,
        }
    }
}

/// Why a file of records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file system's fault.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a line of kcat.
    #[error("line {line} is not a record as `kcat -J` writes one ({problem})")]
    BadLine {
        /// The line, from 1.
        line: usize,
        /// Where the line goes wrong; never what stands there.
        problem: String,
    },
    /// Not such a container.
    #[error("not an Avro object container of captured records: {0}")]
    Avro(#[from] apache_avro::Error),
}

/// Writes records to a file (`-` is the standard output) in the layout of its name.
pub enum Writer {
    /// Lines.
    Kcat(BufWriter<Box<dyn Write>>),
    /// A container.
    Container(Box<container::Writer<BufWriter<Box<dyn Write>>>>),
}

impl Writer {
    /// Opens the file, replacing what it held.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn create(path: &Path) -> Result<Self, CaptureError> {
        let out: Box<dyn Write> = match path.as_os_str() == "-" {
            true => Box::new(io::stdout()),
            false => Box::new(File::create(path)?),
        };
        let out = BufWriter::new(out);
        match Layout::of(path) {
            Layout::Kcat => Ok(Self::Kcat(out)),
            Layout::Container => Ok(Self::Container(Box::new(container::Writer::new(out)?))),
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, captured: &Captured) -> Result<(), CaptureError> {
        match self {
            Self::Kcat(out) => Ok(kcat::write_line(captured, out)?),
            Self::Container(out) => out.write(captured),
        }
    }

    /// Writes what is still in memory.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(self) -> Result<(), CaptureError> {
        match self {
            Self::Kcat(mut out) => Ok(out.flush()?),
            Self::Container(out) => out.finish(),
        }
    }
}

/// Calls `visit` for every record of a file (`-` is the standard input), one in memory at a time.
///
/// # Errors
/// When the file cannot be read, or `visit` fails.
pub fn each_record(path: &Path, mut visit: impl FnMut(Captured) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let open = || -> io::Result<Box<dyn BufRead>> {
        match path.as_os_str() == "-" {
            true => Ok(Box::new(BufReader::new(io::stdin()))),
            false => Ok(Box::new(BufReader::new(File::open(path)?))),
        }
    };
    let mut input = open().map_err(CaptureError::Io)?;
    if Layout::of(path) == Layout::Container {
        return container::each_record(input, visit);
    }
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        io::Read::take(&mut input, LINE_BYTES_MAX as u64)
            .read_until(b'\n', &mut line)
            .map_err(CaptureError::Io)?;
        if line.is_empty() {
            return Ok(());
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let captured = kcat::read_line(text);
        visit(captured.map_err(|problem| CaptureError::BadLine {
            line: number,
            problem: problem.to_string(),
        })?)?;
    }
    Ok(())
}
