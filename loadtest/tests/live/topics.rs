//! Topics with unique names, deleted at the end of a test.

use std::time::Duration;

use pulsegate_loadtest::kafka::Kafka;
use pulsegate_loadtest::oracle::Topics;
use pulsegate_testkit::stack;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

/// Number of partitions of every test topic.
pub const PARTITIONS: i32 = 3;

/// The cluster of the stack.
pub fn kafka() -> Kafka {
    Kafka::at(stack::brokers())
}

/// Topics that are deleted when this is dropped.
pub struct Owned {
    admin: AdminClient<DefaultClientContext>,
    names: Vec<String>,
}

impl Owned {
    /// Owns no topic yet.
    pub fn at(kafka: &Kafka) -> Self {
        let admin = ClientConfig::new()
            .set("bootstrap.servers", &kafka.brokers)
            .create()
            .expect("an admin client");
        Self {
            admin,
            names: Vec::new(),
        }
    }

    /// Creates the four topics of a gate under a unique name.
    pub fn gate(&mut self, prefix: &str) -> Topics {
        let topics = Topics::prefixed(&unique(prefix));
        self.create(&topics.raw);
        self.outputs(topics)
    }

    /// The same raw topic with three other output topics.
    pub fn outputs(&mut self, topics: Topics) -> Topics {
        [&topics.clean, &topics.deadletter, &topics.ledger]
            .into_iter()
            .for_each(|topic| self.create(topic));
        topics
    }

    /// Creates a topic with `LogAppendTime`.
    pub fn create(&mut self, name: &str) {
        let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime")
            .set("max.message.bytes", "4000000");
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let created = block_on(self.admin.create_topics([&topic], &options)).expect("the broker answers");
        created
            .into_iter()
            .for_each(|topic| assert!(topic.is_ok(), "{topic:?}"));
        self.names.push(name.to_owned());
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        // A topic that is left behind only costs disk space.
        let _ = block_on(self.admin.delete_topics(&names, &AdminOptions::new()));
    }
}

/// A name that no other test and no other run uses.
pub fn unique(prefix: &str) -> String {
    format!("loadtest-{prefix}-{}", uuid::Uuid::new_v4().simple())
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(future)
}
