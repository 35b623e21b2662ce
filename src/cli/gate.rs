//! `pulsegate gate`: runs the gate until it receives a signal.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;
use tracing::info;

use super::Context;
use crate::io::audit::journal::{self, Role};
use crate::io::http::Server;
use crate::roles::Failure;
use crate::roles::gate::Gate;
use crate::roles::gate::WorkerError;
use crate::roles::gate::workers::Workers;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;
use pulsegate_ledger::log::entry::Deed;

/// Interval at which recorded samples are moved into their buckets when no scrape does so.
const UPKEEP: Duration = Duration::from_secs(5);

/// Arguments of `pulsegate gate`.
#[derive(clap::Args)]
pub struct Args {
    /// Continues from the group's committed offsets if they differ from the ledger's, and records the rewind in the
    /// ledger
    #[arg(long)]
    rewind: bool,
}

/// Runs the command.
///
/// # Errors
///
/// `Wrong` if a worker failed permanently, `Usage` if the configuration cannot work, `Unreachable` if a service does
/// not answer at the start.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let config = &context.config;
    let (health, metrics) = (Health::new(config.gate.workers), Arc::new(Metrics::new()));
    let http = Server::start(&config.http, Arc::clone(&health), Arc::clone(&metrics));
    let http = http.await.map_err(|error| Failure::Usage(error.to_string()))?;
    let gate = Gate::connect(config, args.rewind, health, metrics).await?;
    info!(http = %http.address(), workers = config.gate.workers, lanes = gate.partitions(), "gate started");
    // A gate does not wait for the audit log: its own account of every record is the ledger.
    tokio::spawn(journal::say_started(
        config.audit_settings(),
        Role::Gate,
        Deed::GateStart,
        config.digest(),
    ));
    let result = until_told(&gate).await;
    gate.close().await;
    result
}

/// Runs the workers until a signal arrives or one of them fails permanently.
async fn until_told(gate: &Arc<Gate>) -> Result<(), Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::Wrong(format!("failed to listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut workers = Workers::start(gate)
        .map_err(|error| Failure::Wrong(format!("failed to start the workers: {error}")))?;
    let mut upkeep = interval(UPKEEP);
    let gave_up = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = upkeep.tick() => gate.upkeep().await,
            error = workers.gave_up() => break Err(error),
        }
    };
    info!("gate shutting down: draining the workers");
    gate.health.drain();
    let limit = Duration::from_millis(gate.config.gate.drain_timeout_ms);
    let drained = workers.drain(limit).await;
    gave_up.map_err(|error| gave_up_with(&error))?;
    match drained {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Wrong(format!(
            "failed to drain within {} ms (gate.drain_timeout_ms); uncommitted records are read again at the next \
             start",
            limit.as_millis()
        ))),
        Err(error) => Err(gave_up_with(&error)),
    }
}

fn gave_up_with(error: &WorkerError) -> Failure {
    Failure::Wrong(format!("a worker failed permanently: {error}"))
}
