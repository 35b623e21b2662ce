//! Connects the gate of a process to the services around it.

use std::sync::Arc;

use super::live::Live;
use super::shared::Gate;
use crate::config::Config;
use crate::io::host;
use crate::io::registry::{Registry, subject};
use crate::io::schemas::Schemas;
use crate::io::vault::Vault;
use crate::roles::clients::Settings;
use crate::roles::failure::Failure;
use crate::roles::topics;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;
use pulsegate_core::event::{Catalog, Format, Plan};

impl Gate<Live> {
    /// Reads the schemas, connects to the vault and to the registry, and asks Kafka about the topics.
    ///
    /// # Errors
    ///
    /// `Usage` when the configuration is invalid, `Unreachable` when a service does not answer, `Wrong` when a topic
    /// is missing or misconfigured.
    pub async fn connect(
        config: &Config,
        rewind: bool,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, Failure> {
        let partitions = topics::check(config).await?;
        let mut schemas = Schemas::read(&config.event)?;
        let registry = Registry::new(&config.registry)?;
        if let Some(registry) = &registry {
            frame_clean(config, registry, &mut schemas.catalog).await?;
        }
        let vault = Vault::connect(
            &config.vault_settings(),
            config.audit_settings(),
            Arc::clone(&metrics),
        )
        .await?;
        let host = host::name().unwrap_or_else(|| "gate".to_owned());
        let services = Live::new(Settings::new(config, &host), vault, registry);
        let schemas = (Arc::new(schemas.catalog), schemas.revision);
        let mut gate = Self::new(config, partitions, schemas, (health, metrics), services);
        gate.rewind = rewind;
        Ok(Arc::new(gate))
    }

    /// Periodic maintenance of the metrics and of the registry's cached answers.
    pub async fn upkeep(&self) {
        self.metrics.upkeep();
        if let Some(registry) = &self.services.registry {
            registry.refresh().await;
        }
    }

    /// Reports what the vault has not been told yet, and closes its connections.
    pub async fn close(&self) {
        self.services.vault.close().await;
    }
}

/// Registers the clean Avro schemas: clean Avro values carry the registry's id of their schema.
async fn frame_clean(config: &Config, registry: &Registry, catalog: &mut Catalog) -> Result<(), Failure> {
    let framed = |plan: &Plan| {
        (
            plan.name().to_owned(),
            subject(&config.topics.clean, plan),
            plan.clean_schema().to_string(),
        )
    };
    let avro = catalog
        .plans()
        .iter()
        .filter(|plan| plan.clean_format() == Format::Avro);
    for (name, subject, schema) in avro.map(framed).collect::<Vec<_>>() {
        let id = registry.register(&subject, &schema).await?;
        catalog.frame_clean(&name, id);
    }
    Ok(())
}
