//! Real measurements through the gate: every series of the shared data set, as readings of devices.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use pulsegate_loadtest::fleet::Hostile;
use pulsegate_loadtest::oracle::Rate;
use pulsegate_loadtest::replay::series;

use crate::main_path::fleet;
use pulsegate_testkit::skip::recordings;
use pulsegate_testkit::world::{in_a_world, limited_to};

/// A device's upload: one hour of a watch that measures once per minute.
const ROWS_PER_EVENT: usize = 60;

/// The series in the directory, in a fixed order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("readable");
    let files = entries.map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|ending| ending == "csv"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_real_series_comes_through_whole() {
    let Some(directory) = recordings() else { return };
    let files = files(&directory);
    assert!(!files.is_empty(), "the directory has no recording");
    // A month of readings arrives within seconds, so the limit is that of a bulk upload.
    let bulk = Rate {
        events_per_minute: 600_000,
        burst: 100_000,
    };
    in_a_world("series", &limited_to(bulk), move |world| {
        let fleet = fleet(
            world,
            u32::try_from(files.len()).expect("few"),
            Hostile::default(),
        );
        world.import(&fleet);
        let series = files
            .iter()
            .map(|file| series::read(File::open(file).expect("readable"), ROWS_PER_EVENT).expect("a series"));
        let replayed = world.play(&fleet, series.collect(), 0);
        assert_eq!(replayed.readings.len(), files.len());

        let mut gate = world.gate("one");
        world.settle(&mut [&mut gate]);
        let report = world.judged_good_at(&fleet, bulk);
        assert_eq!(report.clean_records, replayed.records, "{report}");
        assert!(gate.terminate().success());
    });
}
