//! A simulated gate: it knows from the generator what each raw record deserves, and writes clean, deadletter and ledger
//! accordingly, or with one defect.

use std::collections::BTreeMap;

use pulsegate_loadtest::fleet::{Draft, Fleet};
use pulsegate_loadtest::kafka::{Kafka, Producer, read_all, watermarks};
use pulsegate_loadtest::oracle::Topics;
use pulsegate_loadtest::outcome::Outcome;
use pulsegate_loadtest::record::{Header, Record};
use sha2::{Digest, Sha256};

use crate::topics::PARTITIONS;

/// Number of raw records per ledger record.
const TRANSACTION: usize = 40;

/// A raw record and the outcome it deserves.
#[derive(Clone)]
pub struct Raw {
    offset: i64,
    appended_ms: i64,
    value: Vec<u8>,
    key: Option<Vec<u8>>,
    pub outcome: Outcome,
}

/// The one defect. Each concerns lane 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    Nothing,
    DropClean,
    DoubleClean,
    AlienClean,
    SwapClean,
    NakedClean,
    PassRepeat,
    PassForged,
    DropDead,
    DoubleDead,
    AlienDead,
    WrongReason,
    WrongStage,
    WrongReceived,
    WrongRoot,
    WrongCount,
    WrongTime,
    BreakHash,
    SkipSequence,
    LeaveGap,
    ForgetTail,
    AddSpace,
}

impl Sabotage {
    pub const ALL: [Self; 21] = [
        Self::DropClean,
        Self::DoubleClean,
        Self::AlienClean,
        Self::SwapClean,
        Self::NakedClean,
        Self::PassRepeat,
        Self::PassForged,
        Self::DropDead,
        Self::DoubleDead,
        Self::AlienDead,
        Self::WrongReason,
        Self::WrongStage,
        Self::WrongReceived,
        Self::WrongRoot,
        Self::WrongCount,
        Self::WrongTime,
        Self::BreakHash,
        Self::SkipSequence,
        Self::LeaveGap,
        Self::ForgetTail,
        Self::AddSpace,
    ];
}

/// Produces that many records of the fleet to the raw topic and reads them back, by partition.
pub fn produce(kafka: &Kafka, topics: &Topics, fleet: &mut Fleet, records: u64) -> Vec<Vec<Raw>> {
    let before = watermarks(kafka, &topics.raw).expect("watermarks");
    let mut producer = Producer::new(kafka, &topics.raw, "none").expect("a producer");
    let mut expected = vec![Vec::new(); PARTITIONS as usize];
    let mut draft = Draft::default();
    for _ in 0..records {
        fleet
            .next(jiff::Timestamp::now().as_millisecond(), &mut draft)
            .expect("a record");
        let partition = draft.partition(PARTITIONS);
        producer.send(&draft.record, partition);
        let mut outcomes = draft.expected.iter();
        expected[partition as usize].push(outcomes.next().expect("an outcome"));
        assert_eq!(
            outcomes.next(),
            None,
            "these tests need records with a single expected outcome"
        );
    }
    producer.finish().expect("all delivered");
    let mut lanes = vec![Vec::new(); PARTITIONS as usize];
    let mut ranges = watermarks(kafka, &topics.raw).expect("watermarks");
    ranges
        .iter_mut()
        .zip(&before)
        .for_each(|(range, before)| range.first = before.next);
    read_all(kafka, &topics.raw, &ranges, |message| {
        use rdkafka::Message;
        let lane: &mut Vec<Raw> = &mut lanes[message.partition() as usize];
        let outcome = expected[message.partition() as usize][lane.len()];
        lane.push(Raw {
            offset: message.offset(),
            appended_ms: message.timestamp().to_millis().expect("a time"),
            value: message.payload().unwrap_or_default().to_vec(),
            key: message.key().map(<[u8]>::to_vec),
            outcome,
        });
        Ok(())
    })
    .expect("reads back");
    lanes
}

/// Makes the lanes that `produce` would read back, without Kafka: every record is signed and appended at `now_ms`.
pub fn draft(fleet: &mut Fleet, records: u64, now_ms: i64) -> Vec<Vec<Raw>> {
    let mut lanes = vec![Vec::new(); PARTITIONS as usize];
    let mut draft = Draft::default();
    for _ in 0..records {
        fleet.next(now_ms, &mut draft).expect("a record");
        let lane: &mut Vec<Raw> = &mut lanes[draft.partition(PARTITIONS) as usize];
        lane.push(Raw {
            offset: lane.len() as i64,
            appended_ms: now_ms,
            value: draft.record.value.clone().unwrap_or_default(),
            key: draft.record.key.clone(),
            outcome: draft.expected.iter().next().expect("an outcome"),
        });
    }
    lanes
}

/// Writes what a gate would write.
pub fn run(kafka: &Kafka, topics: &Topics, lanes: &[Vec<Raw>], sabotage: Sabotage) {
    let producer = |topic: &str| Producer::new(kafka, topic, "none").expect("a producer");
    let (mut clean, mut dead, mut ledger) = (
        producer(&topics.clean),
        producer(&topics.deadletter),
        producer(&topics.ledger),
    );
    for (partition, [cleans, deads, entries]) in (0..).zip(outputs(topics, lanes, sabotage)) {
        cleans.iter().for_each(|record| clean.send(record, partition));
        deads.iter().for_each(|record| dead.send(record, partition));
        entries.iter().for_each(|record| ledger.send(record, partition));
    }
    for producer in [clean, dead, ledger] {
        producer.finish().expect("all delivered");
    }
}

/// The clean, deadletter and ledger records of each lane.
pub fn outputs(topics: &Topics, lanes: &[Vec<Raw>], sabotage: Sabotage) -> Vec<[Vec<Record>; 3]> {
    let mut outputs = Vec::new();
    for (partition, lane) in lanes.iter().enumerate() {
        let here = |what| partition == 1 && sabotage == what;
        let partition = partition as i32;
        let mut lane = lane.clone();
        // A repeat or a forged record that passes, as with a gate that does not check.
        let passed = [
            (Sabotage::PassRepeat, Outcome::Duplicate),
            (Sabotage::PassForged, Outcome::BadSignature),
        ];
        for (_, from) in passed.into_iter().filter(|(what, _)| here(*what)) {
            lane.iter_mut()
                // Tampering may damage the JSON or its `event_id`, which would show in more ways than one.
                .find(|raw| raw.outcome == from && has_event_id(&raw.value))
                .expect("there is one")
                .outcome = Outcome::Clean;
        }
        let admitted: Vec<_> = lane.iter().filter(|raw| raw.outcome == Outcome::Clean).collect();
        let mut cleans: Vec<_> = admitted.iter().copied().map(clean_record).collect();
        // Two neighbours without repeats: a defect in a repeated record causes a second problem.
        let once = |raw: &Raw| lane.iter().filter(|other| other.value == raw.value).count() == 1;
        let at = || {
            let pair = admitted
                .windows(2)
                .position(|pair| pair.iter().all(|raw| once(raw)));
            pair.expect("most are not replayed")
        };
        match sabotage {
            _ if partition != 1 => {}
            Sabotage::DropClean => drop(cleans.remove(at())),
            Sabotage::DoubleClean => cleans.insert(at() + 4, cleans[at()].clone()),
            Sabotage::SwapClean => cleans.swap(at(), at() + 1),
            Sabotage::AlienClean => {
                let value = br#"{"event_id":"00000000-0000-4000-8000-000000000000"}"#.to_vec();
                let alien = Record {
                    value: Some(value),
                    ..cleans[at()].clone()
                };
                cleans.insert(at(), alien);
            }
            // Only the value of an accepted event is certain to contain PHI; a rejected one may even be empty.
            Sabotage::NakedClean => cleans[at()]
                .value
                .get_or_insert_default()
                .extend(admitted[at()].value.iter()),
            _ => {}
        }
        let deads = deadletters(topics, partition, &lane, &here);
        let entries = ledger_records(topics, partition, &lane, &here);
        outputs.push([cleans, deads, entries]);
    }
    outputs
}

/// Whether a value is JSON with a readable event id, as every clean record's must be.
pub fn has_event_id(value: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(value).is_ok_and(|event| event["event_id"].is_string())
}

fn clean_record(raw: &Raw) -> Record {
    // The simulated sealing keeps only the event id.
    let event: serde_json::Value = serde_json::from_slice(&raw.value).unwrap_or_default();
    let value = serde_json::json!({ "event_id": event["event_id"], "subject": { "name": "c2VhbGVk" } });
    Record {
        key: Some(b"token".to_vec()),
        value: Some(value.to_string().into_bytes()),
        headers: Vec::new(),
    }
}

fn deadletters(
    topics: &Topics,
    partition: i32,
    lane: &[Raw],
    here: &impl Fn(Sabotage) -> bool,
) -> Vec<Record> {
    let mut records = Vec::new();
    for raw in lane.iter().filter(|raw| raw.outcome.is_rejection()) {
        let first = records.is_empty();
        let reason = match raw.outcome {
            _ if first && here(Sabotage::WrongReason) && raw.outcome == Outcome::TooLarge => Outcome::Stale,
            _ if first && here(Sabotage::WrongReason) => Outcome::TooLarge,
            outcome => outcome,
        };
        let stage = if first && here(Sabotage::WrongStage) {
            "nowhere"
        } else {
            reason.stage().expect("a stage")
        };
        let received = raw.appended_ms + i64::from(first && here(Sabotage::WrongReceived));
        let offset = raw.offset
            + if first && here(Sabotage::AlienDead) {
                1_000_000_000
            } else {
                0
            };
        let headers = vec![
            Header::new(b"pg-reason", reason.as_str()),
            Header::new(b"pg-stage", stage),
            Header::new(b"pg-origin", format!("{}/{partition}/{offset}", topics.raw)),
            Header::new(b"pg-received", received.to_string()),
        ];
        records.push(Record {
            key: raw.key.clone(),
            value: Some(b"sealed".to_vec()),
            headers,
        });
    }
    if here(Sabotage::DropDead) {
        records.remove(1);
    }
    if here(Sabotage::DoubleDead) {
        records.push(records[1].clone());
    }
    records
}

fn ledger_records(
    topics: &Topics,
    partition: i32,
    lane: &[Raw],
    here: &impl Fn(Sabotage) -> bool,
) -> Vec<Record> {
    let name = format!("{}/{partition}", topics.raw);
    let mut prev = "0".repeat(64);
    let mut records = Vec::new();
    let transactions: Vec<&[Raw]> = lane.chunks(TRANSACTION).collect();
    for (seq, raws) in transactions.iter().enumerate() {
        let third = seq == 2;
        let (mut first, next) = (raws[0].offset, raws[raws.len() - 1].offset + 1);
        let mut counts = BTreeMap::<&str, u64>::new();
        raws.iter()
            .for_each(|raw| *counts.entry(raw.outcome.as_str()).or_default() += 1);
        let mut count = raws.len();
        let mut root = root(raws);
        let mut t_first = raws.iter().map(|raw| raw.appended_ms).min().expect("not empty");
        let t_last = raws.iter().map(|raw| raw.appended_ms).max().expect("not empty");
        let mut seq = seq;
        match () {
            () if third && here(Sabotage::WrongRoot) => {
                root.replace_range(0..1, if root.starts_with('0') { "1" } else { "0" })
            }
            () if third && here(Sabotage::WrongCount) => {
                count += 1;
                *counts.entry("clean").or_default() += 1;
            }
            () if third && here(Sabotage::WrongTime) => t_first -= 1,
            () if third && here(Sabotage::BreakHash) => prev = "ab".repeat(32),
            () if third && here(Sabotage::LeaveGap) => first += 1,
            () if seq >= 2 && here(Sabotage::SkipSequence) => seq += 1,
            () if seq + 1 == transactions.len() && here(Sabotage::ForgetTail) => break,
            () => {}
        }
        let outcomes = serde_json::to_string(&counts).expect("a map");
        let mut value = format!(
            "{{\"v\":1,\"lane\":\"{name}\",\"seq\":{seq},\"prev\":\"{prev}\",\"first\":{first},\"next\":{next},\
             \"records\":{count},\"outcomes\":{outcomes},\"root\":\"{root}\",\"worker\":\"gate-a-0\",\"epoch\":0,\
             \"schema_rev\":\"00112233aabbccdd\",\"key_rev\":12,\"t_first\":{t_first},\"t_last\":{t_last}}}"
        );
        if third && here(Sabotage::AddSpace) {
            value.insert(1, ' ');
        }
        prev = hex(&Sha256::digest(value.as_bytes()));
        let key = Some(name.clone().into_bytes());
        records.push(Record {
            key,
            value: Some(value.into_bytes()),
            headers: Vec::new(),
        });
    }
    records
}

/// RFC 6962 root computed with a stack of complete subtrees, unlike the oracle's recursion.
fn root(raws: &[Raw]) -> String {
    let mut stack: Vec<(usize, [u8; 32])> = Vec::new();
    let join = |left: [u8; 32], right: [u8; 32]| -> [u8; 32] {
        Sha256::new()
            .chain_update([1])
            .chain_update(left)
            .chain_update(right)
            .finalize()
            .into()
    };
    for raw in raws {
        let leaf = Sha256::new()
            .chain_update([0])
            .chain_update((raw.offset as u64).to_be_bytes())
            .chain_update(raw.outcome.as_str())
            .chain_update(Sha256::digest(&raw.value));
        let mut node: (usize, [u8; 32]) = (1, leaf.finalize().into());
        while let Some((_, left)) = stack.pop_if(|(size, _)| *size == node.0) {
            node = (node.0 * 2, join(left, node.1));
        }
        stack.push(node);
    }
    let last = stack.pop().expect("not empty").1;
    hex(&stack
        .into_iter()
        .rev()
        .fold(last, |right, (_, left)| join(left, right)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
