//! A running gate or watch.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use crate::wait::wait_for;

/// A running gate, or a running watch.
pub struct Gate {
    pub(super) child: Child,
    pub(super) port: u16,
    /// File with what it has logged.
    pub log: PathBuf,
}

impl Gate {
    /// Fails if the process has ended.
    pub fn expect_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("waited") {
            panic!("the process ended with {status}");
        }
    }

    /// What it has logged so far.
    pub fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the process owns lanes and all of them are open.
    pub fn wait_ready(&mut self) {
        wait_for("the process to be ready", || {
            self.expect_running();
            self.get("/readyz").is_some_and(|(status, _)| status == 200)
        });
    }

    /// Status and body of a response.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Some((status, body.to_owned()))
    }

    /// Number of lanes that it owns, by its own metrics.
    pub fn lanes(&mut self) -> usize {
        self.expect_running();
        let metrics = self.get("/metrics").map(|(_, body)| body).unwrap_or_default();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("pulsegate_lanes_assigned "));
        line.and_then(|count| count.parse::<f64>().ok())
            .map_or(0, |count| count as usize)
    }

    /// Sends a signal, such as `-TERM`.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args([signal, &pid])
            .status()
            .expect("kill is there");
        assert!(status.success(), "kill {signal} {pid}");
    }

    /// Kills it with SIGKILL; it cannot log anything further.
    pub fn kill(mut self) -> PathBuf {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited");
        self.log.clone()
    }

    /// Asks it to stop, and waits until it has ended.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal("-TERM");
        self.wait()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the process to end", || {
            status = self.child.try_wait().expect("waited");
            status.is_some()
        });
        status.expect("the process ended")
    }
}

impl Drop for Gate {
    /// A failed test must not leave a process behind, and the process's log may explain the failure.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), self.logged());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
