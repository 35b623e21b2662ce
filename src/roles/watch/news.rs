//! What the tasks of a worker tell it.

use super::feed::{Feed, OpenFault, Opened};
use crate::io::postgres::WriteError;
use crate::roles::assignments::Opening;

/// A task's message to the worker.
pub(super) enum News<F: Feed> {
    /// Opening a lane succeeded or failed.
    Opened(i32, Opening, Result<Opened<F::State>, OpenFault>),
    /// Writing a batch has succeeded, or was given up.
    Ended(i32, Opening, F::Batch, Ended),
    /// Writing a batch failed and is retried.
    Waiting(i32, Opening),
}

/// How writing a batch ended.
pub(super) enum Ended {
    /// It is stored.
    Written,
    /// Another process has claimed the lane.
    Fenced(WriteError),
    /// The sink's offset is not the one that this worker expects.
    Lost,
    /// The lane was given back before the batch was stored.
    Cancelled,
}
