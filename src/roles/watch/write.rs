//! A batch on its way into a database: tried until it is stored, or until it is somebody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use crossbeam_channel::Sender;
use tracing::{error, warn};

use super::feed::{Feed, Stretch};
use super::worker::News;
use crate::io::postgres::{DatabaseError, WriteError};

/// The shortest and the longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What became of a batch.
pub(super) enum Ended {
    /// It is stored.
    Written,
    /// Another process has claimed the lane.
    Fenced(WriteError),
    /// The sink does not stand where this worker believes it to be.
    Lost,
    /// The lane was given back before it was stored.
    Cancelled,
}

/// Writes a batch. What the database does not take now it takes later: it is tried again and again, and the worker is told
/// that it has to wait.
pub(super) async fn until_done<F: Feed>(
    feed: Arc<F>,
    stretch: Stretch,
    mut batch: F::Batch,
    cancelled: Arc<AtomicBool>,
    outbox: Sender<News<F>>,
) {
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .with_jitter()
        .without_max_times()
        .build();
    let ended = loop {
        let fault = match feed.write(stretch, &batch).await {
            Ok(()) => break Ended::Written,
            Err(fenced @ WriteError::Fenced { .. }) => break Ended::Fenced(fenced),
            Err(fault) => fault,
        };
        if let WriteError::Refused(DatabaseError::Invalid(reason)) = &fault {
            error!(
                log = F::LOG.as_str(),
                lane = stretch.partition,
                reason,
                "claiming the lane anew"
            );
            break Ended::Lost;
        }
        let (log, lane) = (F::LOG.as_str(), stretch.partition);
        match &fault {
            WriteError::Refused(_) => error!(log, lane, %fault, "the database refuses a batch; trying again"),
            _ => warn!(log, lane, %fault, "a batch is not stored; trying again"),
        }
        F::lighten(&mut batch);
        // A worker that has ended does not listen.
        let _ = outbox.send(News::Waiting(lane, Arc::clone(&cancelled)));
        tokio::time::sleep(pauses.next().unwrap_or(PAUSES.1)).await;
        if cancelled.load(Ordering::Relaxed) {
            break Ended::Cancelled;
        }
    };
    let _ = outbox.send(News::Ended(stretch.partition, cancelled, batch, ended));
}
