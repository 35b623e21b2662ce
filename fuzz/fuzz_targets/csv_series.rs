//! The CSV reader never panics and is deterministic, and the detector scores every series within [0, 1].
#![no_main]

use libfuzzer_sys::fuzz_target;
use pulsegate_detect::anomaly::Detector;
use pulsegate_detect::file::{Row, Rows};

fuzz_target!(|data: &[u8]| {
    let rows: Vec<Row> = Rows::new(data).map_while(Result::ok).collect();
    assert_eq!(
        Rows::new(data).map_while(Result::ok).count(),
        rows.len(),
        "the same bytes are the same rows"
    );
    for row in Rows::new(data).untimed().map_while(Result::ok) {
        assert!(row.line > 0);
    }
    let mut detector = Detector::new();
    for row in rows {
        let score = detector.observe(row.time_ms, row.value).score;
        assert!((0.0..=1.0).contains(&score), "line {} scores {score}", row.line);
    }
});
