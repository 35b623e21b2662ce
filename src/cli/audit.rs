//! `pulsegate audit`: verifies and shows the audit log.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Context, print, print_json};
use crate::io::audit::browse::{self, LaneHead};
use crate::roles::Failure;
use crate::roles::verify::{self, Against, Bound, Options, Report, Window};
use pulsegate_ledger::note::{NOTE_BYTES_MAX, Note};

/// Extension of checkpoint files.
const CHECKPOINT: &str = "checkpoint";

/// Most checkpoint files read from one directory.
const FILES_MAX: usize = 10_000;

/// Arguments of `pulsegate audit`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Recomputes the log and names the first discrepancy of each lane; exit 1 if there is one
    Verify(Verify),
    /// Shows the lanes and their newest checkpoints, or one entry with its proof of inclusion
    Show(Show),
}

#[derive(clap::Args)]
struct Verify {
    /// Recomputes the ledger from raw and clean from here on: a raw offset, a date or a time (RFC 3339)
    #[arg(long, value_name = "BOUND")]
    from: Option<Bound>,
    /// Recomputes up to this bound, exclusive
    #[arg(long, value_name = "BOUND")]
    to: Option<Bound>,
    /// Sources to compare the log with; its own database is always checked [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    against: Vec<Source>,
    /// A saved checkpoint, as written by `show --checkpoint-out`, or a directory of them: proves that the log has only
    /// grown since; may be repeated
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
}

/// Sources that the log can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Source {
    /// The raw and deadletter topics: counts and Merkle roots of the ledger
    Raw,
    /// The clean topic: holds every accepted record, and nothing else
    Clean,
    /// The ledger topic, byte for byte
    Ledger,
    /// The database alone: entries, heads and checkpoints
    Db,
}

#[derive(clap::Args)]
struct Show {
    /// Shows only this lane
    #[arg(long)]
    lane: Option<String>,
    /// Shows this entry of the lane with its inclusion proof
    #[arg(long, requires = "lane", value_name = "NUMBER")]
    entry: Option<u64>,
    /// Writes the newest checkpoint of each lane into this directory, to be kept elsewhere
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "entry")]
    checkpoint_out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
///
/// `Wrong` if there are discrepancies, `Unreachable` if a service does not answer.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.verb {
        Verb::Verify(args) => verify(args, context).await,
        Verb::Show(args) => show(args, context).await,
    }
}

async fn verify(args: Verify, context: &Context) -> Result<(), Failure> {
    let options = options(&args)?;
    let bar = bar(context.json);
    let report = verify::verify(&context.config, &options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        if bar.message() != progress.lane {
            bar.set_message(progress.lane.to_owned());
        }
    })
    .await;
    bar.finish_and_clear();
    let report = report?;
    if context.json {
        print_json(&json!({ "good": report.is_good(), "lanes": report.lanes, "problems": report.problems }))?;
    } else {
        print(&table(&report))?;
    }
    verdict(&report)
}

fn options(args: &Verify) -> Result<Options, Failure> {
    let all = [Source::Raw, Source::Clean, Source::Ledger, Source::Db];
    let sources = if args.against.is_empty() {
        all.as_slice()
    } else {
        &args.against
    };
    let against: BTreeSet<Against> = sources
        .iter()
        .map(|source| match source {
            Source::Raw => Against::Raw,
            Source::Clean => Against::Clean,
            Source::Ledger => Against::Ledger,
            Source::Db => Against::Database,
        })
        .collect();
    let mut held = Vec::new();
    for path in &args.checkpoint {
        for file in checkpoint_files(path)? {
            held.push((file.display().to_string(), read_note(&file)?));
        }
    }
    let window = Window {
        from: args.from,
        to: args.to,
    };
    Ok(Options {
        against,
        held,
        window,
    })
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("{}: {error}", path.display()))
}

/// Returns the file itself, or the checkpoint files of a directory.
fn checkpoint_files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for found in fs::read_dir(path).map_err(|error| unreadable(path, &error))? {
        let file = found.map_err(|error| unreadable(path, &error))?.path();
        if file.extension().is_some_and(|extension| extension == CHECKPOINT) {
            files.push(file);
        }
    }
    if files.is_empty() || files.len() > FILES_MAX {
        let count = files.len();
        let problem = format!(
            "{}: found {count} checkpoints (*.{CHECKPOINT}), expected 1 to {FILES_MAX}",
            path.display()
        );
        return Err(Failure::Usage(problem));
    }
    files.sort();
    Ok(files)
}

fn read_note(file: &Path) -> Result<Note, Failure> {
    let length = fs::metadata(file)
        .map_err(|error| unreadable(file, &error))?
        .len();
    if length > NOTE_BYTES_MAX as u64 {
        return Err(Failure::Usage(format!(
            "{}: not a checkpoint: the file is too large",
            file.display()
        )));
    }
    let bytes = fs::read(file).map_err(|error| unreadable(file, &error))?;
    Note::parse(&bytes).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
}

/// Progress bar on standard error; hidden unless that is a terminal.
fn bar(json: bool) -> ProgressBar {
    let bar = if json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(0)
    };
    let template = "{msg} {wide_bar} {human_pos}/{human_len} entries, {eta} left";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
        "lane",
        "entries",
        "checkpoints",
        "signed",
        "ledger",
        "pending",
        "ranges",
        "raw",
        "held",
    ]);
    let optional = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    for lane in &report.lanes {
        table.add_row([
            lane.lane.clone(),
            lane.entries.to_string(),
            lane.checkpoints.to_string(),
            lane.signed_at.clone().unwrap_or_else(|| "never".to_owned()),
            optional(lane.ledger_records),
            optional(lane.ledger_pending),
            optional(lane.ranges),
            optional(lane.raw_records),
            lane.continued.len().to_string(),
        ]);
    }
    let sentence = if report.is_good() {
        let entries: u64 = report.lanes.iter().map(|lane| lane.entries).sum();
        format!("All {entries} entries of {} lanes agree.", report.lanes.len())
    } else {
        String::new()
    };
    format!("{table}\n{sentence}")
}

fn verdict(report: &Report) -> Result<(), Failure> {
    if report.is_good() {
        return Ok(());
    }
    let lines: Vec<String> = report
        .problems
        .iter()
        .map(|problem| format!("  {problem}"))
        .collect();
    Err(Failure::Wrong(format!(
        "discrepancies in the audit log:\n{}",
        lines.join("\n")
    )))
}

async fn show(args: Show, context: &Context) -> Result<(), Failure> {
    if let (Some(lane), Some(entry)) = (&args.lane, args.entry) {
        let proved = browse::prove(&context.config.audit_settings(), lane, entry).await?;
        if context.json {
            return print_json(&proved);
        }
        let proof = proved.proof.join("\n  ");
        return print(&format!(
            "{}\n\nis entry {entry} of {lane}: its leaf {} and\n  {proof}\ngive the root of\n\n{}",
            proved.value, proved.leaf, proved.checkpoint
        ));
    }
    let mut lanes = browse::lanes(&context.config.audit_settings()).await?;
    lanes.retain(|head| args.lane.as_ref().is_none_or(|lane| *lane == head.lane));
    if let Some(directory) = &args.checkpoint_out {
        write_checkpoints(&lanes, directory)?;
    }
    if context.json {
        return print_json(&lanes);
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["lane", "entries", "root", "checkpoint", "signed"]);
    for head in &lanes {
        let checkpoint = head.checkpoint.as_ref();
        table.add_row([
            head.lane.clone(),
            head.size.to_string(),
            head.root.clone().unwrap_or_else(|| "damaged".to_owned()),
            checkpoint.map_or_else(|| "none".to_owned(), |checkpoint| checkpoint.size.to_string()),
            checkpoint.map_or_else(String::new, |checkpoint| checkpoint.signed_at.clone()),
        ]);
    }
    print(&table.to_string())
}

/// Writes one file per lane, replacing earlier ones.
fn write_checkpoints(lanes: &[LaneHead], directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(|error| unreadable(directory, &error))?;
    for head in lanes {
        if let Some(checkpoint) = &head.checkpoint {
            let file = directory.join(format!("{}.{CHECKPOINT}", head.lane.replace('/', ".")));
            fs::write(&file, &checkpoint.note).map_err(|error| unreadable(&file, &error))?;
        }
    }
    Ok(())
}
