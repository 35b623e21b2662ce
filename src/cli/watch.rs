//! `pulsegate watch`: runs the watch until it receives a signal.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;
use tracing::info;

use super::Context;
use crate::io::audit::journal::{self, Role};
use crate::io::http::Server;
use crate::roles::Failure;
use crate::roles::watch::{Problem, Watch};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;
use pulsegate_ledger::log::entry::Deed;

/// Interval at which recorded samples are moved into their buckets when no scrape does so.
const UPKEEP: Duration = Duration::from_secs(5);

/// Arguments of `pulsegate watch`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
///
/// `Wrong` if a part of the watch failed permanently, `Usage` if the configuration cannot work, `Unreachable` if Kafka
/// does not answer at the start.
pub async fn run(_args: Args, context: &Context) -> Result<(), Failure> {
    let config = &context.config;
    let (health, metrics) = (Health::new(Watch::workers(config)), Arc::new(Metrics::new()));
    let http = Server::start(&config.http, Arc::clone(&health), Arc::clone(&metrics));
    let http = http.await.map_err(|error| Failure::Usage(error.to_string()))?;
    let listen =
        |kind| signal(kind).map_err(|error| Failure::Wrong(format!("failed to listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut watch = Watch::start(config, Arc::clone(&health), Arc::clone(&metrics)).await?;
    info!(http = %http.address(), workers = config.watch.workers, "watch started");
    // Storing readings does not wait for the audit database, which may be down now.
    tokio::spawn(journal::say_started(
        config.audit_settings(),
        Role::Watch,
        Deed::WatchStart,
        config.digest(),
    ));
    let mut upkeep = interval(UPKEEP);
    let gave_up = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = upkeep.tick() => metrics.upkeep(),
            problem = watch.gave_up() => break Err(problem),
        }
    };
    info!("watch shutting down: draining the workers");
    health.drain();
    let drained = watch.drain().await;
    gave_up.map_err(|problem| gave_up_with(&problem))?;
    match drained {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Wrong(format!(
            "failed to drain within {} ms (watch.drain_timeout_ms); records not stored are read again at the next \
             start",
            config.watch.drain_timeout_ms
        ))),
        Err(problem) => Err(gave_up_with(&problem)),
    }
}

fn gave_up_with(problem: &Problem) -> Failure {
    Failure::Wrong(problem.to_string())
}
