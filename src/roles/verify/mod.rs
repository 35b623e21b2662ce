//! Verification: recomputes everything, and reports the first discrepancy of each lane.
//!
//! - `db`: entries, heads and checkpoints of the database agree with each other and with checkpoints kept elsewhere.
//! - `ledger`: the log holds the records of the ledger topic, byte for byte.
//! - `raw`, `clean`: the ledger's counts and Merkle roots match the raw, clean and deadletter topics.

mod error;
mod events;
mod raw;
mod topic;

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Handle;

pub use self::error::{Against, VerifyError};
use self::events::Events;
use self::topic::{Ledger, Reader};
use crate::config::Config;
use crate::io::audit::snapshot::{self, Checkpoints, Rows, TIME_MAX};
use crate::io::audit::{connect, failed, keys};
use pulsegate_ledger::log::{lane_of, origin};
use pulsegate_ledger::note::{Note, NoteError, PublicKey, Signed};
use pulsegate_ledger::verify::account::{Job, TopicNames};
use pulsegate_ledger::verify::comparison::Comparison;
use pulsegate_ledger::verify::lane::{AHEAD_ROWS, LaneEvidence, Verification, Verified};
pub use pulsegate_ledger::verify::report::{Continued, Kind, LaneReport, Problem, Report};
use pulsegate_ledger::verify::stored::Head;
use pulsegate_ledger::verify::window::Accounts;
pub use pulsegate_ledger::verify::window::{Bound, Window};

/// Scope of a verification.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Sources to compare with.
    pub against: BTreeSet<Against>,
    /// Checkpoints kept elsewhere, each with its name.
    pub held: Vec<(String, Note)>,
    /// Part of the ledger to compare with the raw and clean topics. The log itself is always recomputed as a whole.
    pub window: Window,
}

/// Progress of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Lane being verified.
    pub lane: &'a str,
    /// Entries verified so far, over all lanes.
    pub done: u64,
    /// Entries in total, over all lanes.
    pub total: u64,
}

/// Verifies the log as of the moment of the call.
///
/// # Errors
/// [`VerifyError`] if the log could not be examined. Discrepancies are in the report.
pub async fn verify(
    config: &Config,
    options: &Options,
    progress: &mut (dyn FnMut(&Progress<'_>) + Send),
) -> Result<Report, VerifyError> {
    let settings = config.audit_settings();
    let trusted = keys::trusted(&settings)?;
    let mut problems = Vec::new();
    let mut held = open_held(config, options, &trusted, &mut problems)?;
    let pool = connect(&settings, "verify_audit", 1).await?;
    let verified = pool
        .ask_for(TIME_MAX, "verifying the audit log", async |connection| {
            look(config, options, &trusted, &mut held, connection, progress).await
        })
        .await;
    pool.close().await;
    let mut report = verified?;
    // Checkpoints of lanes that no longer exist.
    for (origin, lost) in held {
        for (name, signed) in lost.into_iter().filter(|(_, signed)| signed.checkpoint.size > 0) {
            let lane = origin.clone();
            let detail = format!(
                "the checkpoint {name} covers {} entries of a lane that does not exist",
                signed.checkpoint.size
            );
            problems.push(Problem::new(Kind::Truncated, &lane, detail).at(0, None));
        }
    }
    report.problems.extend(problems);
    report.problems.sort_by(|one, other| one.lane.cmp(&other.lane));
    Ok(report)
}

/// Checkpoints kept elsewhere, by their lane's origin.
type Held = BTreeMap<String, Vec<(String, Signed)>>;

fn open_held(
    config: &Config,
    options: &Options,
    trusted: &[PublicKey],
    problems: &mut Vec<Problem>,
) -> Result<Held, VerifyError> {
    let mut held = Held::new();
    let ours = origin(&config.environment, "");
    for (name, note) in &options.held {
        match note.open(trusted) {
            Ok(signed) if signed.checkpoint.origin.starts_with(&ours) => {
                held.entry(signed.checkpoint.origin.clone())
                    .or_default()
                    .push((name.clone(), signed));
            }
            Ok(_) => {
                return Err(VerifyError::Usage(format!(
                    "the checkpoint {name} belongs to another environment"
                )));
            }
            Err(error @ (NoteError::UnknownKey | NoteError::BadSignature)) => {
                let detail = format!("the checkpoint {name} is forged: {error}");
                problems.push(Problem::new(Kind::CheckpointForged, name, detail));
            }
            Err(error) => {
                return Err(VerifyError::Checkpoint {
                    name: name.clone(),
                    error,
                });
            }
        }
    }
    Ok(held)
}

async fn look(
    config: &Config,
    options: &Options,
    trusted: &[PublicKey],
    held: &mut Held,
    connection: &mut PgConnection,
    progress: &mut (dyn FnMut(&Progress<'_>) + Send),
) -> Result<Report, VerifyError> {
    let mut transaction = connection
        .begin()
        .await
        .map_err(failed("reading the audit log"))?;
    snapshot::begin(&mut transaction).await?;
    let mut heads = snapshot::heads(&mut transaction).await?;
    let offsets = snapshot::offsets(&mut transaction, &config.topics.ledger).await?;
    let (mut report, mut done) = (Report::default(), 0);
    for (lane, taken) in lanes_without_head(config, options, &heads, &offsets)? {
        // With the ledger topic at hand, the comparison reports the first missing record.
        if taken > 0 && !options.against.contains(&Against::Ledger) {
            let detail =
                format!("the log has processed the ledger up to offset {taken}, but the lane does not exist");
            let problem = Problem::new(Kind::Truncated, &lane, detail);
            report.problems.push(problem.at(0, None));
        }
        heads.push(Head {
            lane,
            size: 0,
            frontier: Vec::new(),
        });
    }
    let total = heads.iter().map(|head| head.size).sum();
    for head in heads {
        let name = head.lane.clone();
        let origin = origin(&config.environment, &name);
        let mut ledger = ledger(config, options, &head)?;
        let next = ledger
            .as_ref()
            .map_or(0, |ledger| offsets.get(&ledger.partition).copied().unwrap_or(0));
        let lane = LaneEvidence {
            comparison: ledger
                .as_ref()
                .map(|ledger| Comparison::new(&config.topics.ledger, ledger.partition, ledger.ends, next)),
            held: held.remove(&origin).unwrap_or_default(),
            accounts: accounts(config, options),
            keys: trusted,
            origin,
            head,
        };
        let mut step = |entries| {
            done += entries;
            let lane = &name;
            progress(&Progress { lane, done, total });
        };
        let mut verified = walk(&mut transaction, lane, ledger.as_mut(), &mut step).await?;
        recompute(config, options, &mut verified)?;
        report.lanes.push(verified.report);
        report.problems.extend(verified.problems);
    }
    Ok(report)
}

/// Lanes that are missing from the log, each with the ledger offset up to which the log has processed it. A lane that
/// was removed altogether shows as an empty one next to that offset, or next to its records in the ledger.
fn lanes_without_head(
    config: &Config,
    options: &Options,
    heads: &[Head],
    offsets: &BTreeMap<i32, i64>,
) -> Result<Vec<(String, i64)>, VerifyError> {
    let mut partitions: BTreeSet<i32> = offsets.keys().copied().collect();
    if options.against.contains(&Against::Ledger) {
        partitions.extend(0..Reader::new(&config.kafka)?.partitions(&config.topics.ledger)?);
    }
    let lanes = partitions.into_iter().map(|partition| {
        let taken = offsets.get(&partition).copied().unwrap_or(0);
        (lane_of(&config.topics.raw, partition), taken)
    });
    Ok(lanes
        .filter(|(lane, _)| heads.iter().all(|head| head.lane != *lane))
        .collect())
}

/// How long after its acceptance an event can be repeated: a signature is valid for one freshness window on each side.
fn repeat_ms(config: &Config) -> i64 {
    2_000 * i64::from(config.gate.verify.freshness_seconds.get())
}

fn accounts(config: &Config, options: &Options) -> Option<Accounts> {
    raw::is_wanted(&options.against).then(|| Accounts::new(options.window, repeat_ms(config)))
}

/// Recomputes the lane's ledger records from the raw, clean and deadletter topics, if requested.
fn recompute(config: &Config, options: &Options, verified: &mut Verified) -> Result<(), VerifyError> {
    let name = verified.report.lane.clone();
    let Some(accounts) = verified.accounts.take() else {
        return Ok(());
    };
    let reader = Reader::new(&config.kafka)?;
    let partitions = reader.partitions(&config.topics.raw)?;
    let Some(partition) = (0..partitions).find(|partition| lane_of(&config.topics.raw, *partition) == name)
    else {
        return Ok(());
    };
    let job = Job {
        lane: &name,
        partition,
        topics: TopicNames {
            raw: &config.topics.raw,
            clean: &config.topics.clean,
            deadletter: &config.topics.deadletter,
        },
        pending_clean: verified.pending_clean.filter(|_| !accounts.ended),
        from: accounts.from,
        accounts: accounts.accounts,
        covers: accounts.covers,
        until_ms: accounts.until_ms,
        repeat_ms: repeat_ms(config),
        raw: options.against.contains(&Against::Raw),
        clean: options.against.contains(&Against::Clean),
    };
    // Reading Kafka blocks; the runtime's other thread continues meanwhile.
    let recomputed = tokio::task::block_in_place(|| {
        let mut events = Events::new(config, Handle::current())?;
        raw::recompute(&job, &reader, &mut events)
    })?;
    let report = &mut verified.report;
    report.ranges = Some(recomputed.ranges);
    report.ranges_unknown = Some(recomputed.unknown);
    report.raw_records = Some(recomputed.raw_records);
    report.clean_records = Some(recomputed.clean_records);
    verified.problems.extend(recomputed.problems);
    Ok(())
}

/// Compares a lane with its partition of the ledger topic, if requested.
fn ledger(config: &Config, options: &Options, head: &Head) -> Result<Option<Ledger>, VerifyError> {
    if !options.against.contains(&Against::Ledger) {
        return Ok(None);
    }
    let (topics, kafka) = (&config.topics, &config.kafka);
    let partitions = Reader::new(kafka)?.partitions(&topics.ledger)?;
    let partition = (0..partitions).find(|partition| lane_of(&topics.raw, *partition) == head.lane);
    partition
        .map(|partition| Ledger::open(kafka, topics, partition))
        .transpose()
}

/// Feeds a lane's verification with its entries, checkpoints and ledger records.
async fn walk(
    connection: &mut PgConnection,
    lane: LaneEvidence<'_>,
    mut ledger: Option<&mut Ledger>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Verified, VerifyError> {
    let name = lane.head.lane.clone();
    let newest = snapshot::newest_size(connection, &name).await?.unwrap_or(0);
    let mut verification = Verification::new(lane, newest);
    let (mut rows, mut checkpoints) = (Rows::new(&name), Checkpoints::new(&name));
    loop {
        while let Some(checkpoint) = checkpoints.next_up_to(connection, verification.size()).await? {
            verification.check_checkpoint(&checkpoint);
        }
        verification.check_held();
        let Some(row) = rows.next(connection, AHEAD_ROWS).await? else {
            break;
        };
        if let Some(ledger) = &mut ledger {
            while verification.needs_record() {
                verification.offer(ledger.next().await?);
            }
        }
        verification.take(&row, rows.ahead())?;
        progress(1);
    }
    // Those of sizes that the lane does not have.
    while let Some(checkpoint) = checkpoints.next_up_to(connection, u64::MAX).await? {
        verification.check_checkpoint(&checkpoint);
    }
    if let Some(ledger) = &mut ledger {
        while let Some(record) = ledger.next().await? {
            verification.take_rest(record);
        }
    }
    Ok(verification.finish())
}
