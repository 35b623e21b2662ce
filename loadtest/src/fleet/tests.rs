//! Tests of the fleet, without Kafka.

use std::collections::HashSet;

use super::*;
use crate::record::{JWS_SIGNATURE, WEBHOOK_SIGNATURE};

const NOW_MS: i64 = 1_800_000_000_000;

fn drafts(options: Options, records: u64) -> Vec<Draft> {
    let mut fleet = Fleet::new(options);
    fleet.schedule(records, NOW_MS);
    let mut draft = Draft::default();
    let mut next = || {
        fleet
            .next(NOW_MS, &mut draft)
            .expect("events of a fleet can be written");
        draft.clone()
    };
    (0..records).map(|_| next()).collect()
}

fn seeded(boot: u64) -> Options {
    Options {
        boot,
        ..Options::new(7)
    }
}

#[test]
fn the_same_seed_and_boot_give_the_same_records_and_another_boot_gives_others() {
    let hostile = |boot| {
        drafts(
            Options {
                hostile: Hostile::some(),
                ..seeded(boot)
            },
            2000,
        )
    };
    let (first, again, later) = (hostile(1), hostile(1), hostile(2));
    assert!(
        first
            .iter()
            .zip(&again)
            .all(|(a, b)| a.record == b.record && a.expected == b.expected)
    );
    let ids = |drafts: &[Draft]| {
        drafts
            .iter()
            .filter_map(|d| d.record.value.clone())
            .collect::<HashSet<_>>()
    };
    assert!(
        ids(&first)
            .iter()
            .filter(|value| value.len() > 100)
            .all(|value| !ids(&later).contains(value))
    );
    let keys = |boot| Fleet::new(seeded(boot)).import_lines().collect::<Vec<_>>();
    assert_eq!(keys(1), keys(2));
}

#[test]
fn every_kind_of_misdeed_occurs_and_good_records_are_json_of_the_promised_size() {
    let hostile = Hostile {
        forged: 0.1,
        stale: 0.1,
        malformed: 0.2,
        flooding: 0.3,
        oversized_bytes: 70_000,
        ..Hostile::some()
    };
    let made = drafts(Options { hostile, ..seeded(1) }, 20_000);
    let kinds: HashSet<Kind> = made.iter().map(|draft| draft.kind).collect();
    assert_eq!(kinds.len(), 24, "{kinds:?}");
    for draft in made.iter().filter(|draft| draft.kind == Kind::Good) {
        let value = draft.record.value.as_deref().unwrap_or_default();
        let event: serde_json::Value = serde_json::from_slice(value).expect("good records are JSON");
        assert_eq!(
            event["device_id"].as_str().map(str::as_bytes),
            draft.record.key.as_deref()
        );
        assert!((500..1100).contains(&value.len()), "{} bytes", value.len());
    }
    let compact = drafts(
        Options {
            shape: Shape::Compact,
            ..seeded(1)
        },
        1000,
    );
    let mean = compact
        .iter()
        .filter_map(|d| d.record.value.as_ref())
        .map(Vec::len)
        .sum::<usize>()
        / 1000;
    assert!(
        (265..=300).contains(&mean),
        "compact events have {mean} bytes on average"
    );
}

/// Events of regular and of flooding records.
fn events(made: &[Draft]) -> Vec<serde_json::Value> {
    let told = made
        .iter()
        .filter(|draft| matches!(draft.kind, Kind::Good | Kind::Flood));
    told.map(|draft| serde_json::from_slice(draft.record.value.as_deref().unwrap_or_default()).expect("JSON"))
        .collect()
}

fn time_ms(event: &serde_json::Value) -> i64 {
    let text = event["recorded_at"].as_str().expect("a time");
    text.parse::<jiff::Timestamp>().expect("a time").as_millisecond()
}

#[test]
fn the_last_event_is_about_now_and_no_clock_runs_ahead_however_much_is_flood() {
    for (records, flooding) in [(20_000, 0.3), (20_500, 0.06), (22_000, 0.06), (20_000, 0.0)] {
        let hostile = Hostile {
            flooding,
            ..Hostile::some()
        };
        let made = drafts(Options { hostile, ..seeded(1) }, records);
        let newest = events(&made).iter().map(time_ms).max().expect("some");
        let before_now_minutes = (NOW_MS - newest) / 60_000;
        assert!(
            (-2..10).contains(&before_now_minutes),
            "{records} records, {flooding}: {before_now_minutes} min before"
        );
    }
}

#[test]
fn a_rollout_changes_firmware_and_heart_rate_of_half_a_model_at_its_time() {
    let (rollout_ms, devices) = (NOW_MS - 100 * 60_000, 100);
    let options = |rollout_ms| Options {
        rollout_ms,
        devices,
        ..seeded(1)
    };
    let made = |rollout_ms| events(&drafts(options(rollout_ms), 20_000));
    let (with, without) = (made(Some(rollout_ms)), made(None));
    let mut changed = HashSet::new();
    for (with, without) in with.iter().zip(&without) {
        if with["firmware"] != without["firmware"] {
            assert!(time_ms(with) >= rollout_ms);
            changed.insert((with["device_id"].to_string(), with["model"].to_string()));
        }
    }
    let models: HashSet<_> = changed.iter().map(|(_, model)| model).collect();
    assert!(
        (10..=25).contains(&changed.len()) && models.len() == 1,
        "{changed:?}"
    );
    let heart = |event: &serde_json::Value| event["readings"][0]["value"].as_f64().expect("a number");
    let of_changed = with
        .iter()
        .zip(&without)
        .filter(|(with, without)| with["firmware"] != without["firmware"]);
    let rises: HashSet<_> = of_changed
        .map(|(with, without)| (heart(with) - heart(without)) as i64)
        .collect();
    assert_eq!(rises, HashSet::from([5]));
}

#[test]
fn profiles_decide_the_headers_and_nothing_planted_is_missing_from_raw() {
    for profile in [Profile::JwsHs256, Profile::JwsEd25519, Profile::Webhook] {
        let options = Options {
            profiles: Profiles::only(profile),
            devices: 3,
            ..seeded(1)
        };
        for draft in drafts(options, 30) {
            assert_eq!(
                draft.record.header(JWS_SIGNATURE).is_some(),
                profile != Profile::Webhook
            );
            assert_eq!(
                draft.record.header(WEBHOOK_SIGNATURE).is_some(),
                profile == Profile::Webhook
            );
        }
    }
    let planted = Fleet::new(seeded(1)).planted();
    let raw: Vec<_> = drafts(seeded(1), 200)
        .into_iter()
        .filter_map(|draft| draft.record.value)
        .collect();
    let raw = String::from_utf8(raw.concat()).expect("JSON is UTF-8");
    assert!(planted.iter().all(|phi| raw.contains(phi.as_str())));
}

#[test]
fn avro_in_both_framings_reads_back_with_the_schema() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas/biometric_event.avsc");
    let text = std::fs::read_to_string(path).expect("the schema is in the repository");
    let schema = std::sync::Arc::new(apache_avro::Schema::parse_str(&text).expect("the schema is Avro"));
    let confluent = Format::AvroConfluent {
        schema: schema.clone(),
        id: 258,
    };
    let single = Format::AvroSingleObject {
        schema: schema.clone(),
    };
    for (format, header) in [
        (confluent, &[0_u8, 0, 0, 1, 2][..]),
        (single, &[0xC3_u8, 0x01][..]),
    ] {
        for draft in drafts(Options { format, ..seeded(1) }, 200) {
            let value = draft.record.value.unwrap_or_default();
            assert!(value.starts_with(header));
            let mut datum = &value[if header.len() == 5 { 5 } else { 10 }..];
            let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build();
            let read = reader
                .and_then(|reader| reader.read_value(&mut datum))
                .expect("reads back");
            assert!(datum.is_empty() && matches!(read, apache_avro::types::Value::Record(_)));
        }
    }
}
