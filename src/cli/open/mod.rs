//! `pulsegate open`: decrypts the PHI of clean records, with the KEK at hand.

mod source;

use std::collections::{BTreeSet, HashMap};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::MetadataExt as _;

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::info;

use super::{Context, print};
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

use source::{Record, Source};

/// Most records opened with one request to the vault.
const BATCH_RECORDS_MAX: usize = 256;

/// Arguments of `pulsegate open`.
#[derive(clap::Args)]
#[command(
    after_help = "Reads the lines of `kcat -C -J -t biometrics.clean …` on standard input, or the topic itself \
                        with --partition and --offset. Every opened record is in the audit log before it is printed."
)]
pub struct Args {
    /// The clean topic [default: topics.clean]
    #[arg(long, requires = "partition")]
    topic: Option<String>,
    /// Reads this partition of the topic instead of standard input
    #[arg(long, requires = "offset")]
    partition: Option<i32>,
    /// The first offset to open
    #[arg(long, requires = "partition")]
    offset: Option<i64>,
    /// How many records to open
    #[arg(long, default_value_t = 1, requires = "partition", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
}

/// Runs the command.
///
/// # Errors
/// [`Failure::Wrong`] if a record is refused or the KEK does not match, [`Failure::Unreachable`] if the vault, the
/// audit database or Kafka does not answer.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let mut source = source(&args, context)?;
    let catalog = Schemas::read(&context.config.event)?.catalog;
    // Nothing is opened unless it can be audited.
    let journal = Journal::connect(&context.config.audit_settings(), Role::Operator).await?;
    let vault = Opener::connect(&context.config.vault_settings())
        .await
        .map_err(failure)?;
    let mut reader = Reader {
        context,
        journal,
        catalog,
        registry: Registry::new(&context.config.registry)?,
        ids: Ids::default(),
        opened: 0,
        refused: 0,
    };
    loop {
        // Reading blocks; the runtime's other thread continues meanwhile.
        let records = tokio::task::block_in_place(|| source.next(BATCH_RECORDS_MAX))?;
        if records.is_empty() {
            return reader.finish();
        }
        reader.open(&records, &vault).await?;
    }
}

fn source(args: &Args, context: &Context) -> Result<Source, Failure> {
    if let (Some(partition), Some(offset)) = (args.partition, args.offset) {
        let topic = args.topic.as_deref().unwrap_or(&context.config.topics.clean);
        return Source::topic(&context.config.kafka, topic, partition, offset, args.count);
    }
    if std::io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "nothing to open: pipe in lines of `kcat -C -J`, or pass --partition and --offset".to_owned(),
        ));
    }
    Ok(Source::lines())
}

struct Reader<'c> {
    context: &'c Context,
    journal: Journal,
    catalog: Catalog,
    registry: Option<Registry>,
    ids: Ids,
    opened: u64,
    refused: u64,
}

impl Reader<'_> {
    /// Opens and prints records in order. A refused record is reported on standard error, and the next one is opened.
    async fn open(&mut self, records: &[Record], vault: &Opener) -> Result<(), Failure> {
        self.learn(records).await?;
        let read: Vec<_> = records.iter().map(|record| self.read(record)).collect();
        let wanted: BTreeSet<u32> = read.iter().flatten().flat_map(SealedEvent::key_ids).collect();
        let wanted: Vec<u32> = wanted.into_iter().collect();
        let keys = vault.keys_by_id(&wanted).await.map_err(failure)?;
        let opened: Vec<_> = records
            .iter()
            .zip(read)
            .map(|(record, read)| read.and_then(|event| self.unseal(record, event, &keys)))
            .collect();
        self.audit(records, &opened).await?;
        for (record, result) in records.iter().zip(opened) {
            match result {
                Ok(opened) => {
                    self.opened += 1;
                    print(&self.render(record, &opened.event))?;
                }
                Err(problem) => {
                    self.refused += 1;
                    self.report(record, &problem);
                }
            }
        }
        Ok(())
    }

    /// Looks up the schemas with which the records are framed in the registry.
    async fn learn(&mut self, records: &[Record]) -> Result<(), Failure> {
        let Some(registry) = &self.registry else {
            return Ok(());
        };
        for value in records.iter().filter_map(|record| record.value.as_deref()) {
            if self.ids.len() >= self.context.config.registry.ids_max {
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

    fn read(&self, record: &Record) -> Result<SealedEvent<'_>, String> {
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

    fn unseal(
        &self,
        record: &Record,
        event: SealedEvent<'_>,
        keys: &HashMap<u32, FieldKey>,
    ) -> Result<OpenedEvent, String> {
        let environment = &self.context.config.environment;
        event
            .open(environment, &record.topic, keys)
            .map_err(|refusal: Refusal| refusal.to_string())
    }

    /// Records which records are about to be printed, and for whom, without any of their contents.
    async fn audit(&self, records: &[Record], opened: &[Result<OpenedEvent, String>]) -> Result<(), Failure> {
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

    fn render(&self, record: &Record, event: &Value) -> String {
        if self.context.json {
            let Record {
                topic,
                partition,
                offset,
                ..
            } = record;
            return json!({"topic": topic, "partition": partition, "offset": offset, "event": event})
                .to_string();
        }
        format!("{record}\n{event:#}\n")
    }

    fn report(&self, record: &Record, problem: &str) {
        let mut stderr = std::io::stderr().lock();
        // If standard error is closed, the exit code still reports the refusal.
        let _ = if self.context.json {
            writeln!(
                stderr,
                "{}",
                json!({"refused": record.to_string(), "problem": problem})
            )
        } else {
            writeln!(stderr, "refused: {record}: {problem}")
        };
    }

    fn finish(self) -> Result<(), Failure> {
        match (self.opened, self.refused) {
            (0, 0) => Err(Failure::Wrong("the input contains no record to open".to_owned())),
            (_, 0) => Ok(()),
            (opened, refused) => Err(Failure::Wrong(format!(
                "{refused} of {} records were refused",
                opened + refused
            ))),
        }
    }
}

/// A KEK that does not match makes this command refuse: a finding, not a failed service.
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
