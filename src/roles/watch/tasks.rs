//! Where a worker's tasks run, and how its thread waits for their messages: a seam, so that the simulation can run both
//! on one thread, in simulated time.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

/// Where a worker's tasks run.
pub trait Tasks {
    /// Starts a task.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// Takes the next message, waiting at most for `patience`. Called on the worker's thread.
    fn receive<T>(&self, inbox: &mut UnboundedReceiver<T>, patience: Duration) -> Option<T>;
}

/// The runtime of the process; the worker has a thread of its own.
impl Tasks for Handle {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(Self::spawn(self, task));
    }

    fn receive<T>(&self, inbox: &mut UnboundedReceiver<T>, patience: Duration) -> Option<T> {
        self.block_on(async { timeout(patience, inbox.recv()).await.ok().flatten() })
    }
}
