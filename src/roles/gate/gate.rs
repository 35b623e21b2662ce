//! What the workers of one process share: the configuration, what is known of devices, subjects and schemas, and how
//! they are told about.

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

/// How long the registry is left alone after it has not answered.
const QUESTION_PAUSE: Duration = Duration::from_secs(1);

/// What the workers of one process share.
pub struct Gate {
    /// As it was when the process started.
    pub config: Config,
    /// What librdkafka is told.
    pub settings: Settings,
    /// The operator allows lanes to be moved: each once, as it is opened for the first time.
    rewind: bool,
    opened: Mutex<HashSet<i32>>,
    /// Which schemas decide: the first 8 bytes of a hash over all of them, in hex.
    pub schema_rev: String,
    /// What `/healthz` and `/readyz` say.
    pub health: Arc<Health>,
    /// What `/metrics` says.
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

/// One snapshot of what is known, for one chunk of records.
pub struct Knowledge {
    /// Devices and tenants.
    pub keys: Arc<Keys>,
    ids: Option<Arc<Ids>>,
}

impl Gate {
    /// Reads the schemas, connects to the vault and to the registry, and asks Kafka about the topics.
    ///
    /// # Errors
    ///
    /// `Usage` when something is configured that cannot work, `Unreachable` when a service does not answer, `Wrong`
    /// when the topics are not what they must be.
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

    /// A lane may go on from where the group stands although the ledger stands elsewhere.
    #[must_use]
    pub fn may_rewind(&self, partition: i32) -> bool {
        self.rewind && !self.lanes_opened().contains(&partition)
    }

    /// A lane was opened: whoever moves its offsets from now on was not foreseen.
    pub fn opened(&self, partition: i32) {
        self.lanes_opened().insert(partition);
    }

    fn lanes_opened(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The raw topic's partitions, each of which is a lane.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.partitions.get() as usize
    }

    /// What is known now.
    #[must_use]
    pub fn knowledge(&self) -> Knowledge {
        let ids = self.registry.as_ref().map(Registry::ids);
        Knowledge {
            keys: self.vault.keys(),
            ids,
        }
    }

    /// A lane's limits, of which nothing is spent.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.verify.budget()
    }

    /// A lane that remembers nothing.
    #[must_use]
    pub fn admission(&self) -> Admission {
        Admission::new(&self.config.gate.admit, self.freshness_ms())
    }

    /// From when on the log has to be read again to know what a lane knew at `time_ms`.
    #[must_use]
    pub fn rebuild_start_ms(&self, time_ms: i64) -> i64 {
        Admission::rebuild_start_ms(self.freshness_ms(), time_ms)
    }

    /// What seals for one worker.
    ///
    /// # Errors
    ///
    /// When a name does not fit into an encryption context.
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

    /// Fetches, and makes where there are none, the keys of subjects: one round trip, as long as the vault may take.
    /// What is still missing then has to wait. A vault that is known to be away is not asked: a worker that waits for it
    /// keeps the subjects waiting that are in memory. Whoever follows the device keys finds out when it is back.
    pub fn fetch_subject_keys(&self, subjects: &[(u16, &[u8])]) {
        if self.vault.is_down() {
            return;
        }
        if let Err(error) = self
            .runtime
            .block_on(self.vault.subjects().fetch_or_create(subjects))
        {
            self.metrics.failed(Service::Vault);
            warn!(%error, subjects = subjects.len(), "no subject keys from the vault");
        }
    }

    /// The registry has answered about a schema id, or there is none to ask.
    #[must_use]
    pub fn knows_schema(&self, id: u32) -> bool {
        self.registry
            .as_ref()
            .is_none_or(|registry| registry.ids().get(id).is_some())
    }

    /// Asks the registry about a schema id, and waits for its answer.
    ///
    /// # Errors
    ///
    /// [`RegistryFault`]: nothing was found out.
    pub fn ask_about_schema(&self, id: u32) -> Result<Verdict, RegistryFault> {
        let Some(registry) = &self.registry else {
            return Ok(Verdict::Denied);
        };
        self.runtime
            .block_on(registry.resolve(id, &self.catalog))
            .inspect_err(|_| self.metrics.failed(Service::SchemaRegistry))
    }

    /// Asks the registry about schema ids, one after the other, in the background. Those that it is asked about already
    /// are left out.
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
                warn!(%error, schemas = ids.len(), first = ids[0], "no answer from the schema registry");
                tokio::time::sleep(QUESTION_PAUSE).await;
            }
            ids.into_iter().for_each(|id| gate.questions.end(id));
        });
    }

    /// What has to be done now and then.
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
    /// What the checks need of it.
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

/// Clean Avro values carry the registry's ids of their schemas, which are registered for that.
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
