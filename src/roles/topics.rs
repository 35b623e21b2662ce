//! Checks of the topics before the gate or the watch starts.

use std::num::NonZeroU32;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;

use crate::config::Config;
use crate::roles::Failure;

/// Timeout of one request to the broker.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// The topic setting that every time-based decision relies on, and its required value.
const TIMESTAMPS: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

/// Returns the raw topic's number of partitions after checking that all topics exist and have that number, and that raw
/// timestamps are the broker's.
///
/// # Errors
///
/// `Unreachable` when no broker answers, `Wrong` when a topic is missing or misconfigured.
pub async fn check(config: &Config) -> Result<NonZeroU32, Failure> {
    let client = config.kafka.client();
    let topics = [
        &config.topics.raw,
        &config.topics.clean,
        &config.topics.deadletter,
        &config.topics.ledger,
    ];
    let names = topics.map(String::clone);
    let counts = tokio::task::spawn_blocking(move || {
        let consumer = BaseConsumer::from_config(&client)?;
        names
            .iter()
            .map(|name| partitions(&consumer, name))
            .collect::<Result<Vec<_>, _>>()
    });
    let counts = counts
        .await
        .map_err(|error| Failure::Wrong(error.to_string()))?
        .map_err(unreachable)?;
    let wanted = counts[0];
    for (name, &count) in topics.iter().zip(&counts) {
        if count == 0 {
            return Err(Failure::Wrong(format!(
                "the topic {name} does not exist: run `pulsegate topology apply`"
            )));
        }
        if count != wanted {
            let raw = &config.topics.raw;
            return Err(Failure::Wrong(format!(
                "the topic {name} has {count} partitions but {raw} has {wanted}: records keep their partition, so \
                 all four topics need the same number of partitions"
            )));
        }
    }
    check_timestamps(config).await?;
    NonZeroU32::new(wanted).ok_or_else(|| Failure::Wrong("the raw topic has no partitions".to_owned()))
}

/// The number of partitions of a topic; zero if it does not exist.
fn partitions(consumer: &BaseConsumer, name: &str) -> Result<u32, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(name), ASK_TIMEOUT)?;
    let topic = metadata
        .topics()
        .iter()
        .find(|topic| topic.name() == name && topic.error().is_none());
    Ok(topic.map_or(0, |topic| {
        u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX)
    }))
}

async fn check_timestamps(config: &Config) -> Result<(), Failure> {
    let admin: AdminClient<DefaultClientContext> =
        AdminClient::from_config(&config.kafka.client()).map_err(unreachable)?;
    let options = AdminOptions::new().request_timeout(Some(ASK_TIMEOUT));
    let raw = &config.topics.raw;
    let described = admin
        .describe_configs([&ResourceSpecifier::Topic(raw)], &options)
        .await
        .map_err(unreachable)?;
    let (name, wanted) = TIMESTAMPS;
    let value = |resource: ConfigResource| resource.get(name).and_then(|entry| entry.value.clone());
    let found = described.into_iter().flatten().find_map(value);
    if found.as_deref() == Some(wanted) {
        return Ok(());
    }
    Err(Failure::Wrong(format!(
        "the topic {raw} has {name}={}, but freshness, replay and rate decisions need {wanted}: run `pulsegate \
         topology apply`",
        found.as_deref().unwrap_or("unknown")
    )))
}

fn unreachable(error: KafkaError) -> Failure {
    Failure::Unreachable(format!("Kafka does not answer (kafka.brokers): {error}"))
}
