//! A contender as a child process: started, observed from outside and stopped by a signal.

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
/// How long a stop may take: longer than the gate's own limit (`gate.drain_timeout_ms`).
const STOP_TIME_MAX: Duration = Duration::from_secs(30);
/// Number of log lines shown when a process fails.
const LOG_LINES: usize = 20;

/// The process that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Contender {
    /// The transactional copy, as the reference.
    Copy,
    /// `pulsegate gate`.
    Gate,
}

impl Contender {
    /// The name in reports and logs.
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
                let mut command = Command::new(pulsegate_testkit::binary());
                command.arg("gate");
                command
            }
        })
    }
}

/// The resources that a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Size of the resident set.
    pub rss_bytes: u64,
    /// Largest size of the resident set so far.
    pub rss_max_bytes: u64,
}

/// A running contender. It is killed if dropped without a stop.
pub struct Running {
    contender: Contender,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts the contender with these settings (`path=value`), which override the session's.
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
            .with_context(|| format!("failed to start the {}", contender.name()))?;
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

    /// The resources it has used so far; an error if it has exited.
    pub fn usage(&mut self) -> Result<Usage> {
        if let Some(status) = self.child.try_wait()? {
            return Err(self.ended(status));
        }
        let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.child.id()));
        let (stat, status) = (of("stat")?, of("status")?);
        // proc_pid_stat(5): after the name, which may contain anything but ends with the last parenthesis, utime and
        // stime are the 12th and 13th fields.
        let fields = stat
            .rsplit_once(')')
            .context("/proc/<pid>/stat has no process name")?
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

    /// Signals it to drain and waits until it exits; an error unless it exits successfully.
    pub fn stop(mut self) -> Result<()> {
        // The standard library can send only SIGKILL.
        let told = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()?;
        ensure!(told.success(), "failed to signal the {}", self.contender.name());
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

    /// The error of a contender that stalled or exited, with the end of its log.
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
        self.failed(&format!("exited unexpectedly ({status})"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A failure here cannot be handled, and nothing depends on it.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
