//! The addresses of the stack, from the environment or from the file that `make up` wrote.

use std::collections::HashMap;

use crate::root;

/// Addresses of the Kafka brokers.
#[must_use]
pub fn brokers() -> String {
    setting("PULSEGATE_KAFKA__BROKERS")
}

/// URL of the superuser's database.
#[must_use]
pub fn database_url() -> String {
    setting("PULSEGATE_STACK_DATABASE_URL")
}

/// URL of the schema registry.
#[must_use]
pub fn registry_url() -> String {
    setting("PULSEGATE_REGISTRY__URL")
}

fn setting(name: &str) -> String {
    std::env::var(name).ok().or_else(|| written().remove(name)).unwrap_or_else(|| {
        panic!("{name} is not set and .stack/env does not have it: this test needs the real stack, run `make up`")
    })
}

fn written() -> HashMap<String, String> {
    let text = std::fs::read_to_string(root().join(".stack/env")).unwrap_or_default();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='));
    lines
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
        .collect()
}
