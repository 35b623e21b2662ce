//! A fleet in a world: its keys, its records, and the oracle's judgement of what became of them.

use std::fs;

use pulsegate_loadtest::fleet::{Fleet, Made};
use pulsegate_loadtest::kafka::Producer;
use pulsegate_loadtest::oracle::{self, Keys, Rate, Report};
use pulsegate_loadtest::replay::series::Series;
use pulsegate_loadtest::replay::{self, Recording, Replayed, Resigner, Speed, Target};

use super::World;

impl World {
    /// Imports the fleet's keys.
    pub fn import(&self, fleet: &Fleet) {
        let file = self.directory.join("keys.jsonl");
        let lines: Vec<_> = fleet.import_lines().collect();
        fs::write(&file, lines.join("\n")).expect("written");
        self.done(&["device", "import", file.to_str().expect("a path in UTF-8")]);
    }

    /// Produces that many further events of the fleet.
    pub fn produce(&self, fleet: &mut Fleet, records: u64) -> Made {
        fleet
            .produce(&self.kafka(), records, &mut |_| {})
            .expect("produced")
    }

    /// Replays recordings into the raw topic, each as the fleet's next device. Recordings with relative times begin at
    /// `start_ms`.
    pub fn play(&self, fleet: &Fleet, recordings: Vec<Series>, start_ms: i64) -> Replayed {
        let lines: Vec<_> = fleet.signing_lines().collect();
        let keys = Keys::read(lines.iter().map(String::as_str)).expect("the fleet's own lines");
        let parsed: Vec<_> = lines
            .iter()
            .map(|line| serde_json::from_str(line).expect("a line"))
            .collect();
        let audience = format!("local/{}", self.config.topics.raw);
        let mut resigner = Resigner::new(&parsed, keys, audience, 1);
        let recordings: Vec<_> = recordings
            .into_iter()
            .zip(fleet.keys())
            .map(|(series, key)| Recording {
                name: key.device.clone(),
                device: key.device.clone(),
                series,
            })
            .collect();
        let producer = Producer::new(&self.kafka(), &self.config.topics.raw, "none").expect("a producer");
        let mut target = Target::new(producer, Speed::Max, false);
        let mut replayed = Replayed::default();
        replay::recordings(&recordings, start_ms, &mut resigner, &mut target, &mut replayed)
            .expect("replayed");
        target.producer.finish().expect("delivered");
        replayed
    }

    /// The oracle's report on the topics.
    pub fn judge(&self, fleet: &Fleet) -> Report {
        self.judge_with(fleet, |_| {})
    }

    /// As [`World::judge`], with a changed configuration of the oracle.
    pub fn judge_with(&self, fleet: &Fleet, configure: impl FnOnce(&mut oracle::Config)) -> Report {
        let mut config = oracle::Config::new(self.kafka());
        let topics = &self.config.topics;
        config.topics = oracle::Topics {
            raw: topics.raw.clone(),
            clean: topics.clean.clone(),
            deadletter: topics.deadletter.clone(),
            ledger: topics.ledger.clone(),
        };
        config.planted = fleet.planted();
        configure(&mut config);
        let lines: Vec<_> = fleet.import_lines().collect();
        let keys = oracle::Keys::read(lines.iter().map(String::as_str)).expect("the fleet's own lines");
        oracle::verify(&config, &keys, &mut |_| {}).expect("the oracle can read the topics")
    }

    /// Fails unless the oracle finds no problem; returns its report.
    pub fn judged_good(&self, fleet: &Fleet) -> Report {
        good(self.judge(fleet))
    }

    /// As [`World::judged_good`], for settings that [limit](limited_to) every device to a rate.
    pub fn judged_good_at(&self, fleet: &Fleet, rate: Rate) -> Report {
        good(self.judge_with(fleet, |config| config.rules.rate = Some(rate)))
    }
}

fn good(report: Report) -> Report {
    assert!(report.is_good(), "{}\n{:#?}", report.table(), report.problems);
    assert!(report.total.is_conserved());
    report
}

/// A rate that a fast fleet exceeds: some of its good records are limited, and the oracle says which.
pub const LOW_RATE: Rate = Rate {
    events_per_minute: 600,
    burst: 30,
};

/// Settings that limit every device to a rate.
pub fn limited_to(rate: Rate) -> String {
    let Rate {
        events_per_minute,
        burst,
    } = rate;
    format!("gate.admit.rate.events_per_minute = {events_per_minute}\ngate.admit.rate.burst = {burst}\n")
}
