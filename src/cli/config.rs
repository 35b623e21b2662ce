//! `pulsegate config`: shows the effective settings and their origins, and checks them.

use std::collections::BTreeMap;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
use serde_json::{Value, json};

use super::{print, print_json};
use crate::config::{Config, Inputs, Loaded, layers};
use crate::io;
use crate::roles::Failure;
use pulsegate_settings::Problem;

/// Arguments of `pulsegate config`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Prints every effective value and its origin; secrets stay hidden
    Show,
    /// Reports every problem of the configuration
    Check,
    /// Prints the JSON schema of the configuration file
    Schema,
}

/// An effective value with its origin.
#[derive(Serialize)]
struct Setting<'a> {
    value: Value,
    source: &'a str,
}

/// Runs the command. Takes the inputs instead of a loaded configuration, because it must handle a broken one.
///
/// # Errors
///
/// [`Failure::Usage`] if the configuration cannot be shown, [`Failure::Wrong`] if the check finds problems.
pub fn run(args: &Args, inputs: &Inputs, json: bool) -> Result<(), Failure> {
    match args.action {
        Action::Show => show(inputs, json),
        Action::Check => check(inputs, json),
        Action::Schema => print_json(&Config::schema()),
    }
}

fn show(inputs: &Inputs, json: bool) -> Result<(), Failure> {
    let loaded = layers::load(inputs)?;
    let tree = serde_json::to_value(&loaded.config)
        .map_err(|error| Failure::Usage(format!("failed to render the configuration: {error}")))?;
    let mut leaves = BTreeMap::new();
    flatten(String::new(), tree, &mut leaves);
    if json {
        let settings: BTreeMap<_, _> = leaves
            .into_iter()
            .map(|(path, value)| {
                let source = loaded.origin(&path);
                (path, Setting { value, source })
            })
            .collect();
        return print_json(&settings);
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["setting", "value", "from"]);
    for (path, value) in &leaves {
        table.add_row([path.as_str(), &value.to_string(), loaded.origin(path)]);
    }
    print(&table.to_string())
}

fn check(inputs: &Inputs, json: bool) -> Result<(), Failure> {
    let problems = match layers::load(inputs) {
        // Only the check reads the KEK: other commands read it when they need it.
        Ok(Loaded { config, .. }) => {
            let unread = io::kek::read(&config.kek, &config.environment).err();
            unread
                .map(|error| Problem::new("kek", error.to_string()))
                .into_iter()
                .collect()
        }
        Err(invalid) => invalid.0,
    };
    if json {
        print_json(&json!({ "problems": problems }))?;
    } else if problems.is_empty() {
        print("The configuration is good.")?;
    } else {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        print(&lines.join("\n"))?;
    }
    match problems.len() {
        0 => Ok(()),
        1 => Err(Failure::Wrong("the configuration has 1 problem".to_owned())),
        count => Err(Failure::Wrong(format!("the configuration has {count} problems"))),
    }
}

/// Dotted paths of all values; a list is one value.
fn flatten(path: String, value: Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (key, inner) in entries {
                let path = if path.is_empty() {
                    key
                } else {
                    format!("{path}.{key}")
                };
                flatten(path, inner, leaves);
            }
        }
        leaf => {
            leaves.insert(path, leaf);
        }
    }
}
