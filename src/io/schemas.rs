//! The event schemas, read from their directory.

use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use pulsegate_core::event::{Catalog, Config, Source};
use pulsegate_detect::clean::Decoder;

/// Largest schema file that is read, in bytes; the default schema has 5 KiB.
const SCHEMA_BYTES_MAX: u64 = 1 << 20;

/// The schemas cannot be used. The text names the file or directory, what is wrong and what to do.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SchemasError(String);

/// All event types, compiled.
pub struct Schemas {
    /// Compiled plans of the event types.
    pub catalog: Catalog,
    /// First 8 bytes of a SHA-256 over names and texts, in hex; the ledger records it as the schemas that decided.
    pub revision: String,
}

impl Schemas {
    /// Reads and compiles every `.avsc` in the directory.
    ///
    /// # Errors
    ///
    /// [`SchemasError`], with the file and what is wrong with it.
    pub fn read(config: &Config) -> Result<Self, SchemasError> {
        let sources = sources(&config.directory)?;
        let mut hasher = Sha256::new();
        for source in &sources {
            for part in [&source.name, &source.text] {
                hasher.update((part.len() as u64).to_be_bytes());
                hasher.update(part);
            }
        }
        let revision = hex::encode(&hasher.finalize()[..8]);
        let catalog = Catalog::compile(&sources, config).map_err(|error| {
            SchemasError(format!(
                "failed to compile the schemas in {} (event.directory): {error}",
                config.directory.display()
            ))
        })?;
        Ok(Self { catalog, revision })
    }

    /// Decoder of the clean records of all event types. A JSON record does not name its type: it has the default one.
    ///
    /// # Errors
    ///
    /// `Usage`, when the decoder rejects a clean schema.
    pub fn decoder(&self, config: &Config) -> Result<Decoder, SchemasError> {
        let plans = self.catalog.plans();
        let default = plans.iter().position(|plan| plan.name() == config.default_event);
        let clean = plans
            .iter()
            .map(|plan| (plan.clean_schema(), plan.clean_fingerprint()));
        Decoder::new(clean, default.unwrap_or_default())
            .map_err(|error| SchemasError(format!("invalid clean schema (event.directory): {error}")))
    }
}

/// Schema files of a directory, sorted by name, so that the file system's order does not matter.
fn sources(directory: &Path) -> Result<Vec<Source>, SchemasError> {
    let refused = |path: &Path, what: String| SchemasError(format!("{}: {what}", path.display()));
    let entries = fs::read_dir(directory).map_err(|error| {
        refused(
            directory,
            format!("failed to list the schemas (event.directory): {error}"),
        )
    })?;
    let mut sources = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|error| refused(directory, error.to_string()))?
            .path();
        let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        if path.extension().is_none_or(|extension| extension != "avsc") {
            continue;
        }
        let length = fs::metadata(&path)
            .map_err(|error| refused(&path, error.to_string()))?
            .len();
        if length > SCHEMA_BYTES_MAX {
            return Err(refused(&path, format!("larger than {SCHEMA_BYTES_MAX} bytes")));
        }
        let text = fs::read_to_string(&path).map_err(|error| refused(&path, error.to_string()))?;
        sources.push(Source {
            name: name.to_owned(),
            text,
        });
    }
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(sources)
}
