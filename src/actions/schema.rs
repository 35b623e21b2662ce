//! Registers event schemas.

use crate::config::Config;
use crate::io::audit::journal;
use crate::io::registry::{Registry, subject};
use crate::io::schemas::Schemas;
use crate::roles::Failure;
use pulsegate_ledger::log::entry::{self, Deed};

use super::Audited;

/// A schema in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its subject.
    pub subject: String,
    /// Its id.
    pub id: u32,
}

/// Registers the raw and the clean schema of every event under `<topic>-<record name>`, each recorded in the audit log
/// first.
///
/// # Errors
/// `Usage` if no registry is configured, `Wrong` if it refuses a schema, `Unreachable` if it or the audit database does
/// not answer. Schemas before the one that failed are registered.
pub async fn register(config: &Config, schemas: &Schemas) -> Result<Vec<Registered>, Failure> {
    let registry = Registry::new(&config.registry)?;
    let registry =
        registry.ok_or_else(|| Failure::Usage("registry.url must be set to register schemas".to_owned()))?;
    let topics = &config.topics;
    let mut registered = Vec::new();
    for plan in schemas.catalog.plans() {
        for (topic, schema) in [(&topics.raw, plan.schema()), (&topics.clean, plan.clean_schema())] {
            let subject = subject(topic, plan);
            let id = register_one(&registry, &subject, &schema.to_string(), config).await?;
            registered.push(Registered { subject, id });
        }
    }
    Ok(registered)
}

async fn register_one(
    registry: &Registry,
    subject: &str,
    schema: &str,
    config: &Config,
) -> Result<u32, Failure> {
    let detail = journal::detail([
        ("subject", subject.into()),
        ("schema_sha256", entry::digest(schema.as_bytes()).into()),
    ]);
    let mut audited = Audited::begin(config, Deed::SchemaRegister, detail).await?;
    let result = registry.register(subject, schema).await.map_err(Failure::from);
    if let Ok(id) = result {
        audited.add("id", id.into());
    }
    audited.end(&result).await;
    result
}
