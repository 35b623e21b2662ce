//! The real services around a worker: Kafka, the vault, the schema registry and the clock.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult};
use tokio::runtime::Handle;
use tracing::warn;

use super::knowledge::Knowledge;
use super::opening::{self, KafkaLog, Opened};
use super::services::{Services, Settle};
use super::shared::Gate;
use crate::io::kafka::consumer::Consumer;
use crate::io::kafka::settle::{Job, SettleError, Settled, Settler};
use crate::io::registry::{Questions, Registry, RegistryFault};
use crate::io::vault::{Keys, Vault};
use crate::roles::assignments::Opening;
use crate::roles::clients::Settings;
use crate::telemetry::metrics::Service;
use pulsegate_core::crypto::envelope::FieldKey;
use pulsegate_core::crypto::keys::{SubjectKey, Tenant};
use pulsegate_core::event::Verdict;
use pulsegate_core::gate::pipeline::TenantKeys;

/// Pause before the registry is asked again after a failed request.
const QUESTION_PAUSE: Duration = Duration::from_secs(1);

/// The real services around a worker.
pub struct Live {
    /// librdkafka settings of all clients.
    pub settings: Settings,
    /// Device and subject keys.
    pub vault: Arc<Vault>,
    /// The schema registry, if one is configured.
    pub registry: Option<Registry>,
    questions: Questions,
    runtime: Handle,
}

impl Live {
    /// The services of this process. Must be called on its runtime.
    #[must_use]
    pub fn new(settings: Settings, vault: Arc<Vault>, registry: Option<Registry>) -> Self {
        Self {
            settings,
            vault,
            registry,
            questions: Questions::default(),
            runtime: Handle::current(),
        }
    }
}

impl Services for Live {
    type Consumer = Consumer;
    type Group = ConsumerGroupMetadata;
    type Settler = Settler;
    type Keys = Keys;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn rest(&self, pause: Duration) {
        thread::sleep(pause);
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), getrandom::Error> {
        getrandom::fill(bytes)
    }

    fn transactional_id(&self, worker: usize) -> String {
        self.settings.transactional_id(worker)
    }

    fn subscribe(&self, worker: usize, topic: &str) -> KafkaResult<Consumer> {
        Consumer::subscribe(&self.settings.consumer(worker), topic)
    }

    fn group(&self, consumer: &Consumer) -> Option<ConsumerGroupMetadata> {
        consumer.group()
    }

    fn start_settler(&self, worker: usize) -> Result<Settler, KafkaError> {
        Settler::start(&self.settings.settler(worker))
    }

    /// Opening a lane blocks, so each is opened on a thread of its own.
    fn begin_opening(
        gate: &Arc<Gate<Self>>,
        partition: i32,
        opening: Opening,
        outbox: Sender<Opened>,
    ) -> io::Result<()> {
        let gate = Arc::clone(gate);
        thread::Builder::new()
            .name(format!("open-{partition}"))
            .spawn(move || {
                let (settings, topics) = (&gate.services.settings.opener, &gate.config.topics);
                let log = || KafkaLog::new(settings, topics, partition, &opening);
                let result = opening::open(&gate, partition, &opening, log);
                // Sending fails only when the worker has ended.
                let _ = outbox.send(Opened {
                    partition,
                    opening,
                    result,
                });
            })
            .map(drop)
    }

    fn knowledge(&self) -> Knowledge<Keys> {
        let tenants = self.vault.keys();
        Knowledge {
            keyring: Arc::clone(tenants.keyring()),
            revision: tenants.revision(),
            tenants,
            ids: self.registry.as_ref().map(Registry::ids),
        }
    }

    fn subject_key(&self, tenant: u16, subject: &[u8]) -> Option<Arc<SubjectKey>> {
        self.vault.subjects().get(tenant, subject)
    }

    fn subject_keys(&self) -> usize {
        self.vault.subjects().len()
    }

    /// A vault known to be down is not asked: waiting for it would also delay subjects whose keys are in memory. The task
    /// that follows the device keys notices when it is back.
    fn fetch_subject_keys(gate: &Gate<Self>, subjects: &[(u16, &[u8])]) {
        let Self { vault, runtime, .. } = &gate.services;
        if vault.is_down() {
            return;
        }
        if let Err(error) = runtime.block_on(vault.subjects().fetch_or_create(subjects)) {
            gate.metrics.failed(Service::Vault);
            warn!(%error, subjects = subjects.len(), "failed to fetch subject keys from the vault: their lanes wait");
        }
    }

    fn knows_schema(&self, id: u32) -> bool {
        self.registry
            .as_ref()
            .is_none_or(|registry| registry.ids().get(id).is_some())
    }

    /// The ids are resolved one after the other.
    fn resolve_schemas(gate: &Arc<Gate<Self>>, ids: Vec<u32>) {
        let begin = |&id: &u32| gate.services.questions.begin(id);
        let ids: Vec<_> = ids.into_iter().filter(begin).collect();
        if ids.is_empty() {
            return;
        }
        let gate = Arc::clone(gate);
        let runtime = gate.services.runtime.clone();
        runtime.spawn(async move {
            if let Some(registry) = &gate.services.registry
                && let Err(error) = registry.resolve_all(&ids, gate.catalog()).await
            {
                gate.metrics.failed(Service::SchemaRegistry);
                warn!(%error, schemas = ids.len(), first = ids[0], "failed to resolve schema ids: their lanes wait");
                tokio::time::sleep(QUESTION_PAUSE).await;
            }
            ids.into_iter().for_each(|id| gate.services.questions.end(id));
        });
    }

    fn ask_about_schema(gate: &Gate<Self>, id: u32) -> Result<Verdict, RegistryFault> {
        let Self {
            registry, runtime, ..
        } = &gate.services;
        let Some(registry) = registry else {
            return Ok(Verdict::Denied);
        };
        runtime
            .block_on(registry.resolve(id, gate.catalog()))
            .inspect_err(|_| gate.metrics.failed(Service::SchemaRegistry))
    }
}

impl Settle<ConsumerGroupMetadata> for Settler {
    fn is_busy(&self) -> bool {
        Self::is_busy(self)
    }

    fn begin(&mut self, job: Job) {
        Self::begin(self, job);
    }

    fn wait(&mut self, patience: Duration) -> Option<Result<Settled, SettleError>> {
        Self::wait(self, patience)
    }
}

impl TenantKeys for Keys {
    fn tenant(&self, number: u16) -> Option<&Tenant> {
        Self::tenant(self, number)
    }

    #[expect(
        refining_impl_trait,
        reason = "the simulation borrows its key, the vault shares it"
    )]
    fn quarantine(&self, number: Option<u16>) -> Arc<FieldKey> {
        Self::quarantine(self, number)
    }
}
