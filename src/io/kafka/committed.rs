//! The committed offsets of a consumer group.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

/// The offset that the group of `client` has committed in each of `partitions`, in their order; `None` where it has
/// committed none.
///
/// librdkafka reports success once each partition has an answer, which can be an error: for such a partition it gives
/// no offset, as for one without a committed offset.
///
/// # Errors
///
/// When no broker answers within `timeout`, or one cannot answer for a partition.
pub fn committed<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    partitions: TopicPartitionList,
    timeout: Duration,
) -> KafkaResult<Vec<(i32, Option<i64>)>> {
    let answer = client.committed_offsets(partitions, timeout)?;
    let elements = answer.elements().into_iter();
    elements
        .map(|element| {
            element.error()?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            Ok((element.partition(), offset))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::CommitMode;
    use rdkafka::mocking::MockCluster;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    #[test]
    fn an_error_for_a_partition_is_not_taken_for_no_committed_offset() {
        let cluster = MockCluster::new(1).expect("a cluster");
        cluster.create_topic("there", 2, 1).expect("created");
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "group")
            .create()
            .expect("a client");
        let mut one = TopicPartitionList::new();
        one.add_partition_offset("there", 1, Offset::Offset(7))
            .expect("an offset");
        client.commit(&one, CommitMode::Sync).expect("committed");

        let mut both = TopicPartitionList::new();
        both.add_partition_range("there", 0, 1);
        let known = committed(&client, both.clone(), TIMEOUT).expect("an answer");
        assert_eq!(known, [(0, None), (1, Some(7))]);
        // This partition does not exist, so the broker answers with an error.
        both.add_partition("there", 2);
        assert!(committed(&client, both, TIMEOUT).is_err());
    }
}
