//! `pulsegate device`: adds, imports, revokes and lists the keys with which devices sign.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use ed25519_dalek::SigningKey;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::audited::Audited;
use super::{Context, print, print_json};
use crate::io::audit::journal;
use crate::io::vault::VaultFault;
use crate::io::vault::import::{ImportError, Imported};
use crate::io::vault::registrar::{Filter, Registrar};
use crate::roles::Failure;
use pulsegate_ledger::log::entry::Deed;

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

impl From<VaultFault> for Failure {
    fn from(fault: VaultFault) -> Self {
        match &fault {
            VaultFault::Database(error) if error.passes() => Self::Unreachable(fault.to_string()),
            VaultFault::Database(_) | VaultFault::Damaged { .. } => Self::Wrong(fault.to_string()),
            VaultFault::Kek(_) | VaultFault::Invalid(_) => Self::Usage(fault.to_string()),
        }
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Vault(fault) => fault.into(),
            ImportError::Input(_) => Self::Usage(error.to_string()),
            ImportError::Line(_) => Self::Wrong(error.to_string()),
        }
    }
}

/// Runs the command.
///
/// # Errors
///
/// If the vault cannot be reached, or the request is invalid.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let registrar = Registrar::connect(&context.config.vault_settings()).await?;
    let audited = match deed(&args.verb) {
        Some((deed, detail)) => Some(Audited::begin(&context.config, deed, detail).await?),
        None => None,
    };
    let result = match args.verb {
        Verb::Add(args) => add(&registrar, args, context.json).await,
        Verb::Import { file } => import(&registrar, &file, context.json).await,
        Verb::Revoke { kid } => revoke(&registrar, &kid, context.json).await,
        Verb::List(args) => list(&registrar, args, context.json).await,
    };
    if let Some(audited) = audited {
        audited.end(&result).await;
    }
    registrar.close().await;
    result
}

/// Most key ids named in one entry of the audit log, each by its digest.
const KIDS_NAMED_MAX: usize = 500;

/// Audit entry of a change; `None` if the command changes nothing.
fn deed(verb: &Verb) -> Option<(Deed, Map<String, Value>)> {
    match verb {
        Verb::Add(args) => {
            let device = journal::pseudonym(&args.device);
            let detail = [
                ("device_sha256", device.into()),
                ("tenant", args.tenant.as_str().into()),
            ];
            Some((Deed::DeviceAdd, journal::detail(detail)))
        }
        Verb::Revoke { kid } => {
            let named: Vec<String> = kid
                .iter()
                .take(KIDS_NAMED_MAX)
                .map(|kid| journal::pseudonym(kid))
                .collect();
            let detail = [("keys", kid.len().into()), ("kid_sha256", named.into())];
            Some((Deed::DeviceRevoke, journal::detail(detail)))
        }
        // The contents of the file are known only after it has been read.
        Verb::Import { .. } => Some((Deed::DeviceImport, Map::new())),
        Verb::List(_) => None,
    }
}

async fn add(registrar: &Registrar, args: Add, json: bool) -> Result<(), Failure> {
    let kid = match args.kid {
        Some(kid) => kid,
        None => format!("{}-{:08x}", args.device, u32::from_ne_bytes(*random()?)),
    };
    let mut line = Map::from_iter([
        ("device".to_owned(), Value::from(args.device.as_str())),
        ("kid".to_owned(), kid.as_str().into()),
        ("tenant".to_owned(), args.tenant.as_str().into()),
        ("class".to_owned(), args.class.as_str().into()),
    ]);
    let secret = describe_key(args.sign, args.public_key, &mut line)?;
    let text = Zeroizing::new(Value::from(line.clone()).to_string());
    let imported = registrar
        .import(&mut Cursor::new(text.as_bytes()))
        .await
        .map_err(|error| match error {
            // The only line was written by this command.
            ImportError::Line(problem) => {
                let field = problem.field.unwrap_or("key");
                Failure::Wrong(format!("{field}: {}; nothing was added", problem.reason))
            }
            error => error.into(),
        })?;
    if imported.keys == 0 {
        return Err(Failure::Wrong(format!(
            "key {kid} already exists; nothing was added"
        )));
    }
    let kept = secret.map(|(name, value)| {
        line.insert(name.to_owned(), value.as_str().into());
        format!(
            "Its {name} is shown only once and cannot be retrieved later:\n{}",
            *value
        )
    });
    if json {
        return print_json(&line);
    }
    print(&format!(
        "Key {kid} of device {} is active.\n{}",
        args.device,
        kept.unwrap_or_default()
    ))
}

/// Adds profile, algorithm and the key's public or shared part to the line. Returns the name and value of the part that
/// the device needs to sign; `None` if the device already has it.
fn describe_key(
    kind: Kind,
    public_key: Option<String>,
    line: &mut Map<String, Value>,
) -> Result<Option<(&'static str, Zeroizing<String>)>, Failure> {
    if public_key.is_some() && kind != Kind::Ed25519 {
        return Err(Failure::Usage("--public-key requires --sign ed25519".to_owned()));
    }
    let mut set = |name: &str, value: &str| line.insert(name.to_owned(), value.into());
    set("profile", if kind == Kind::Webhook { "webhook" } else { "jws" });
    let random: Zeroizing<[u8; 32]> = random()?;
    let base64 = Zeroizing::new(STANDARD.encode(random.as_slice()));
    match (kind, public_key) {
        (Kind::Ed25519, Some(public_key)) => {
            set("alg", "Ed25519");
            set("public_key", &public_key);
            Ok(None)
        }
        (Kind::Ed25519, None) => {
            let public_key = SigningKey::from_bytes(&random).verifying_key();
            set("alg", "Ed25519");
            set("public_key", &STANDARD.encode(public_key.as_bytes()));
            Ok(Some(("private_key", base64)))
        }
        (Kind::Hs256, _) => {
            set("alg", "HS256");
            set("secret", &base64);
            Ok(Some(("secret", base64)))
        }
        (Kind::Webhook, _) => {
            let secret = Zeroizing::new(format!("whsec_{}", *base64));
            set("secret", &secret);
            Ok(Some(("secret", secret)))
        }
    }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Failure> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| {
        Failure::Usage(format!(
            "failed to get random bytes from the operating system: {error}"
        ))
    })?;
    Ok(bytes)
}

async fn import(registrar: &Registrar, file: &Path, json: bool) -> Result<(), Failure> {
    let mut reader: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let opened = File::open(file);
        Box::new(BufReader::new(opened.map_err(|error| {
            Failure::Usage(format!("{}: {error}", file.display()))
        })?))
    };
    let imported = registrar.import(&mut reader).await?;
    if json {
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

async fn revoke(registrar: &Registrar, kids: &[String], json: bool) -> Result<(), Failure> {
    let unknown = registrar.revoke(kids).await?;
    if !unknown.is_empty() {
        return Err(Failure::Wrong(format!(
            "unknown key {}: nothing was revoked",
            unknown.join(", ")
        )));
    }
    if json {
        return print_json(&json!({ "revoked": kids }));
    }
    print(&format!("Revoked {}.", kids.join(", ")))
}

async fn list(registrar: &Registrar, args: List, json: bool) -> Result<(), Failure> {
    let List {
        tenant,
        device,
        state,
        limit,
    } = args;
    let keys = registrar
        .list(&Filter {
            tenant,
            device,
            state,
            keys_max: limit,
        })
        .await?;
    if json {
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
