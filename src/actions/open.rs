//! Decrypts the PHI of clean records: each in the audit log before its contents are given out.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;

use jiff::Timestamp;
use tracing::info;

use crate::config::Config;
use crate::io::audit::journal::{self, Journal, Role};
use crate::io::registry::Registry;
use crate::io::schemas::Schemas;
use crate::io::vault::VaultFault;
use crate::io::vault::opening::Opener;
use crate::roles::Failure;
use pulsegate_core::crypto::envelope::FieldKey;
use pulsegate_core::event::{Catalog, Ids, Located, Verdict};
use pulsegate_core::gate::open::{OpenedEvent, Refusal, SealedEvent};
use pulsegate_ledger::log::entry::Deed;

/// A record of the clean topic, and its place.
pub struct Record {
    /// Name of the topic, for which the record was sealed.
    pub topic: String,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The value; `None` if it is null.
    pub value: Option<Vec<u8>>,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// What became of a record: its opened event, or the reason for which it is refused.
pub type Opened = Result<OpenedEvent, String>;

/// Access to everything that opening needs.
pub struct Opening<'c> {
    config: &'c Config,
    journal: Journal,
    vault: Opener,
    catalog: Catalog,
    registry: Option<Registry>,
    ids: Ids,
}

impl<'c> Opening<'c> {
    /// Connects to the audit log and the vault.
    ///
    /// # Errors
    /// `Wrong` if the KEK does not match, `Usage` if the configuration cannot work, `Unreachable` if the vault or the
    /// audit database does not answer.
    pub async fn connect(config: &'c Config) -> Result<Self, Failure> {
        let catalog = Schemas::read(&config.event)?.catalog;
        // Nothing is opened unless it can be audited.
        let journal = Journal::connect(&config.audit_settings(), Role::Operator).await?;
        let vault = Opener::connect(&config.vault_settings()).await.map_err(failure)?;
        Ok(Self {
            config,
            journal,
            vault,
            catalog,
            registry: Registry::new(&config.registry)?,
            ids: Ids::default(),
        })
    }

    /// Opens records; the answers are in their order. Those that were opened are in the audit log.
    ///
    /// # Errors
    /// As [`Opening::connect`]: then no record was opened.
    pub async fn open(&mut self, records: &[Record]) -> Result<Vec<Opened>, Failure> {
        self.learn(records).await?;
        let read: Vec<_> = records.iter().map(|record| self.read(record)).collect();
        let wanted: BTreeSet<u32> = read.iter().flatten().flat_map(SealedEvent::key_ids).collect();
        let wanted: Vec<u32> = wanted.into_iter().collect();
        let keys = self.vault.keys_by_id(&wanted).await.map_err(failure)?;
        let opened: Vec<_> = records
            .iter()
            .zip(read)
            .map(|(record, read)| read.and_then(|event| self.unseal(record, event, &keys)))
            .collect();
        self.audit(records, &opened).await?;
        Ok(opened)
    }

    /// Looks up the schemas with which the records are framed in the registry.
    async fn learn(&mut self, records: &[Record]) -> Result<(), Failure> {
        let Some(registry) = &self.registry else {
            return Ok(());
        };
        for value in records.iter().filter_map(|record| record.value.as_deref()) {
            if self.ids.len() >= self.config.registry.ids_max {
                // No topic has that many schemas; a record whose schema id is still unknown is refused.
                break;
            }
            if let Located::NeedsSchema(id) = self.catalog.locate_clean(value, &self.ids) {
                let schema = registry.schema(id).await?;
                let verdict = schema.map_or(Verdict::Denied, |schema| self.catalog.judge_clean(&schema));
                self.ids = self.ids.with(id, verdict);
            }
        }
        Ok(())
    }

    fn read<'r>(&'r self, record: &'r Record) -> Result<SealedEvent<'r>, String> {
        let Some(value) = &record.value else {
            return Err("not a clean event: it has no value".to_owned());
        };
        match self.catalog.locate_clean(value, &self.ids) {
            Located::Plan {
                plan,
                format,
                datum_start,
            } => {
                let datum = value.get(datum_start..).unwrap_or_default();
                SealedEvent::read(plan, format, datum).map_err(|refusal| refusal.to_string())
            }
            Located::NeedsSchema(id) => Err(format!(
                "unknown schema id {id}: check that registry.url names the registry in which it is registered"
            )),
            Located::UnknownSchema => {
                Err("the schema with which it was sealed is missing from event.directory".to_owned())
            }
            Located::Undecodable => Err("not a clean event: neither JSON nor framed Avro".to_owned()),
        }
    }

    fn unseal(&self, record: &Record, event: SealedEvent<'_>, keys: &HashMap<u32, FieldKey>) -> Opened {
        event
            .open(&self.config.environment, &record.topic, keys)
            .map_err(|refusal: Refusal| refusal.to_string())
    }

    /// Records which records are about to be given out, without any of their contents.
    async fn audit(&self, records: &[Record], opened: &[Opened]) -> Result<(), Failure> {
        let opened = records
            .iter()
            .zip(opened)
            .filter_map(|(record, result)| Some((record, result.as_ref().ok()?)));
        let deed = |(record, opened): (&Record, &OpenedEvent)| {
            let place = journal::detail([
                ("topic", record.topic.as_str().into()),
                ("partition", record.partition.into()),
                ("offset", record.offset.into()),
                ("fields", opened.fields.into()),
            ]);
            (Deed::PhiOpen, place)
        };
        let deeds: Vec<_> = opened.clone().map(deed).collect();
        self.journal.record_all(Timestamp::now(), deeds).await?;
        opened.for_each(|(record, opened)| log(record, opened.fields));
        Ok(())
    }
}

/// A KEK that does not match makes opening refuse: a finding, not a failed service.
fn failure(fault: VaultFault) -> Failure {
    match fault {
        VaultFault::Kek(error) => Failure::Wrong(error.to_string()),
        fault => fault.into(),
    }
}

/// Logs on this host who saw which record, without any of its contents.
fn log(record: &Record, fields: usize) {
    // The process owner as reported by the kernel: environment variables can be forged.
    let uid = std::fs::metadata("/proc/self").map(|process| process.uid());
    let Record {
        topic,
        partition,
        offset,
        ..
    } = record;
    info!(uid = ?uid.ok(), topic, partition, offset, fields, "PHI of a clean record was decrypted");
}
