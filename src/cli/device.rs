//! `pulsegate device`: adds, imports, revokes and lists the keys with which devices sign.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::json;

use super::{Context, print, print_json};
use crate::actions::device::{self, NewKey, Scheme};
use crate::io::vault::import::Imported;
use crate::io::vault::registrar::Filter;
use crate::roles::Failure;

/// Arguments of `pulsegate device`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Creates a key for a device and prints its secret, which is shown only once
    Add(Add),
    /// Adds keys from a file of JSON lines, all of them or none
    Import {
        /// One JSON object per line; - is standard input
        file: PathBuf,
    },
    /// Revokes keys: records signed with them are rejected from now on
    Revoke {
        /// The key ids
        #[arg(required = true)]
        kid: Vec<String>,
    },
    /// Lists keys, without their secrets
    List(List),
}

#[derive(clap::Args)]
struct Add {
    /// The device id
    device: String,
    /// The tenant that the device belongs to; created if it is new
    #[arg(long)]
    tenant: String,
    /// The device class, which determines the rate limit
    #[arg(long, default_value = "wearable")]
    class: String,
    /// The key id [default: the device id and a random suffix]
    #[arg(long)]
    kid: Option<String>,
    /// How the device signs
    #[arg(long, value_enum, default_value_t = Kind::Hs256)]
    sign: Kind,
    /// The Ed25519 public key in base64, for a device that keeps its private key to itself
    #[arg(long, value_name = "BASE64")]
    public_key: Option<String>,
}

/// Signature scheme of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Detached JWS with HMAC-SHA-256
    Hs256,
    /// Detached JWS with Ed25519
    Ed25519,
    /// Standard Webhooks v1
    Webhook,
}

#[derive(clap::Args)]
struct List {
    /// Lists only keys of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Lists only keys of this device
    #[arg(long)]
    device: Option<String>,
    /// Lists only keys in this state: pending, active, verify_only or revoked
    #[arg(long, value_parser = ["pending", "active", "verify_only", "revoked"])]
    state: Option<String>,
    /// Lists at most this many keys
    #[arg(long, default_value_t = 1_000)]
    limit: u32,
}

/// Runs the command.
///
/// # Errors
///
/// If the vault cannot be reached, or the request is invalid.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.verb {
        Verb::Add(args) => add(args, context).await,
        Verb::Import { file } => import(&file, context).await,
        Verb::Revoke { kid } => revoke(&kid, context).await,
        Verb::List(args) => list(args, context).await,
    }
}

async fn add(args: Add, context: &Context) -> Result<(), Failure> {
    let scheme = match (args.sign, args.public_key) {
        (Kind::Ed25519, public_key) => Scheme::Ed25519 { public_key },
        (_, Some(_)) => return Err(Failure::Usage("--public-key requires --sign ed25519".to_owned())),
        (Kind::Hs256, None) => Scheme::Hs256,
        (Kind::Webhook, None) => Scheme::Webhook,
    };
    let device = args.device.clone();
    let key = NewKey {
        device: args.device,
        tenant: args.tenant,
        class: args.class,
        kid: args.kid,
        scheme,
    };
    let mut added = device::add(&context.config, key).await?;
    let kept = added.secret.map(|(name, value)| {
        added.line.insert(name.to_owned(), value.as_str().into());
        format!(
            "Its {name} is shown only once and cannot be retrieved later:\n{}",
            *value
        )
    });
    if context.json {
        return print_json(&added.line);
    }
    print(&format!(
        "Key {} of device {device} is active.\n{}",
        added.kid,
        kept.unwrap_or_default()
    ))
}

async fn import(file: &Path, context: &Context) -> Result<(), Failure> {
    let mut reader: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let opened = File::open(file);
        Box::new(BufReader::new(opened.map_err(|error| {
            Failure::Usage(format!("{}: {error}", file.display()))
        })?))
    };
    let imported = device::import(&context.config, &mut reader).await?;
    if context.json {
        return print_json(&imported);
    }
    let Imported {
        lines,
        keys,
        unchanged,
        devices,
        tenants,
    } = imported;
    print(&format!(
        "Read {lines} lines: added {keys} keys, {devices} devices and {tenants} tenants; {unchanged} keys \
         already existed."
    ))
}

async fn revoke(kids: &[String], context: &Context) -> Result<(), Failure> {
    device::revoke(&context.config, kids).await?;
    if context.json {
        return print_json(&json!({ "revoked": kids }));
    }
    print(&format!("Revoked {}.", kids.join(", ")))
}

async fn list(args: List, context: &Context) -> Result<(), Failure> {
    let List {
        tenant,
        device,
        state,
        limit,
    } = args;
    let filter = Filter {
        tenant,
        device,
        state,
        keys_max: limit,
    };
    let keys = device::list(&context.config, &filter).await?;
    if context.json {
        return print_json(&keys);
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
        "device", "key", "tenant", "class", "profile", "alg", "state", "added",
    ]);
    for key in &keys {
        let parts = [
            &key.device,
            &key.kid,
            &key.tenant,
            &key.class,
            &key.profile,
            &key.alg,
            &key.state,
        ];
        table.add_row(parts.into_iter().chain([&key.created_at]).map(String::as_str));
    }
    print(&table.to_string())?;
    if keys.len() == limit as usize {
        print(&format!(
            "The list is cut off at {limit} keys; raise --limit to see more."
        ))?;
    }
    Ok(())
}
