//! All settings of librdkafka in one place, each with its reason.

use std::time::Duration;

use rdkafka::config::ClientConfig;

use crate::config::Config;
use crate::io::kafka::config::Topics;
use crate::io::kafka::settle;

/// Divides the transaction timeout into the delivery timeout: a delivery must fail before its transaction times out.
const DELIVERY_SHARE: u64 = 2;

/// The settings of the gate's clients.
pub struct Settings {
    base: ClientConfig,
    group: String,
    instance: String,
    topics: Topics,
    transaction_timeout_ms: u64,
    settle_timeout: Duration,
    /// Settings of the client that opens a lane.
    pub opener: ClientConfig,
}

impl Settings {
    /// Derives the settings from the configuration; `host` is used if `gate.instance` is empty.
    #[must_use]
    pub fn new(config: &Config, host: &str) -> Self {
        let base = config.kafka.client();
        let mut opener = base.clone();
        opener
            .set("group.id", &config.gate.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            // A rescan ends at the end of the log, so the end must be reported.
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

    /// `<group>-<instance>-<worker>`: a worker that restarts under the same id ends the transaction it left open.
    #[must_use]
    pub fn transactional_id(&self, worker: usize) -> String {
        format!("{}-{}-{worker}", self.group, self.instance)
    }

    /// Settings of one worker's consumer.
    #[must_use]
    pub fn consumer(&self, worker: usize) -> ClientConfig {
        consumer(&self.base, &self.group, &self.transactional_id(worker))
    }

    /// Settings of one worker's settler.
    #[must_use]
    pub fn settler(&self, worker: usize) -> settle::Settings {
        let id = self.transactional_id(worker);
        let mut client = ClientConfig::new();
        client
            .set("client.id", &id)
            .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string())
            .set("message.timeout.ms", (self.transaction_timeout_ms / DELIVERY_SHARE).to_string())
            // The batch bounds what is enqueued, so these limits must never apply.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", "2097151")
            // Flushing a batch does not linger; a short linger fills requests while the batch is enqueued.
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("batch.num.messages", "10000")
            // A rejected record of the largest size, sealed, must fit.
            .set("message.max.bytes", "33554432")
            // Once nothing is in flight, every other delivery succeeded: only failures need an event.
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

/// Settings of a worker's consumer, for gate and watch. Its positions come from its lanes and not from the group.
pub(super) fn consumer(base: &ClientConfig, group: &str, id: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("client.id", id)
        .set("partition.assignment.strategy", "cooperative-sticky")
        // How long the lanes of a dead worker stand still. Heartbeats come from librdkafka's own thread.
        .set("session.timeout.ms", "10000")
        // Offsets belong to the transaction, positions to the lanes.
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        // A lane always starts at a known offset; if that is gone, it must be an error.
        .set("auto.offset.reset", "error")
        // Bounds memory to one batch ahead, however large the backlog. A gate with a backlog takes 98 MiB instead of
        // 147 with four times these limits, is as fast, and does not grow over ten million events
        // (`--bench gate -- --soak`).
        .set("queued.min.messages", "40000")
        .set("queued.max.messages.kbytes", "8192")
        // Pause before a partition is fetched again once that much is queued. With the default of one second the queue
        // runs dry: 76,000 events a second at a quarter of the machine.
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.message.max.bytes", "4194304")
        .set("fetch.wait.max.ms", "10")
        .set("statistics.interval.ms", "2000");
    override_with(base, &mut client);
    client.set("group.id", group);
    client
}

/// Applies the operator's properties last, so that they take precedence.
fn override_with(base: &ClientConfig, client: &mut ClientConfig) {
    for (name, value) in base.config_map() {
        client.set(name, value);
    }
}
