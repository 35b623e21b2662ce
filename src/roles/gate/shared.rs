//! State shared by the workers of one process: the configuration, the schemas, the services around it, and health and
//! metrics.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::live::Live;
use super::services::Knowledge;
use crate::config::Config;
use crate::io::host;
use crate::io::registry::{Registry, subject};
use crate::io::schemas::Schemas;
use crate::io::vault::Vault;
use crate::roles::Failure;
use crate::roles::clients::Settings;
use crate::roles::topics;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;
use pulsegate_core::crypto::envelope::TooLong;
use pulsegate_core::event::{Catalog, Format, Plan};
use pulsegate_core::gate::Rules;
use pulsegate_core::gate::admit::Admission;
use pulsegate_core::gate::pipeline::Past;
use pulsegate_core::gate::seal::{Sealer, Topics};
use pulsegate_core::gate::verify;

/// State shared by the workers of one process.
pub struct Gate<S = Live> {
    /// Configuration as it was when the process started.
    pub config: Config,
    /// The operator passed `--rewind`: each lane may continue from a moved offset once, when it is first opened.
    rewind: bool,
    opened: Mutex<HashSet<i32>>,
    /// Revision of the schemas: the first 8 bytes of a hash over all of them, in hex.
    pub schema_rev: String,
    /// State served at `/healthz` and `/readyz`.
    pub health: Arc<Health>,
    /// Metrics served at `/metrics`.
    pub metrics: Arc<Metrics>,
    catalog: Arc<Catalog>,
    verify: verify::Context,
    partitions: NonZeroU32,
    /// The services around the process.
    pub services: S,
}

impl Gate {
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
        let gate = Self::new(config, partitions, schemas, (health, metrics), services);
        Ok(Arc::new(Self { rewind, ..gate }))
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

impl<S> Gate<S> {
    /// The state of a process that has just started, without `--rewind`.
    pub(super) fn new(
        config: &Config,
        partitions: NonZeroU32,
        (catalog, schema_rev): (Arc<Catalog>, String),
        (health, metrics): (Arc<Health>, Arc<Metrics>),
        services: S,
    ) -> Self {
        let verify = config.gate.verify.clone();
        Self {
            rewind: false,
            opened: Mutex::default(),
            schema_rev,
            health,
            metrics,
            catalog,
            verify: verify::Context::new(&config.environment, &config.topics.raw, partitions, verify),
            partitions,
            config: config.clone(),
            services,
        }
    }

    /// Whether a lane may continue from the group's committed offset although the ledger ends elsewhere.
    #[must_use]
    pub fn may_rewind(&self, partition: i32) -> bool {
        self.rewind && !self.lanes_opened().contains(&partition)
    }

    /// Notes that a lane was opened: `--rewind` no longer covers offsets that are moved from now on.
    pub fn opened(&self, partition: i32) {
        self.lanes_opened().insert(partition);
    }

    fn lanes_opened(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of partitions of the raw topic, each of which is a lane.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.partitions.get() as usize
    }

    /// The plans of the event types.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The rules that records are checked against.
    #[must_use]
    pub fn rules<'k, K>(&'k self, knowledge: &'k Knowledge<K>) -> Rules<'k> {
        Rules {
            keyring: &knowledge.keyring,
            catalog: &self.catalog,
            ids: knowledge.ids.as_deref(),
            verify: &self.verify,
        }
    }

    /// The past of a lane that has seen no record.
    #[must_use]
    pub fn no_past<K>(&self, knowledge: &Knowledge<K>) -> Past {
        let admission = Admission::new(&self.config.gate.admit, self.freshness_ms());
        let ids = knowledge.ids.as_deref().cloned();
        Past::new(admission, self.verify.budget(), ids, self.config.registry.ids_max)
    }

    /// Append time from which the log must be replayed to restore a lane's state at `time_ms`.
    #[must_use]
    pub fn rebuild_start_ms(&self, time_ms: i64) -> i64 {
        Admission::rebuild_start_ms(self.freshness_ms(), time_ms)
    }

    /// Creates the sealer of one worker.
    ///
    /// # Errors
    ///
    /// [`TooLong`] when the environment's or a topic's name does not fit into an encryption context.
    pub fn sealer(&self) -> Result<Sealer, TooLong> {
        let topics = &self.config.topics;
        let topics = Topics {
            raw: &topics.raw,
            clean: &topics.clean,
            deadletter: &topics.deadletter,
        };
        Sealer::new(&self.config.environment, topics)
    }

    fn freshness_ms(&self) -> i64 {
        self.config.gate.verify.freshness_ms()
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
