//! `pulsegate schema`: checks event schemas, prints their clean schemas, and registers both.

use clap::Subcommand;
use comfy_table::{Table, presets};
use serde_json::json;

use super::{Context, print, print_json};
use crate::actions::{self, schema::Registered};
use crate::io::schemas::Schemas;
use crate::roles::Failure;
use pulsegate_core::event::Plan;

/// Arguments of `pulsegate schema`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Compiles every schema and lists the protected fields and their protection
    Check,
    /// Prints the schema of an event type's clean events
    Clean {
        /// The event type [default: `event.default_event`]
        event: Option<String>,
    },
    /// Registers raw and clean schemas under `<topic>-<record name>`, each recorded in the audit log first
    Register,
}

/// Runs the command.
///
/// # Errors
///
/// `Usage` if a schema does not compile, `Wrong` if the registry refuses one, `Unreachable` if the registry or the
/// audit database does not answer.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let schemas = Schemas::read(&context.config.event)?;
    match args.command {
        Verb::Check => check(&schemas, context.json),
        Verb::Clean { event } => clean(&schemas, event.as_deref(), context),
        Verb::Register => register(&schemas, context).await,
    }
}

fn check(schemas: &Schemas, json: bool) -> Result<(), Failure> {
    let plans = schemas.catalog.plans();
    if json {
        let of = |plan: &Plan| {
            let protected: Vec<_> = plan
                .protected()
                .into_iter()
                .map(|(path, protect)| json!({ "field": path, "protect": protect.as_str() }))
                .collect();
            json!({ "event": plan.name(), "record": plan.full_name(), "protected": protected })
        };
        return print_json(
            &json!({ "revision": schemas.revision, "events": plans.iter().map(of).collect::<Vec<_>>() }),
        );
    }
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(["event", "field", "protection"]);
    for plan in plans {
        for (path, protect) in plan.protected() {
            table.add_row([plan.name(), path, protect.as_str()]);
        }
    }
    print(&format!(
        "{table}\n{} event types, revision {}: valid.",
        plans.len(),
        schemas.revision
    ))
}

fn clean(schemas: &Schemas, event: Option<&str>, context: &Context) -> Result<(), Failure> {
    let name = event.unwrap_or(&context.config.event.default_event);
    let plan = schemas.catalog.plan(name);
    let plan = plan
        .ok_or_else(|| Failure::Usage(format!("unknown event type {name}: see `pulsegate schema check`")))?;
    print_json(plan.clean_schema())
}

async fn register(schemas: &Schemas, context: &Context) -> Result<(), Failure> {
    let registered = actions::schema::register(&context.config, schemas).await?;
    if context.json {
        let registered = registered
            .iter()
            .map(|schema| json!({ "subject": schema.subject, "id": schema.id }));
        return print_json(&registered.collect::<Vec<_>>());
    }
    for Registered { subject, id } in registered {
        print(&format!("{subject} has id {id}."))?;
    }
    Ok(())
}
