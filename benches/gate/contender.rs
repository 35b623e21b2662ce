//! A contender as a child process: started, watched from outside, told to stop.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use crate::session::Session;

/// `USER_HZ`: the unit of CPU time in `/proc/<pid>/stat`, the same on every Linux.
const TICK: Duration = Duration::from_millis(10);
/// How long a stop may take: longer than the gate's own bound (`gate.drain_timeout_ms`).
const STOP_TIME_MAX: Duration = Duration::from_secs(30);
/// How much of a log is shown when its process fails.
const LOG_LINES: usize = 20;

/// Who runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Contender {
    /// The reference.
    Copy,
    /// `pulsegate gate`.
    Gate,
}

impl Contender {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Gate => "gate",
        }
    }

    fn command(self) -> Result<Command> {
        Ok(match self {
            Self::Copy => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("copy");
                command
            }
            Self::Gate => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_pulsegate"));
                command.arg("gate");
                command
            }
        })
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident set.
    pub rss_bytes: u64,
    /// The largest that the resident set ever was.
    pub rss_max_bytes: u64,
}

/// A contender that runs. Dropped without a stop, it is killed.
pub struct Running {
    contender: Contender,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts the contender with these settings (`path=value`) above the session's.
    pub fn start(session: &Session, contender: Contender, settings: &[String]) -> Result<Self> {
        let log = session.directory().join(format!("{}.log", contender.name()));
        let file = File::create(&log)?;
        let mut command = contender.command()?;
        session.configure(&mut command, settings);
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start the {}", contender.name()))?;
        Ok(Self {
            contender,
            child,
            log,
        })
    }

    /// The process id, for profilers.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has used so far. An error if it has ended.
    pub fn usage(&mut self) -> Result<Usage> {
        if let Some(status) = self.child.try_wait()? {
            return Err(self.ended(status));
        }
        let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.child.id()));
        let (stat, status) = (of("stat")?, of("status")?);
        // proc_pid_stat(5): behind the name, which may hold anything but ends with the last parenthesis, utime and
        // stime are the 12th and 13th.
        let fields = stat
            .rsplit_once(')')
            .context("no process name")?
            .1
            .split_ascii_whitespace();
        let ticks: u32 = fields
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse().unwrap_or(0))
            .sum();
        let kib = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok())
                .unwrap_or(0)
        };
        Ok(Usage {
            cpu: TICK * ticks,
            rss_bytes: kib("VmRSS:") * 1024,
            rss_max_bytes: kib("VmHWM:") * 1024,
        })
    }

    /// Tells it to drain and waits until it has: it must end well.
    pub fn stop(mut self) -> Result<()> {
        // The standard library can only kill.
        let told = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()?;
        ensure!(told.success(), "cannot signal the {}", self.contender.name());
        let deadline = Instant::now() + STOP_TIME_MAX;
        while Instant::now() < deadline {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.ended(status)),
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
        bail!(
            "the {} did not stop within {} s of SIGTERM",
            self.contender.name(),
            STOP_TIME_MAX.as_secs()
        )
    }

    /// The error of a contender that fell behind or ended, with the end of its log.
    pub fn failed(&self, what: &str) -> anyhow::Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        anyhow::anyhow!(
            "the {} {what}; the end of its log:\n{tail}",
            self.contender.name()
        )
    }

    fn ended(&self, status: ExitStatus) -> anyhow::Error {
        self.failed(&format!("ended by itself ({status})"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Nothing can be done about a failure here, and nothing depends on it.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
