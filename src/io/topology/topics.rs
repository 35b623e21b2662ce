//! Kafka topics: created with their settings, compared, and altered where only settings differ.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaResult;
use rdkafka::types::RDKafkaErrorCode;
use serde::Deserialize;

use super::{Config, Fault, Item, Kind, Settings};
use crate::io::kafka::Topics as Names;

type Admin = Arc<AdminClient<DefaultClientContext>>;

const DECLARED: &str = include_str!("../../../topology/topics.toml");

/// How long to wait until the queried broker shows a change that the controller accepted.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    defaults: Defaults,
    topics: BTreeMap<String, Declared>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    partitions: u32,
    replication_factor: u32,
    settings: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    settings: BTreeMap<String, String>,
}

/// A declared topic.
#[derive(Debug)]
struct Topic {
    name: String,
    partitions: u32,
    replication_factor: u32,
    settings: BTreeMap<String, String>,
}

/// A live topic.
struct Live {
    partitions: u32,
    replication_factor: u32,
    /// Effective value of every setting.
    settings: BTreeMap<String, String>,
    /// Settings made for this topic, without those inherited from the broker.
    own: BTreeMap<String, String>,
}

/// The declared topics with the configuration's names, counts and replicas.
fn declared(names: &Names, config: &Config) -> Result<Vec<Topic>, Fault> {
    let document: Document =
        toml::from_str(DECLARED).map_err(|error| Fault::Invalid(format!("topology/topics.toml: {error}")))?;
    let defaults = document.defaults;
    let partitions = config.partitions.unwrap_or(defaults.partitions);
    let replication_factor = config.replication_factor.unwrap_or(defaults.replication_factor);
    let mut topics = Vec::new();
    for (key, topic) in document.topics {
        let mut settings = defaults.settings.clone();
        settings.extend(topic.settings);
        // Two of three replicas: one may be down, and an acknowledged record is still on two.
        let insync = if replication_factor >= 3 { 2 } else { 1 };
        settings.insert("min.insync.replicas".to_owned(), insync.to_string());
        let name = match key.as_str() {
            "raw" => &names.raw,
            "clean" => &names.clean,
            "deadletter" => &names.deadletter,
            "ledger" => &names.ledger,
            "findings" => &names.findings,
            _ => {
                return Err(Fault::Invalid(format!(
                    "topology/topics.toml: unknown topic {key}"
                )));
            }
        };
        let name = name.clone();
        topics.push(Topic {
            name,
            partitions,
            replication_factor,
            settings,
        });
    }
    Ok(topics)
}

/// Creates missing topics and alters settings that differ. Partition counts stay: a change would move a device's home.
pub(super) async fn apply(settings: &Settings, changes: &mut Vec<String>) -> Result<(), Fault> {
    let topics = declared(&settings.topics, &settings.topology)?;
    let admin = connect(settings)?;
    let before = changes.len();
    let mut live = read(&admin, settings).await?;
    for topic in &topics {
        match live.remove(&topic.name) {
            None => create(&admin, settings, topic, changes).await?,
            Some(live) => alter(&admin, settings, topic, &live, changes).await?,
        }
    }
    if changes.len() > before {
        settle(&admin, settings, &topics).await?;
    }
    Ok(())
}

/// Compares the live topics with the declared ones.
pub(super) async fn inspect(settings: &Settings) -> Result<Vec<Item>, Fault> {
    let topics = declared(&settings.topics, &settings.topology)?;
    let mut live = read(&connect(settings)?, settings).await?;
    Ok(topics
        .iter()
        .flat_map(|topic| items(topic, live.remove(&topic.name).as_ref()))
        .collect())
}

fn items(topic: &Topic, live: Option<&Live>) -> Vec<Item> {
    let item = |aspect: &str, declared: String, live: Option<String>| Item {
        kind: Kind::Topic,
        name: topic.name.clone(),
        aspect: aspect.to_owned(),
        declared: Some(declared),
        live,
    };
    let counts = [
        item(
            "partitions",
            topic.partitions.to_string(),
            live.map(|live| live.partitions.to_string()),
        ),
        item(
            "replication factor",
            topic.replication_factor.to_string(),
            live.map(|live| live.replication_factor.to_string()),
        ),
    ];
    let settings = topic.settings.iter().map(|(name, value)| {
        item(
            name,
            value.clone(),
            live.and_then(|live| live.settings.get(name)).cloned(),
        )
    });
    counts.into_iter().chain(settings).collect()
}

async fn create(
    admin: &Admin,
    settings: &Settings,
    topic: &Topic,
    changes: &mut Vec<String>,
) -> Result<(), Fault> {
    let (Ok(partitions), Ok(replicas)) = (
        i32::try_from(topic.partitions),
        i32::try_from(topic.replication_factor),
    ) else {
        return Err(Fault::Invalid(
            "topology.partitions and topology.replication_factor are too large".to_owned(),
        ));
    };
    let mut new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(replicas));
    for (name, value) in &topic.settings {
        new = new.set(name, value);
    }
    let action = format!("creating topic {}", topic.name);
    let results = admin
        .create_topics([&new], &options(settings))
        .await
        .map_err(|error| Fault::kafka(&action, &error))?;
    for result in results {
        match result {
            Ok(_) => changes.push(format!(
                "created topic {} with {} partitions",
                topic.name, topic.partitions
            )),
            // A concurrent apply has created it.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => {
                return Err(Fault::Refused {
                    action,
                    reason: code.to_string(),
                });
            }
        }
    }
    Ok(())
}

/// Alters settings. librdkafka's call replaces all of a topic's own settings, so undeclared ones are sent along.
async fn alter(
    admin: &Admin,
    settings: &Settings,
    topic: &Topic,
    live: &Live,
    changes: &mut Vec<String>,
) -> Result<(), Fault> {
    let differing: Vec<_> = topic
        .settings
        .iter()
        .filter(|(name, value)| live.settings.get(*name) != Some(*value))
        .collect();
    if differing.is_empty() {
        return Ok(());
    }
    let mut wanted = live.own.clone();
    wanted.extend(topic.settings.clone());
    let mut alteration = AlterConfig::new(ResourceSpecifier::Topic(&topic.name));
    for (name, value) in &wanted {
        alteration = alteration.set(name, value);
    }
    let action = format!("altering topic {}", topic.name);
    let results = admin
        .alter_configs([&alteration], &options(settings))
        .await
        .map_err(|error| Fault::kafka(&action, &error))?;
    if let Some((_, code)) = results.into_iter().find_map(Result::err) {
        return Err(Fault::Refused {
            action,
            reason: code.to_string(),
        });
    }
    changes.extend(
        differing
            .iter()
            .map(|(name, value)| format!("set {name} = {value} on topic {}", topic.name)),
    );
    Ok(())
}

/// Waits until the queried broker shows what the controller accepted.
async fn settle(admin: &Admin, settings: &Settings, topics: &[Topic]) -> Result<(), Fault> {
    let pause = Duration::from_millis(50);
    let times = usize::try_from(SETTLE_TIME_MAX.as_millis() / pause.as_millis()).unwrap_or(200);
    let settled = || async {
        let live = read(admin, settings).await?;
        let seen = |topic: &Topic| {
            items(topic, live.get(&topic.name))
                .iter()
                .skip(2)
                .all(Item::agrees)
                && live.contains_key(&topic.name)
        };
        Ok::<bool, Fault>(topics.iter().all(seen))
    };
    let attempt = || async {
        if settled().await? {
            Ok(())
        } else {
            Err(Fault::Invalid(String::new()))
        }
    };
    match attempt
        .retry(ConstantBuilder::default().with_delay(pause).with_max_times(times))
        .await
    {
        // Not settled in time: the report will show the differences.
        Ok(()) | Err(Fault::Invalid(_)) => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// Reads the declared topics that exist in the cluster.
async fn read(admin: &Admin, settings: &Settings) -> Result<BTreeMap<String, Live>, Fault> {
    let names: Vec<String> = declared(&settings.topics, &settings.topology)?
        .into_iter()
        .map(|topic| topic.name)
        .collect();
    let timeout = Duration::from_millis(settings.topology.request_time_max_ms);
    // Asking for one topic by name may create it, where a broker allows that; asking for all never does.
    let asked = Arc::clone(admin);
    let metadata = tokio::task::spawn_blocking(move || asked.inner().fetch_metadata(None, timeout))
        .await
        .map_err(|error| {
            Fault::Invalid(format!(
                "the thread that reads Kafka's metadata ended early: {error}"
            ))
        })?
        .map_err(|error| Fault::kafka("reading the cluster's metadata", &error))?;
    let mut live = BTreeMap::new();
    for topic in metadata
        .topics()
        .iter()
        .filter(|topic| names.iter().any(|name| name == topic.name()))
    {
        let replicas = topic
            .partitions()
            .iter()
            .map(|partition| partition.replicas().len())
            .min()
            .unwrap_or(0);
        live.insert(
            topic.name().to_owned(),
            Live {
                partitions: u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX),
                replication_factor: u32::try_from(replicas).unwrap_or(u32::MAX),
                settings: BTreeMap::new(),
                own: BTreeMap::new(),
            },
        );
    }
    if live.is_empty() {
        return Ok(live);
    }
    let found: Vec<String> = live.keys().cloned().collect();
    let specifiers: Vec<_> = found.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let described = admin
        .describe_configs(&specifiers, &options(settings))
        .await
        .map_err(|error| Fault::kafka("reading the topics' settings", &error))?;
    for resource in described {
        let resource = resource.map_err(|code| Fault::Refused {
            action: "reading the topics' settings".to_owned(),
            reason: code.to_string(),
        })?;
        take_settings(resource, &mut live);
    }
    Ok(live)
}

fn take_settings(resource: ConfigResource, live: &mut BTreeMap<String, Live>) {
    let OwnedResourceSpecifier::Topic(name) = &resource.specifier else {
        return;
    };
    let Some(topic) = live.get_mut(name) else { return };
    for entry in resource.entries {
        let value = entry.value.unwrap_or_default();
        if entry.source == ConfigSource::DynamicTopic {
            topic.own.insert(entry.name.clone(), value.clone());
        }
        topic.settings.insert(entry.name, value);
    }
}

fn connect(settings: &Settings) -> Result<Admin, Fault> {
    let client: KafkaResult<AdminClient<DefaultClientContext>> = settings.kafka.client().create();
    client
        .map(Arc::new)
        .map_err(|error| Fault::kafka("creating a Kafka client", &error))
}

fn options(settings: &Settings) -> AdminOptions {
    let timeout = Duration::from_millis(settings.topology.request_time_max_ms);
    AdminOptions::new()
        .request_timeout(Some(timeout))
        .operation_timeout(Some(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_the_contracts_five_topics() {
        let topics = declared(&Names::default(), &Config::default()).expect("the embedded file is right");
        let names: Vec<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "biometrics.clean",
                "biometrics.deadletter",
                "biometrics.findings",
                "biometrics.ledger",
                "biometrics.raw"
            ]
        );
        let raw = topics
            .iter()
            .find(|topic| topic.name == "biometrics.raw")
            .expect("declared");
        assert_eq!(raw.settings["message.timestamp.type"], "LogAppendTime");
        assert!(
            raw.settings["max.message.bytes"]
                .parse::<u64>()
                .expect("a number")
                > 10 * 1024 * 1024
        );
        assert!(
            topics.iter().all(|topic| topic.partitions == 8),
            "a record keeps its partition number"
        );
    }

    #[test]
    fn a_missing_topic_differs_in_everything() {
        let topics = declared(&Names::default(), &Config::default()).expect("the embedded file is right");
        assert!(
            topics
                .iter()
                .flat_map(|topic| items(topic, None))
                .all(|item| !item.agrees())
        );
    }
}
