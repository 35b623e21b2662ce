//! Writes a batch to a database, retrying until it is stored or the lane has another owner.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, warn};

use super::feed::{Feed, Stretch};
use super::news::{Ended, News};
use crate::io::postgres::{DatabaseError, WriteError};
use crate::roles::assignments::Opening;

/// The shortest and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Writes a batch, retrying without limit. After each failed attempt it notifies the worker, which pauses the lane.
pub(super) async fn until_done<F: Feed>(
    feed: Arc<F>,
    stretch: Stretch,
    mut batch: F::Batch,
    opening: Opening,
    outbox: UnboundedSender<News<F>>,
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
                "the database's state does not admit a batch: claiming the lane again"
            );
            break Ended::Lost;
        }
        let (log, lane) = (F::LOG.as_str(), stretch.partition);
        match &fault {
            WriteError::Refused(_) => error!(log, lane, %fault, "the database refused a batch: retrying"),
            _ => warn!(log, lane, %fault, "failed to store a batch: retrying"),
        }
        F::lighten(&mut batch);
        // Sending fails only when the worker has ended.
        let _ = outbox.send(News::Waiting(lane, opening.clone()));
        tokio::select! {
            biased;
            () = opening.cancelled() => break Ended::Cancelled,
            () = tokio::time::sleep(pauses.next().unwrap_or(PAUSES.1)) => {}
        }
    };
    let _ = outbox.send(News::Ended(stretch.partition, opening, batch, ended));
}
