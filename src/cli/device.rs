//! `pulsegate device`: keys that devices sign with, added, imported, revoked and listed.

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
    /// Makes a key for a device and prints its secret, this once
    Add(Add),
    /// Adds the keys of a file of JSON lines, all of them or none
    Import {
        /// One JSON object a line; - is standard input
        file: PathBuf,
    },
    /// Revokes keys: what they sign from now on is rejected
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
    /// The tenant that the device belongs to; made if it is new
    #[arg(long)]
    tenant: String,
    /// The device class, which chooses its rate limit
    #[arg(long, default_value = "wearable")]
    class: String,
    /// The key id [default: the device id and a random part]
    #[arg(long)]
    kid: Option<String>,
    /// How the device signs
    #[arg(long, value_enum, default_value_t = Kind::Hs256)]
    sign: Kind,
    /// The Ed25519 public key in base64, of a device that keeps its private key to itself
    #[arg(long, value_name = "BASE64")]
    public_key: Option<String>,
}

/// How a device signs, in one word.
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
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// Only this device's
    #[arg(long)]
    device: Option<String>,
    /// Only those in this state: pending, active, verify_only or revoked
    #[arg(long, value_parser = ["pending", "active", "verify_only", "revoked"])]
    state: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 1_000)]
    limit: u32,
}

impl From<VaultFault> for Failure {
    fn from(fault: VaultFault) -> Self {
        match &fault {
            VaultFault::Unreachable { .. } => Self::Unreachable(fault.to_string()),
            VaultFault::Refused { .. } | VaultFault::Damaged { .. } => Self::Wrong(fault.to_string()),
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
/// When the vault can't be reached, or what is asked for is wrong.
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

/// Key ids that are named in one entry of the audit log at most, each by its digest.
const KIDS_NAMED_MAX: usize = 500;

/// What the audit log is told of a change; none where nothing is changed.
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
        // What a file brings is known when it has been read.
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
            // There is only one line, and nobody has written it.
            ImportError::Line(problem) => {
                let field = problem.field.unwrap_or("key");
                Failure::Wrong(format!("{field}: {}; nothing was added", problem.reason))
            }
            error => error.into(),
        })?;
    if imported.keys == 0 {
        return Err(Failure::Wrong(format!(
            "key {kid} is there already; nothing was added"
        )));
    }
    let kept = secret.map(|(name, value)| {
        line.insert(name.to_owned(), value.as_str().into());
        format!(
            "Its {name} is shown this once and can't be read again:\n{}",
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

/// Adds profile, algorithm and the key's public or shared part to the line. Returns what the device needs to sign, and
/// under which name: nothing where the device has it already.
fn describe_key(
    kind: Kind,
    public_key: Option<String>,
    line: &mut Map<String, Value>,
) -> Result<Option<(&'static str, Zeroizing<String>)>, Failure> {
    if public_key.is_some() && kind != Kind::Ed25519 {
        return Err(Failure::Usage("--public-key goes with --sign ed25519".to_owned()));
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
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| Failure::Usage(format!("the operating system gave no random bytes: {error}")))?;
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
        "Read {lines} lines: added {keys} keys, {devices} devices and {tenants} tenants; {unchanged} keys were there \
         already."
    ))
}

async fn revoke(registrar: &Registrar, kids: &[String], json: bool) -> Result<(), Failure> {
    let unknown = registrar.revoke(kids).await?;
    if !unknown.is_empty() {
        return Err(Failure::Wrong(format!(
            "nobody knows {}; nothing was revoked",
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
        print(&format!("The list ends at {limit} keys; --limit shows more."))?;
    }
    Ok(())
}
