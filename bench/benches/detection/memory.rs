//! The total memory of a series in a watch: keys, index, detector, quality, alerts, and its share of the device.
//! Measured with a million series of four metrics, over eight lanes.

use std::sync::Arc;

use pulsegate::config::Config;
use pulsegate::io::schemas::Schemas;
use pulsegate_detect::lane::{CleanRecord, Lane, Output, Rules};
use pulsegate_detect::quality::Metrics;
use serde_json::json;

const DEVICES: usize = 250_000;
const METRICS: [&str; 4] = ["heart_rate", "spo2", "body_temperature", "respiratory_rate"];
const LANES: i32 = 8;
const NOW_MS: i64 = 1_795_341_600_000;
/// Maximum number of bytes per series.
const WANTED: f64 = 600.0;

/// A report of the bytes per series, by the growth of the process and by the lanes' own count.
pub fn measure() -> String {
    let mut config = Config::default();
    config.event.directory = pulsegate_testkit::root().join("schemas");
    let schemas = Schemas::read(&config.event).expect("the project's schemas");
    let (decoder, rules) = (
        schemas.decoder(&config.event).expect("clean schemas"),
        rules(&config),
    );
    let before = resident_bytes();
    let mut lanes: Vec<_> = (0..LANES)
        .map(|partition| Lane::new(partition, Arc::clone(&rules)))
        .collect();
    let mut out = Output::default();
    for device in 0..DEVICES {
        let value = event(device);
        let record = CleanRecord {
            offset: device as i64,
            append_ms: NOW_MS,
            value: &value,
        };
        let lane = &mut lanes[device % LANES as usize];
        lane.observe(&record, &decoder, &mut out).expect("a local schema");
        out.clear();
    }
    let series: u32 = lanes.iter().map(Lane::series).sum();
    let counted: usize = lanes.iter().map(Lane::heap_bytes).sum();
    assert_eq!(series as usize, DEVICES * METRICS.len(), "no series was evicted");
    let of_each = |bytes: usize| bytes as f64 / f64::from(series);
    format!(
        "{series} series of {DEVICES} devices in {LANES} lanes: {:.0} bytes per series resident, {:.0} counted (goal: \
         at most {WANTED:.0})",
        of_each(resident_bytes().saturating_sub(before)),
        of_each(counted)
    )
}

fn rules(config: &Config) -> Arc<Rules> {
    Arc::new(Rules {
        lane: config.watch.lane.clone(),
        quality: config.watch.quality.clone(),
        alert: config.watch.alert.clone(),
        metrics: Metrics::parse(include_str!("../../../schemas/metrics.toml")).expect("the project's table"),
    })
}

fn event(device: usize) -> Vec<u8> {
    let token = format!("{device:-<22}");
    let readings = METRICS.map(|metric| json!({"metric": metric, "value": 60.0}));
    let at = jiff::Timestamp::from_millisecond(NOW_MS)
        .expect("a time")
        .to_string();
    let event = json!({"event_id": "6f2f9f4e-6a52-4c39-8f53-1d7b61a6c001", "device_id": token, "subject": {"id": token},
        "recorded_at": at, "firmware": "1", "model": "band", "readings": readings});
    serde_json::to_vec(&event).expect("JSON")
}

/// The current resident set of the process, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<usize>().ok())
        .expect("a number of KiB")
        * 1024
}
