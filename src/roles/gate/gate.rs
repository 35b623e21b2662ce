//! State shared by the workers of one process: the configuration, the keys of devices and subjects, the schemas, and
//! health and metrics.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::warn;

use crate::config::Config;
use crate::io::host;
use crate::io::registry::subject;
use crate::io::registry::{Questions, Registry, RegistryFault};
use crate::io::schemas::Schemas;
use crate::io::vault::{Keys, Vault};
use crate::roles::Failure;
use crate::roles::clients::Settings;
use crate::roles::topics;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{Metrics, Service};
use pulsegate_core::crypto::envelope::TooLong;
use pulsegate_core::crypto::keys::SubjectKey;
use pulsegate_core::event::{Catalog, Format, Ids, Plan, Verdict};
use pulsegate_core::gate::Rules;
use pulsegate_core::gate::admit::Admission;
use pulsegate_core::gate::seal::{Sealer, Topics};
use pulsegate_core::gate::verify::{self, Budget};

/// Pause before the registry is asked again after a failed request.
const QUESTION_PAUSE: Duration = Duration::from_secs(1);

/// State shared by the workers of one process.
pub struct Gate {
    /// Configuration as it was when the process started.
    pub config: Config,
    /// librdkafka settings of all clients.
    pub settings: Settings,
    /// The operator passed `--rewind`: each lane may continue from a moved offset once, when it is first opened.
    rewind: bool,
    opened: Mutex<HashSet<i32>>,
    /// Revision of the schemas: the first 8 bytes of a hash over all of them, in hex.
    pub schema_rev: String,
    /// State served at `/healthz` and `/readyz`.
    pub health: Arc<Health>,
    /// Metrics served at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Device and subject keys.
    pub vault: Arc<Vault>,
    catalog: Catalog,
    registry: Option<Registry>,
    questions: Questions,
    verify: verify::Context,
    partitions: NonZeroU32,
    runtime: Handle,
}

/// A snapshot of keys and schema ids, used for one chunk of records.
pub struct Knowledge {
    /// Keys of devices and tenants.
    pub keys: Arc<Keys>,
    ids: Option<Arc<Ids>>,
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
        let verify = config.gate.verify.clone();
        Ok(Arc::new(Self {
            settings: Settings::new(config, &host),
            rewind,
            opened: Mutex::default(),
            schema_rev: schemas.revision,
            health,
            metrics,
            vault,
            catalog: schemas.catalog,
            registry,
            questions: Questions::default(),
            verify: verify::Context::new(&config.environment, &config.topics.raw, partitions, verify),
            partitions,
            runtime: Handle::current(),
            config: config.clone(),
        }))
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

    /// Takes a snapshot of the current keys and schema ids.
    #[must_use]
    pub fn knowledge(&self) -> Knowledge {
        let ids = self.registry.as_ref().map(Registry::ids);
        Knowledge {
            keys: self.vault.keys(),
            ids,
        }
    }

    /// A lane's verification budget, with nothing spent.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.verify.budget()
    }

    /// Admission state of a lane that has seen no record.
    #[must_use]
    pub fn admission(&self) -> Admission {
        Admission::new(&self.config.gate.admit, self.freshness_ms())
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

    /// The key of a subject, if it is in memory and may still be used.
    #[must_use]
    pub fn subject_key(&self, tenant: u16, subject: &[u8]) -> Option<Arc<SubjectKey>> {
        self.vault.subjects().get(tenant, subject)
    }

    /// Counts how many of the subject keys that a batch asked for were in memory.
    pub fn count_key_lookups(&self, hits: usize, misses: usize) {
        self.metrics
            .key_cache(hits as u64, misses as u64, self.vault.subjects().len());
    }

    /// Fetches the keys of subjects, creating missing ones, in one round trip bounded by the vault's timeout. Records
    /// whose keys are still missing then have to wait. A vault known to be down is not asked: waiting for it would also
    /// delay subjects whose keys are in memory. The task that follows the device keys notices when it is back.
    pub fn fetch_subject_keys(&self, subjects: &[(u16, &[u8])]) {
        if self.vault.is_down() {
            return;
        }
        if let Err(error) = self
            .runtime
            .block_on(self.vault.subjects().fetch_or_create(subjects))
        {
            self.metrics.failed(Service::Vault);
            warn!(%error, subjects = subjects.len(), "failed to fetch subject keys from the vault: their lanes wait");
        }
    }

    /// Whether the registry has resolved a schema id, or no registry is configured.
    #[must_use]
    pub fn knows_schema(&self, id: u32) -> bool {
        self.registry
            .as_ref()
            .is_none_or(|registry| registry.ids().get(id).is_some())
    }

    /// Resolves a schema id at the registry, blocking until it answers.
    ///
    /// # Errors
    ///
    /// [`RegistryFault`]: the id is still unresolved.
    pub fn ask_about_schema(&self, id: u32) -> Result<Verdict, RegistryFault> {
        let Some(registry) = &self.registry else {
            return Ok(Verdict::Denied);
        };
        self.runtime
            .block_on(registry.resolve(id, &self.catalog))
            .inspect_err(|_| self.metrics.failed(Service::SchemaRegistry))
    }

    /// Resolves schema ids at the registry in the background, one after the other. Ids that are already being resolved
    /// are skipped.
    pub fn resolve_schemas(self: &Arc<Self>, ids: impl IntoIterator<Item = u32>) {
        let ids: Vec<_> = ids.into_iter().filter(|&id| self.questions.begin(id)).collect();
        if ids.is_empty() {
            return;
        }
        let gate = Arc::clone(self);
        self.runtime.spawn(async move {
            if let Some(registry) = &gate.registry
                && let Err(error) = registry.resolve_all(&ids, &gate.catalog).await
            {
                gate.metrics.failed(Service::SchemaRegistry);
                warn!(%error, schemas = ids.len(), first = ids[0], "failed to resolve schema ids: their lanes wait");
                tokio::time::sleep(QUESTION_PAUSE).await;
            }
            ids.into_iter().for_each(|id| gate.questions.end(id));
        });
    }

    /// Periodic maintenance of the metrics and of the registry's cached answers.
    pub async fn upkeep(&self) {
        self.metrics.upkeep();
        if let Some(registry) = &self.registry {
            registry.refresh().await;
        }
    }

    fn freshness_ms(&self) -> i64 {
        self.config.gate.verify.freshness_ms()
    }
}

impl Knowledge {
    /// The rules that records are checked against.
    #[must_use]
    pub fn rules<'k>(&'k self, gate: &'k Gate) -> Rules<'k> {
        Rules {
            keyring: self.keys.keyring(),
            catalog: &gate.catalog,
            ids: self.ids.as_deref(),
            verify: &gate.verify,
        }
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
