//! Example files: `tests/events/<outcome>/` holds values of the default event; every file is a test.

use super::*;

#[test]
fn every_example_has_the_outcome_of_its_directory() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/events");
    let catalog = default_plan();
    let mut seen = 0;
    for directory in std::fs::read_dir(root).expect("tests/events exists") {
        let directory = directory.expect("readable").path();
        let expected = directory
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name")
            .to_owned();
        for file in std::fs::read_dir(&directory).expect("a directory for each outcome") {
            let file = file.expect("readable").path();
            let value = std::fs::read(&file).expect("readable");
            let outcome = rewrite(catalog, &value).map_or_else(Reason::as_str, |_| "clean");
            assert_eq!(outcome, expected, "{}", file.display());
            seen += 1;
        }
    }
    assert!(seen >= 6, "the examples exist");
}
