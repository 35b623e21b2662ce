//! `pulsegate open`: decrypts the PHI of clean records, with the KEK at hand.

mod source;

use std::io::{IsTerminal as _, Write as _};

use serde_json::{Value, json};

use super::{Context, print};
use crate::actions::open::{Opened, Opening, Record};
use crate::roles::Failure;

use source::Source;

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
    let mut opening = Opening::connect(&context.config).await?;
    let mut printer = Printer {
        json: context.json,
        opened: 0,
        refused: 0,
    };
    loop {
        // Reading blocks; the runtime's other thread continues meanwhile.
        let records = tokio::task::block_in_place(|| source.next(BATCH_RECORDS_MAX))?;
        if records.is_empty() {
            return printer.finish();
        }
        let opened = opening.open(&records).await?;
        printer.print(&records, opened)?;
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

/// Prints and counts what was opened.
struct Printer {
    json: bool,
    opened: u64,
    refused: u64,
}

impl Printer {
    /// Prints records in order. A refused one is reported on standard error.
    fn print(&mut self, records: &[Record], opened: Vec<Opened>) -> Result<(), Failure> {
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

    fn render(&self, record: &Record, event: &Value) -> String {
        if self.json {
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
        let _ = if self.json {
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
