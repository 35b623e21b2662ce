//! Everything librdkafka is told, in one place, each with its reason.

use std::time::Duration;

use rdkafka::config::ClientConfig;

use crate::config::Config;
use crate::io::kafka::config::Topics;
use crate::io::kafka::settle;

/// How long a record may wait for its delivery: less than a transaction, or the transaction ends first.
const DELIVERY_SHARE: u64 = 2;

/// The settings of the gate's clients.
pub struct Settings {
    base: ClientConfig,
    group: String,
    instance: String,
    topics: Topics,
    transaction_timeout_ms: u64,
    settle_timeout: Duration,
    /// Of the client that opens a lane.
    pub opener: ClientConfig,
}

impl Settings {
    /// Reads the configuration; `host` stands in for an instance that is not named.
    #[must_use]
    pub fn new(config: &Config, host: &str) -> Self {
        let base = config.kafka.client();
        let mut opener = base.clone();
        opener
            .set("group.id", &config.gate.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            // A lane's past has an end, and what is left at the end has to be known.
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "50")
            .set("queued.max.messages.kbytes", "32768");
        let instance = if config.gate.instance.is_empty() {
            host
        } else {
            &config.gate.instance
        };
        Self {
            base,
            group: config.gate.group.clone(),
            instance: instance.to_owned(),
            topics: config.topics.clone(),
            transaction_timeout_ms: config.gate.transaction_timeout_ms,
            settle_timeout: Duration::from_millis(config.gate.settle_timeout_ms),
            opener,
        }
    }

    /// `<group>-<instance>-<worker>`: a worker that comes back under its name ends what it had left open.
    #[must_use]
    pub fn transactional_id(&self, worker: usize) -> String {
        format!("{}-{}-{worker}", self.group, self.instance)
    }

    /// The consumer of one worker.
    #[must_use]
    pub fn consumer(&self, worker: usize) -> ClientConfig {
        consumer(&self.base, &self.group, &self.transactional_id(worker))
    }

    /// The settler of one worker.
    #[must_use]
    pub fn settler(&self, worker: usize) -> settle::Settings {
        let id = self.transactional_id(worker);
        let mut client = ClientConfig::new();
        client
            .set("client.id", &id)
            .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string())
            .set("message.timeout.ms", (self.transaction_timeout_ms / DELIVERY_SHARE).to_string())
            // A batch is the bound on what is enqueued, so these are out of the way.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", "2097151")
            // Each batch is flushed, which does not linger; a little linger fills requests while it is enqueued.
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("batch.num.messages", "10000")
            // A rejected record of the largest size, sealed, must fit.
            .set("message.max.bytes", "33554432")
            // Successes are what nothing in flight means; only failures are worth an event.
            .set("delivery.report.only.error", "true");
        override_with(&self.base, &mut client);
        client.set("transactional.id", &id);
        settle::Settings {
            client,
            topics: self.topics.clone(),
            settle_timeout: self.settle_timeout,
        }
    }
}

/// A consumer whose positions are its lanes' and not the group's: each worker's, of both roles.
pub(super) fn consumer(base: &ClientConfig, group: &str, id: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("client.id", id)
        .set("partition.assignment.strategy", "cooperative-sticky")
        // How long the lanes of one that died stand still. Heartbeats come from a thread of librdkafka's own.
        .set("session.timeout.ms", "10000")
        // Offsets belong to the transaction, positions to the lanes.
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        // A lane always starts at an offset that it knows; that it is gone must not pass silently.
        .set("auto.offset.reset", "error")
        // Memory: a batch ahead, however far behind the lanes are. A gate with a backlog takes 98 MiB instead of 147 with
        // four times as much, is as fast, and does not grow over ten million events (`--bench gate -- --soak`).
        .set("queued.min.messages", "40000")
        .set("queued.max.messages.kbytes", "8192")
        // How long a partition rests once that much is waiting. By default a second, in which the queue runs dry:
        // 76,000 events a second at a quarter of the machine.
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.message.max.bytes", "4194304")
        .set("fetch.wait.max.ms", "10")
        .set("statistics.interval.ms", "2000");
    override_with(base, &mut client);
    client.set("group.id", group);
    client
}

/// What the operator set goes last.
fn override_with(base: &ClientConfig, client: &mut ClientConfig) {
    for (name, value) in base.config_map() {
        client.set(name, value);
    }
}
