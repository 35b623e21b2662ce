//! Records in files, as JSON lines in the form of `kcat -J` or in Avro object container files.
//!
//! A line of kcat is lossless but not always text: kcat escapes what JSON must escape and copies every other byte, so
//! an Avro payload makes a line that is not UTF-8. Lines are written and read in exactly this form, byte for byte;
//! other tools may replace such bytes. For binary payloads the container file is the better choice.

pub mod container;
mod error;
pub mod kcat;

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

pub use self::error::CaptureError;
use crate::record::Captured;

/// The longest line that is read. A record of 20 MB of control characters, at six bytes each, does not fit.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// Layout of a file of records, chosen by its extension: `.avro` is a container, anything else is lines of kcat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One JSON object per line.
    Kcat,
    /// Avro object container file.
    Container,
}

impl Layout {
    /// The layout that a path's extension selects.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        match path.extension() {
            Some(ending) if ending.eq_ignore_ascii_case("avro") => Self::Container,
            _ => Self::Kcat,
        }
    }
}

/// Writes records to a file (`-` is the standard output) in the layout of its name.
pub enum Writer {
    /// JSON lines.
    Kcat(BufWriter<Box<dyn Write>>),
    /// Avro object container.
    Container(Box<container::Writer<BufWriter<Box<dyn Write>>>>),
}

impl Writer {
    /// Opens the file and truncates it.
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

    /// Appends a record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, captured: &Captured) -> Result<(), CaptureError> {
        match self {
            Self::Kcat(out) => Ok(kcat::write_line(captured, out)?),
            Self::Container(out) => out.write(captured),
        }
    }

    /// Writes everything still buffered.
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

/// Calls `visit` for every record of a file (`-` is the standard input), with one record in memory at a time.
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
