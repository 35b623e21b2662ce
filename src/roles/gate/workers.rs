//! The workers of one process: started together, stopped together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::shared::Gate;
use super::worker::{Worker, WorkerError};

/// The workers of one process.
pub struct Workers {
    stop: Arc<AtomicBool>,
    ended: mpsc::UnboundedReceiver<Result<(), WorkerError>>,
}

impl Workers {
    /// Starts the configured number of workers (`gate.workers`), each on a thread of its own.
    ///
    /// # Errors
    ///
    /// When the operating system cannot start a thread.
    pub fn start(gate: &Arc<Gate>) -> std::io::Result<Self> {
        let shared = Arc::clone(gate);
        Self::spawn(gate.config.gate.workers, move |index, stop| {
            Worker::new(Arc::clone(&shared), index).and_then(|worker| worker.run(stop))
        })
    }

    fn spawn<W>(count: usize, work: W) -> std::io::Result<Self>
    where
        W: Fn(usize, &AtomicBool) -> Result<(), WorkerError> + Clone + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let (outbox, ended) = mpsc::unbounded_channel();
        for index in 0..count {
            let (work, stop, outbox) = (work.clone(), Arc::clone(&stop), outbox.clone());
            thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    // Unwind-safe: only the lock of its health outlives the worker, and that tolerates a panic.
                    let result = catch_unwind(AssertUnwindSafe(|| work(index, &stop)));
                    // Sending fails only when the process is ending.
                    let _ = outbox.send(result.unwrap_or(Err(WorkerError::Panicked)));
                })?;
        }
        Ok(Self { stop, ended })
    }

    /// Waits until a worker fails with an error or a panic. No worker ends otherwise before it is drained.
    pub async fn gave_up(&mut self) -> WorkerError {
        let ended = self.ended.recv().await;
        ended.and_then(Result::err).unwrap_or(WorkerError::Panicked)
    }

    /// Stops the workers: they commit what they consumed and leave the group. Returns false when that takes longer than
    /// `limit`.
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Works until `stop` is set, as a worker does.
    fn work(stop: &AtomicBool) -> Result<(), WorkerError> {
        while !stop.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_worker_that_panics_has_given_up_while_the_others_go_on() {
        let panics = |index, stop: &AtomicBool| {
            assert_ne!(index, 0, "a bug");
            work(stop)
        };
        for count in [1, 2] {
            let mut workers = Workers::spawn(count, panics).expect("threads");
            let gave_up = timeout(LIMIT, workers.gave_up()).await.expect("reported");
            assert!(matches!(gave_up, WorkerError::Panicked), "{gave_up}");
            assert!(workers.drain(LIMIT).await.expect("the others drain"), "in time");
        }
    }

    #[tokio::test]
    async fn a_worker_that_panics_while_it_drains_has_not_drained() {
        let panics = |_, stop: &AtomicBool| {
            work(stop)?;
            panic!("a bug");
        };
        let workers = Workers::spawn(1, panics).expect("threads");
        let drained = workers.drain(LIMIT).await;
        assert!(matches!(drained, Err(WorkerError::Panicked)), "{drained:?}");
    }
}
