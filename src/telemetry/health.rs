//! State of the process: its workers, and the lanes that they own.
//!
//! One table answers `/healthz` and `/readyz` and yields the gauges of the lanes, so the three can't disagree, and a
//! revoked lane leaves no series behind. Workers write a few times per batch and scrapes read, so a mutex suffices.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::metrics::Metric;

/// Why an assigned lane is held. The cause is always this process or a service, never a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldCause {
    /// Replay windows and rates are being rebuilt from the raw log after the assignment.
    Rebuilding,
    /// The key of a subject is not fetched yet.
    SubjectKeys,
    /// A schema id is not known yet: the registry has not answered.
    SchemaRegistry,
    /// Kafka does not accept the lane's output.
    Kafka,
    /// The database that the lane is stored in does not answer, or refuses writes.
    Database,
    /// Another process has claimed the lane.
    Fenced,
    /// The audit log was changed after it was written: an operator must investigate.
    Tampered,
    /// The log ends before the stored offset: an operator must set where to read on.
    Truncated,
}

/// A log that lanes are partitions of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Log {
    /// The raw topic.
    #[default]
    Raw,
    /// The clean topic.
    Clean,
    /// The ledger.
    Ledger,
    /// The ledger once more, for the KPIs.
    Kpis,
}

impl Log {
    /// The name in metrics, logs and `/readyz`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Clean => "clean",
            Self::Ledger => "ledger",
            Self::Kpis => "kpis",
        }
    }

    /// A lane's name in metrics. A raw lane has its number only, since a gate has no other lanes.
    fn lane(self, partition: i32) -> String {
        match self {
            Self::Raw => partition.to_string(),
            Self::Clean | Self::Ledger | Self::Kpis => format!("{}/{partition}", self.as_str()),
        }
    }
}

impl HoldCause {
    /// Every cause.
    pub const ALL: [Self; 8] = [
        Self::Rebuilding,
        Self::SubjectKeys,
        Self::SchemaRegistry,
        Self::Kafka,
        Self::Database,
        Self::Fenced,
        Self::Tampered,
        Self::Truncated,
    ];

    /// The name in metrics, logs and `/readyz`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rebuilding => "rebuilding",
            Self::SubjectKeys => "subject_keys",
            Self::SchemaRegistry => "schema_registry",
            Self::Kafka => "kafka",
            Self::Database => "database",
            Self::Fenced => "fenced",
            Self::Tampered => "tampered",
            Self::Truncated => "truncated",
        }
    }
}

/// State of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worker {
    /// Not in the group yet.
    Starting,
    /// In the group, with or without lanes.
    Joined,
    /// Ended on request.
    Stopped,
    /// Ended without a request.
    Died,
}

/// An owned lane.
#[derive(Clone, Copy, Debug)]
struct LaneHealth {
    worker: usize,
    held: Option<HoldCause>,
    /// Records up to the last stable offset, and the age of the first of them in seconds; unknown until measured.
    lag: Option<(u64, f64)>,
    /// When it was last seen without lag.
    caught_up_ms: i64,
}

impl LaneHealth {
    /// Estimates the age of the first unread record: it is younger than the last one read, and than the last time
    /// without lag.
    fn measure(&mut self, records: u64, appended_ms: i64, now_ms: i64) {
        if records == 0 {
            self.caught_up_ms = now_ms;
        }
        let since_ms = appended_ms.max(self.caught_up_ms);
        let seconds = match (records, since_ms) {
            (0, _) | (_, 0) => 0.0,
            _ => (now_ms - since_ms).max(0) as f64 / 1_000.0,
        };
        self.lag = Some((records, seconds));
    }
}

#[derive(Debug, Default)]
struct State {
    workers: Vec<Worker>,
    lanes: BTreeMap<(Log, i32), LaneHealth>,
    draining: bool,
}

/// The state of the process; shared between its workers and the HTTP server.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
}

/// The answer of `/healthz`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Liveness {
    /// Whether no worker has died.
    pub alive: bool,
    /// Indexes of the workers that have died.
    pub dead_workers: Vec<usize>,
}

/// The answer of `/readyz`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether every worker is in the group, no owned lane is held, and no stop was requested.
    pub ready: bool,
    /// Whether a stop was requested.
    pub draining: bool,
    /// Number of workers that should run.
    pub workers: usize,
    /// Number of workers that are in the consumer group.
    pub workers_joined: usize,
    /// Number of lanes that the workers own.
    pub lanes: usize,
    /// The held lanes, by log and partition.
    pub held: Vec<Held>,
}

/// A held lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Log that the lane is a partition of.
    pub log: Log,
    /// Partition number.
    pub lane: i32,
    /// Why the lane is held.
    pub cause: HoldCause,
}

impl Health {
    /// The state of a process that will run `workers` workers. It is not ready until each has called
    /// [`WorkerHealth::joined`].
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        let state = State {
            workers: vec![Worker::Starting; workers],
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    /// The handle of one worker, to be moved into its thread. `index` is below the number given to [`Health::new`].
    #[must_use]
    pub fn worker(self: &Arc<Self>, index: usize) -> WorkerHealth {
        self.worker_of(index, Log::Raw)
    }

    /// As [`Health::worker`], for a worker whose lanes are partitions of `log`.
    #[must_use]
    pub fn worker_of(self: &Arc<Self>, index: usize, log: Log) -> WorkerHealth {
        debug_assert!(
            index < self.lock().workers.len(),
            "the index of the worker is out of range"
        );
        WorkerHealth {
            health: Arc::clone(self),
            index,
            log,
            ended: Worker::Died,
        }
    }

    /// Records that a stop was requested: the process is not ready from now on.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// The answer of `/healthz`.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        let state = self.lock();
        let dead = state
            .workers
            .iter()
            .enumerate()
            .filter(|(_, worker)| **worker == Worker::Died);
        let dead_workers: Vec<_> = dead.map(|(index, _)| index).collect();
        Liveness {
            alive: dead_workers.is_empty(),
            dead_workers,
        }
    }

    /// The answer of `/readyz`.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let state = self.lock();
        let held: Vec<_> = state
            .lanes
            .iter()
            .filter_map(|(&(log, lane), owned)| owned.held.map(|cause| Held { log, lane, cause }))
            .collect();
        let workers_joined = state.joined();
        Readiness {
            ready: !state.draining && held.is_empty() && workers_joined == state.workers.len(),
            draining: state.draining,
            workers: state.workers.len(),
            workers_joined,
            lanes: state.lanes.len(),
            held,
        }
    }

    /// Whether this process may have unread records of `log` that are older than `seconds`: one of its lanes lags by
    /// more, is held, or has not been measured; or it owns no lane, so the lag is unknown.
    #[must_use]
    pub fn is_behind(&self, log: Log, seconds: f64) -> bool {
        let state = self.lock();
        let mut lanes = state
            .lanes
            .iter()
            .filter(|((of, _), _)| *of == log)
            .map(|(_, lane)| lane)
            .peekable();
        lanes.peek().is_none()
            || lanes.any(|lane| lane.held.is_some() || lane.lag.is_none_or(|(_, lag)| lag > seconds))
    }

    /// Writes the gauges of workers and lanes in Prometheus' text format. Only owned lanes have series.
    pub fn render(&self, text: &mut String) {
        let state = self.lock();
        gauge(
            text,
            Metric::WorkersJoined,
            [(String::new(), state.joined() as f64)],
        );
        gauge(
            text,
            Metric::LanesAssigned,
            [(String::new(), state.lanes.len() as f64)],
        );
        gauge(
            text,
            Metric::LanesHeld,
            HoldCause::ALL.map(|cause| {
                let count = state
                    .lanes
                    .values()
                    .filter(|lane| lane.held == Some(cause))
                    .count();
                (format!("{{cause=\"{}\"}}", cause.as_str()), count as f64)
            }),
        );
        let measured = || {
            let lanes = state.lanes.iter();
            lanes.filter_map(|((log, lane), owned)| {
                Some((format!("{{lane=\"{}\"}}", log.lane(*lane)), owned.lag?))
            })
        };
        gauge(
            text,
            Metric::LaneLagRecords,
            measured().map(|(labels, (records, _))| (labels, records as f64)),
        );
        gauge(
            text,
            Metric::LaneLagSeconds,
            measured().map(|(labels, (_, seconds))| (labels, seconds)),
        );
    }

    /// Ignores poisoning: a worker that panics under the lock leaves nothing that a reader could not handle.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn joined(&self) -> usize {
        self.workers
            .iter()
            .filter(|worker| **worker == Worker::Joined)
            .count()
    }
}

/// Writes one gauge. Labels are made of numbers and closed names here, so nothing needs escaping.
fn gauge(text: &mut String, metric: Metric, series: impl IntoIterator<Item = (String, f64)>) {
    let mut series = series.into_iter().peekable();
    if series.peek().is_none() {
        return;
    }
    let name = metric.name();
    // Writing to a string can't fail.
    let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} gauge", metric.help());
    for (labels, value) in series {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
    text.push('\n');
}

/// One worker's handle on [`Health`]. Dropped without [`WorkerHealth::stopped`], by a panic or an early return, it
/// marks the worker as dead.
#[derive(Debug)]
pub struct WorkerHealth {
    health: Arc<Health>,
    index: usize,
    log: Log,
    ended: Worker,
}

impl WorkerHealth {
    /// Index of the worker within its process.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Marks the worker as a member of the group, with or without lanes.
    pub fn joined(&self) {
        self.set(Worker::Joined);
    }

    /// Makes the worker the owner of `lane`, which is held until [`WorkerHealth::release`]: its state must be rebuilt.
    pub fn assigned(&self, lane: i32) {
        let owned = LaneHealth {
            worker: self.index,
            held: Some(HoldCause::Rebuilding),
            lag: None,
            caught_up_ms: 0,
        };
        self.health.lock().lanes.insert((self.log, lane), owned);
    }

    /// Ends the ownership of `lane` and removes its gauges.
    pub fn revoked(&self, lane: i32) {
        let mut state = self.health.lock();
        // The lane may already belong to another worker of this process.
        if state
            .lanes
            .get(&(self.log, lane))
            .is_some_and(|owned| owned.worker == self.index)
        {
            state.lanes.remove(&(self.log, lane));
        }
    }

    /// Marks the lane as held.
    pub fn hold(&self, lane: i32, cause: HoldCause) {
        self.update(lane, |owned| owned.held = Some(cause));
    }

    /// Marks the lane as no longer held.
    pub fn release(&self, lane: i32) {
        self.update(lane, |owned| owned.held = None);
    }

    /// Sets how many records the lane is behind the last stable offset. The last record read was appended at
    /// `appended_ms`; 0 where that is unknown.
    pub fn lag(&self, lane: i32, records: u64, appended_ms: i64) {
        let now_ms = Timestamp::now().as_millisecond();
        self.update(lane, |owned| owned.measure(records, appended_ms, now_ms));
    }

    /// Marks the worker as ended on request.
    pub fn stopped(mut self) {
        self.ended = Worker::Stopped;
    }

    fn set(&self, worker: Worker) {
        if let Some(slot) = self.health.lock().workers.get_mut(self.index) {
            *slot = worker;
        }
    }

    fn update(&self, lane: i32, change: impl FnOnce(&mut LaneHealth)) {
        if let Some(owned) = self
            .health
            .lock()
            .lanes
            .get_mut(&(self.log, lane))
            .filter(|owned| owned.worker == self.index)
        {
            change(owned);
        }
    }
}

impl Drop for WorkerHealth {
    fn drop(&mut self) {
        self.set(self.ended);
        let index = self.index;
        self.health.lock().lanes.retain(|_, owned| owned.worker != index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(health: &Health) -> String {
        let mut text = String::new();
        health.render(&mut text);
        text
    }

    #[test]
    fn ready_only_with_all_workers_joined_and_no_lane_held() {
        let health = Health::new(2);
        let (first, second) = (health.worker(0), health.worker(1));
        assert!(!health.readiness().ready);
        first.joined();
        first.assigned(3);
        first.release(3);
        assert!(!health.readiness().ready, "the second worker has not joined");
        second.joined();
        assert!(health.readiness().ready);
        first.hold(3, HoldCause::SubjectKeys);
        assert_eq!(
            health.readiness().held,
            [Held {
                log: Log::Raw,
                lane: 3,
                cause: HoldCause::SubjectKeys
            }]
        );
        assert!(!health.readiness().ready);
        first.revoked(3);
        assert!(health.readiness().ready, "a revoked lane does not count");
        health.drain();
        assert!(!health.readiness().ready);
    }

    #[test]
    fn a_new_lane_is_held_until_its_state_is_rebuilt() {
        let health = Health::new(1);
        let worker = health.worker(0);
        worker.joined();
        worker.assigned(0);
        assert_eq!(
            health.readiness().held,
            [Held {
                log: Log::Raw,
                lane: 0,
                cause: HoldCause::Rebuilding
            }]
        );
    }

    #[test]
    fn a_worker_that_ends_by_itself_is_dead_and_owns_nothing() {
        let health = Health::new(2);
        let (first, second) = (health.worker(0), health.worker(1));
        first.joined();
        first.assigned(1);
        second.joined();
        second.stopped();
        assert!(health.liveness().alive);
        let panicked = std::thread::spawn(move || {
            let _worker = first;
            panic!("a bug");
        });
        assert!(panicked.join().is_err());
        assert_eq!(
            health.liveness(),
            Liveness {
                alive: false,
                dead_workers: vec![0]
            }
        );
        assert_eq!(health.readiness().lanes, 0);
        assert!(!health.readiness().ready);
    }

    #[test]
    fn a_late_revocation_does_not_take_the_lane_from_its_new_owner() {
        let health = Health::new(2);
        let (first, second) = (health.worker(0), health.worker(1));
        first.assigned(1);
        second.assigned(1);
        first.revoked(1);
        first.release(1);
        assert_eq!(
            health.readiness().held,
            [Held {
                log: Log::Raw,
                lane: 1,
                cause: HoldCause::Rebuilding
            }]
        );
    }

    #[test]
    fn the_first_unread_record_is_no_older_than_the_last_read_or_than_the_last_time_without_lag() {
        let mut lane = LaneHealth {
            worker: 0,
            held: None,
            lag: None,
            caught_up_ms: 0,
        };
        let mut lag = |records, appended_ms, now_ms| {
            lane.measure(records, appended_ms, now_ms);
            lane.lag
        };
        assert_eq!(lag(9, 0, 5_000), Some((9, 0.0)), "no append time is known");
        assert_eq!(lag(9, 2_000, 5_000), Some((9, 3.0)));
        assert_eq!(lag(0, 2_000, 6_000), Some((0, 0.0)));
        assert_eq!(lag(1, 2_000, 90_000), Some((1, 84.0)), "it came after 6 s");
        assert_eq!(lag(1, 89_000, 90_000), Some((1, 1.0)));
    }

    #[test]
    fn an_unknown_lag_counts_as_behind() {
        let health = Health::new(1);
        let worker = health.worker_of(0, Log::Clean);
        worker.joined();
        assert!(health.is_behind(Log::Clean, 60.0), "it has no lanes");
        worker.assigned(2);
        worker.release(2);
        assert!(health.is_behind(Log::Clean, 60.0), "nothing is known of its lane");
        worker.lag(2, 0, 0);
        assert!(!health.is_behind(Log::Clean, 60.0));
        worker.lag(2, 5, Timestamp::now().as_millisecond());
        assert!(!health.is_behind(Log::Clean, 60.0), "its records are young");
        assert!(health.is_behind(Log::Clean, -1.0));
        let other = health.worker_of(0, Log::Raw);
        other.assigned(3);
        other.hold(3, HoldCause::Kafka);
        assert!(
            !health.is_behind(Log::Clean, 60.0),
            "the held lane is of another log"
        );
        worker.hold(2, HoldCause::Database);
        assert!(health.is_behind(Log::Clean, 60.0));
    }

    #[test]
    fn only_owned_lanes_have_series() {
        let health = Health::new(1);
        let worker = health.worker(0);
        worker.joined();
        worker.assigned(2);
        assert!(!rendered(&health).contains("lane="), "not measured yet");
        let now_ms = Timestamp::now().as_millisecond();
        worker.lag(2, 17, now_ms + 60_000);
        let text = rendered(&health);
        assert!(
            text.contains("pulsegate_lane_lag_records{lane=\"2\"} 17\n"),
            "{text}"
        );
        assert!(
            text.contains("pulsegate_lane_lag_seconds{lane=\"2\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("pulsegate_lanes_held{cause=\"rebuilding\"} 1\n"),
            "{text}"
        );
        worker.revoked(2);
        let text = rendered(&health);
        assert!(!text.contains("lane="), "{text}");
        assert!(
            text.contains("pulsegate_lanes_held{cause=\"rebuilding\"} 0\n"),
            "{text}"
        );
    }
}
