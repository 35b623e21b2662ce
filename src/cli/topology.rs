//! `pulsegate topology`: applies, checks or shows the declared topics, databases and roles.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::json;

use super::{Context, print, print_json};
use crate::actions;
use crate::io::topology::{self, Item, Report};
use crate::roles::Failure;

/// Arguments of `pulsegate topology`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Creates what is missing and corrects what differs, as far as no data are lost by it
    Apply,
    /// Compares the live services with the declaration; exit 1 and a list if there are differences
    Check,
    /// Shows all declared and live properties
    Show,
}

/// Runs the command.
///
/// # Errors
///
/// If a service does not answer or refuses a request, or if something differs (`apply`, `check`).
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.verb {
        Verb::Apply => apply(context).await,
        Verb::Check => check(context).await,
        Verb::Show => show(context).await,
    }
}

async fn apply(context: &Context) -> Result<(), Failure> {
    let report = actions::topology::apply(&context.config).await?;
    let differences: Vec<_> = report.differences().collect();
    if context.json {
        print_json(&json!({ "changes": report.changes, "differences": differences }))?;
    } else if report.changes.is_empty() {
        print("Nothing to change: topics, databases and roles are as declared.")?;
    } else {
        print(&summary(&report))?;
    }
    verdict(&differences)
}

/// Counts grants, of which there are dozens; lists every other change.
fn summary(report: &Report) -> String {
    let is_grant = |change: &&String| change.starts_with("granted") || change.starts_with("revoked");
    let (grants, named): (Vec<_>, Vec<_>) = report.changes.iter().partition(is_grant);
    let mut lines: Vec<String> = named.into_iter().cloned().collect();
    if !grants.is_empty() {
        lines.push(format!("granted or revoked {} privileges", grants.len()));
    }
    lines.join("\n")
}

async fn check(context: &Context) -> Result<(), Failure> {
    let items = topology::inspect(&context.config.topology_settings()).await?;
    let differences: Vec<_> = items.iter().filter(|item| !item.agrees()).collect();
    if context.json {
        print_json(&json!({ "compared": items.len(), "differences": differences }))?;
    } else if differences.is_empty() {
        print(&format!(
            "All {} properties of topics, databases and roles are as declared.",
            items.len()
        ))?;
    }
    verdict(&differences)
}

fn verdict(differences: &[&Item]) -> Result<(), Failure> {
    if differences.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = differences.iter().map(|item| format!("  {item}")).collect();
    let count = differences.len();
    Err(Failure::Wrong(format!(
        "{count} propert{} not as declared:\n{}",
        plural(count),
        lines.join("\n")
    )))
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "y is" } else { "ies are" }
}

async fn show(context: &Context) -> Result<(), Failure> {
    let items = topology::inspect(&context.config.topology_settings()).await?;
    if context.json {
        return print_json(&items);
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["object", "property", "declared", "live", ""]);
    for item in &items {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".to_owned());
        let mark = if item.agrees() { "" } else { "differs" };
        let row = [
            item.name.clone(),
            item.aspect.clone(),
            side(&item.declared),
            side(&item.live),
            mark.to_owned(),
        ];
        table.add_row(row);
    }
    print(&table.to_string())
}
