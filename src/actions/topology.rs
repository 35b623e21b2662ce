//! Applies the declared topics, databases and roles.

use jiff::Timestamp;

use crate::config::Config;
use crate::io::audit::AuditError;
use crate::io::audit::journal::{self, Journal, Role};
use crate::io::topology::{self, Report};
use crate::roles::Failure;
use pulsegate_ledger::log::entry::Deed;

/// Creates what is missing and corrects what differs, as far as no data are lost by it, and records the changes in the
/// audit log.
///
/// # Errors
/// If a service does not answer or refuses a request.
pub async fn apply(config: &Config) -> Result<Report, Failure> {
    let report = topology::apply(&config.topology_settings()).await?;
    if !report.changes.is_empty() {
        record(config, &report).await?;
    }
    Ok(report)
}

/// Records the changes in the audit log. Only possible afterwards: the audit log is part of the topology.
async fn record(config: &Config, report: &Report) -> Result<(), AuditError> {
    let journal = Journal::connect(&config.audit_settings(), Role::Operator).await?;
    let detail = journal::detail([
        ("changes", report.changes.len().into()),
        ("sha256", journal::pseudonym(&report.changes.join("\n")).into()),
        ("config_sha256", config.digest().into()),
    ]);
    let recorded = journal
        .record(Timestamp::now(), Deed::TopologyApply, detail)
        .await;
    journal.close().await;
    recorded
}
