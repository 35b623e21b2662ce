//! The seam under the worker loop: what a worker asks of everything around it, besides the group and the log, whose
//! seam is [`Source`].
//!
//! [`Live`](super::live::Live) answers from Kafka, the vault, the registry and the clock; the simulation answers from a
//! scripted world in memory, so that every failure can be played in every order, without a broker and without waiting.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rdkafka::error::{KafkaError, KafkaResult};

use super::knowledge::Knowledge;
use super::opening::opened::Opened;
use super::shared::Gate;
use crate::io::kafka::settle::{Job, SettleError, Settled};
use crate::io::kafka::source::Source;
use crate::io::registry::RegistryFault;
use crate::roles::assignments::Opening;
use pulsegate_core::crypto::keys::SubjectKey;
use pulsegate_core::event::Verdict;
use pulsegate_core::gate::pipeline::TenantKeys;

/// What a worker asks of the process and of the services around it.
pub trait Services: Sized {
    /// The worker's consumer of the raw topic.
    type Consumer: Source;
    /// The consumer's membership in its group, by which a transaction is refused after a rebalance.
    type Group;
    /// The worker's transactional producer.
    type Settler: Settle<Self::Group>;
    /// Keys of tenants.
    type Keys: TenantKeys;

    /// The present time.
    fn now(&self) -> Instant;

    /// Waits.
    fn rest(&self, pause: Duration);

    /// Overwrites `bytes` with random bytes, from which the IVs of ciphertexts are taken.
    ///
    /// # Errors
    ///
    /// When there are none.
    fn random(&self, bytes: &mut [u8]) -> Result<(), getrandom::Error>;

    /// The transactional id of a worker.
    fn transactional_id(&self, worker: usize) -> String;

    /// Joins the group.
    ///
    /// # Errors
    ///
    /// When the client refuses its configuration.
    fn subscribe(&self, worker: usize, topic: &str) -> KafkaResult<Self::Consumer>;

    /// The consumer's present membership, if it is in the group.
    fn group(&self, consumer: &Self::Consumer) -> Option<Self::Group>;

    /// Creates the worker's producer, which fences every earlier one with its transactional id and ends the transaction
    /// that it left open.
    ///
    /// # Errors
    ///
    /// When the coordinator does not answer in time.
    fn start_settler(&self, worker: usize) -> Result<Self::Settler, KafkaError>;

    /// Starts to open a lane in the background; the result goes to `outbox`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    fn begin_opening(
        gate: &Arc<Gate<Self>>,
        partition: i32,
        opening: Opening,
        outbox: Sender<Opened>,
    ) -> io::Result<()>;

    /// Takes a snapshot of the current keys and schema ids.
    fn knowledge(&self) -> Knowledge<Self::Keys>;

    /// The key of a subject, if it is in memory and may still be used.
    fn subject_key(&self, tenant: u16, subject: &[u8]) -> Option<Arc<SubjectKey>>;

    /// Number of subject keys in memory.
    fn subject_keys(&self) -> usize;

    /// Fetches the keys of subjects, creating missing ones, in one round trip bounded by the vault's timeout. Records
    /// whose keys are still missing then have to wait.
    fn fetch_subject_keys(gate: &Gate<Self>, subjects: &[(u16, &[u8])]);

    /// Whether the registry has resolved a schema id, or no registry is configured.
    fn knows_schema(&self, id: u32) -> bool;

    /// Resolves schema ids at the registry in the background. Ids that are already being resolved are skipped.
    fn resolve_schemas(gate: &Arc<Gate<Self>>, ids: Vec<u32>);

    /// Resolves a schema id at the registry, blocking until it answers.
    ///
    /// # Errors
    ///
    /// [`RegistryFault`]: the id is still unresolved.
    fn ask_about_schema(gate: &Gate<Self>, id: u32) -> Result<Verdict, RegistryFault>;
}

/// A transactional producer that settles one batch at a time. See [`Settler`](crate::io::kafka::settle::Settler).
pub trait Settle<G> {
    /// Whether a job is under way.
    fn is_busy(&self) -> bool;

    /// Hands over a job. The settler must not be busy.
    fn begin(&mut self, job: Job<G>);

    /// Waits for the job under way, at most for `patience`. `None` when there is none or it is not done yet; the error
    /// `Hung` when its deadline has passed: then the settler must be dropped.
    fn wait(&mut self, patience: Duration) -> Option<Result<Settled, SettleError>>;
}
