//! The workers of one process: started together, stopped together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::gate::Gate;
use super::worker::{Worker, WorkerError};

/// The workers of one process.
pub struct Workers {
    stop: Arc<AtomicBool>,
    ended: mpsc::UnboundedReceiver<Result<(), WorkerError>>,
}

impl Workers {
    /// Starts as many as the configuration says, each on a thread of its own.
    ///
    /// # Errors
    ///
    /// When the operating system has no more threads.
    pub fn start(gate: &Arc<Gate>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (outbox, ended) = mpsc::unbounded_channel();
        for index in 0..gate.config.gate.workers {
            let (gate, stop, outbox) = (Arc::clone(gate), Arc::clone(&stop), outbox.clone());
            thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    let result = Worker::new(gate, index).and_then(|worker| worker.run(&stop));
                    // Nobody listens any more when the process is ending.
                    let _ = outbox.send(result);
                })?;
        }
        Ok(Self { stop, ended })
    }

    /// Waits until one ends. None when all have ended.
    pub async fn ended(&mut self) -> Option<Result<(), WorkerError>> {
        self.ended.recv().await
    }

    /// Has all of them commit what they consumed and leave the group. The first error, if there is one; false when they
    /// did not make it in time.
    ///
    /// # Errors
    ///
    /// The first error of a worker.
    pub async fn drain(mut self, limit: Duration) -> Result<bool, WorkerError> {
        self.stop.store(true, Ordering::Relaxed);
        let all = async {
            while let Some(result) = self.ended.recv().await {
                result?;
            }
            Ok(true)
        };
        timeout(limit, all).await.unwrap_or(Ok(false))
    }
}
