//! Adds, imports, revokes and lists the keys with which devices sign.

use std::io::{BufRead, Cursor};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::Audited;
use crate::config::Config;
use crate::io::audit::journal;
use crate::io::vault::import::{ImportError, Imported};
use crate::io::vault::registrar::{Filter, Listed, Registrar};
use crate::roles::Failure;
use pulsegate_ledger::log::entry::Deed;

/// Most key ids named in one entry of the audit log, each by its digest.
const KIDS_NAMED_MAX: usize = 500;

/// A device's key to be added.
pub struct NewKey {
    /// The device id.
    pub device: String,
    /// The tenant that the device belongs to; created if it is new.
    pub tenant: String,
    /// The device class, which determines the rate limit.
    pub class: String,
    /// The key id; by default the device id and a random suffix.
    pub kid: Option<String>,
    /// How the device signs.
    pub scheme: Scheme,
}

/// Signature scheme of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Detached JWS with HMAC-SHA-256.
    Hs256,
    /// Detached JWS with Ed25519.
    Ed25519 {
        /// The public key in base64, of a device that keeps its private key to itself; by default a pair is made.
        public_key: Option<String>,
    },
    /// Standard Webhooks v1.
    Webhook,
}

/// A key that was added.
pub struct Added {
    /// The key id.
    pub kid: String,
    /// The key as imported, without a private part that only the device needs.
    pub line: Map<String, Value>,
    /// Name and value of the part that the device needs to sign; `None` if the device already has it.
    pub secret: Option<(&'static str, Zeroizing<String>)>,
}

/// Creates a key for a device.
///
/// # Errors
/// `Wrong` if the key exists or is invalid, `Usage` if the request is invalid, `Unreachable` if the vault or the audit
/// database does not answer.
pub async fn add(config: &Config, key: NewKey) -> Result<Added, Failure> {
    let detail = journal::detail([
        ("device_sha256", journal::pseudonym(&key.device).into()),
        ("tenant", key.tenant.as_str().into()),
    ]);
    let change = async |registrar: &Registrar| add_with(registrar, key).await;
    audited(config, Deed::DeviceAdd, detail, change).await
}

/// Imports keys from JSON lines, all of them or none.
///
/// # Errors
/// `Wrong` if a line is invalid, otherwise as [`add`].
pub async fn import(config: &Config, lines: &mut impl BufRead) -> Result<Imported, Failure> {
    // What the lines contain is known only after they have been read.
    let change = async |registrar: &Registrar| Ok(registrar.import(lines).await?);
    audited(config, Deed::DeviceImport, Map::new(), change).await
}

/// Revokes keys, all of them or none: records signed with them are rejected from now on.
///
/// # Errors
/// `Wrong` if a key is unknown, otherwise as [`add`].
pub async fn revoke(config: &Config, kids: &[String]) -> Result<(), Failure> {
    let named = kids.iter().take(KIDS_NAMED_MAX);
    let named: Vec<String> = named.map(|kid| journal::pseudonym(kid)).collect();
    let detail = journal::detail([("keys", kids.len().into()), ("kid_sha256", named.into())]);
    let change = async |registrar: &Registrar| match registrar.revoke(kids).await?.as_slice() {
        [] => Ok(()),
        unknown => Err(Failure::Wrong(format!(
            "unknown key {}: nothing was revoked",
            unknown.join(", ")
        ))),
    };
    audited(config, Deed::DeviceRevoke, detail, change).await
}

/// Lists keys, without their secrets.
///
/// # Errors
/// As [`add`].
pub async fn list(config: &Config, filter: &Filter) -> Result<Vec<Listed>, Failure> {
    let registrar = Registrar::connect(&config.vault_settings()).await?;
    let listed = registrar.list(filter).await;
    registrar.close().await;
    Ok(listed?)
}

/// Makes a change of the registry between its two entries in the audit log.
async fn audited<T>(
    config: &Config,
    deed: Deed,
    detail: Map<String, Value>,
    change: impl AsyncFnOnce(&Registrar) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let registrar = Registrar::connect(&config.vault_settings()).await?;
    let audited = Audited::begin(config, deed, detail).await?;
    let result = change(&registrar).await;
    audited.end(&result).await;
    registrar.close().await;
    result
}

async fn add_with(registrar: &Registrar, key: NewKey) -> Result<Added, Failure> {
    let kid = match key.kid {
        Some(kid) => kid,
        None => format!("{}-{:08x}", key.device, u32::from_ne_bytes(*random()?)),
    };
    let mut line = Map::from_iter([
        ("device".to_owned(), Value::from(key.device)),
        ("kid".to_owned(), kid.as_str().into()),
        ("tenant".to_owned(), key.tenant.into()),
        ("class".to_owned(), key.class.into()),
    ]);
    let secret = describe_key(key.scheme, &mut line)?;
    let text = Zeroizing::new(Value::from(line.clone()).to_string());
    let imported = registrar
        .import(&mut Cursor::new(text.as_bytes()))
        .await
        .map_err(|error| match error {
            // The only line was written above.
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
    Ok(Added { kid, line, secret })
}

/// Adds profile, algorithm and the key's public or shared part to the line. Returns the name and value of the part that
/// the device needs to sign; `None` if the device already has it.
fn describe_key(
    scheme: Scheme,
    line: &mut Map<String, Value>,
) -> Result<Option<(&'static str, Zeroizing<String>)>, Failure> {
    let mut set = |name: &str, value: &str| line.insert(name.to_owned(), value.into());
    let random: Zeroizing<[u8; 32]> = random()?;
    let base64 = Zeroizing::new(STANDARD.encode(random.as_slice()));
    match scheme {
        Scheme::Ed25519 { public_key } => {
            set("profile", "jws");
            set("alg", "Ed25519");
            if let Some(public_key) = public_key {
                set("public_key", &public_key);
                return Ok(None);
            }
            let public_key = SigningKey::from_bytes(&random).verifying_key();
            set("public_key", &STANDARD.encode(public_key.as_bytes()));
            Ok(Some(("private_key", base64)))
        }
        Scheme::Hs256 => {
            set("profile", "jws");
            set("alg", "HS256");
            set("secret", &base64);
            Ok(Some(("secret", base64)))
        }
        Scheme::Webhook => {
            set("profile", "webhook");
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
