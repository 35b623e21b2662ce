//! Checks that sections can't do by themselves: limits of the pure core, and settings that depend on each other.

use std::num::NonZeroU32;

use super::sections::Config;
use pulsegate_core::crypto::kek::Source;
use pulsegate_core::gate::seal::NONCES;
use pulsegate_settings::{Check, Problem};

impl Config {
    /// All problems of the values themselves, in the order of the settings.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::new(&self.environment);
        shared(self, &mut check);
        check.section("kafka", |check| self.kafka.check(check));
        check.section("topics", |check| self.topics.check(check));
        check.section("gate", |check| self.gate.check(check));
        check.section("watch", |check| self.watch.check(check));
        check.section("registry", |check| self.registry.check(check));
        check.section("vault", |check| self.vault.check(check));
        check.section("timescale", |check| self.timescale.check(check));
        check.section("audit", |check| self.audit.check(check));
        check.section("databases", |check| self.databases.check(check));
        check.section("topology", |check| self.topology.check(check));
        check.section("http", |check| self.http.check(check));
        check.section("log", |check| self.log.check(check));
        check.into_problems()
    }
}

/// Checks the core's settings, and those that depend on each other.
fn shared(config: &Config, check: &mut Check) {
    if config.environment.is_empty() || config.environment.contains('/') {
        check.problem(
            "environment",
            "must not be empty or contain a slash: devices sign for <environment>/<topic>",
        );
    }
    if config.kek.source == Source::File && config.kek.file.is_none() {
        check.problem("kek.file", "must name the key file, because kek.source is file");
    }
    event(config, check);
    rates(config, check);
    timeouts(config, check);
}

fn event(config: &Config, check: &mut Check) {
    let event = &config.event;
    if event.default_event.is_empty() || event.default_event.contains('/') {
        check.problem(
            "event.default_event",
            "must be a file name of event.directory without .avsc",
        );
    }
    let limits = [
        ("event.string_bytes_max", event.string_bytes_max, 1 << 20),
        ("event.items_max", event.items_max, 1 << 20),
        // An encryption context encodes a length in two bytes.
        (
            "event.identity_bytes_max",
            event.identity_bytes_max,
            (1 << 16) - 1,
        ),
        // The number of nonces that are drawn at once.
        ("event.protected_max", event.protected_max, NONCES as u64),
    ];
    for (path, limit, most) in limits {
        check.range(path, limit.into(), 1..=most);
    }
}

/// A rate limit starts over with every generation, which lasts two freshness windows: a burst that takes longer than
/// that to refill would exceed the rate in the long run.
fn rates(config: &Config, check: &mut Check) {
    let generation_seconds = 2 * u64::from(config.gate.verify.freshness_seconds.get());
    let mut refill = |path: &str, burst: NonZeroU32, count: NonZeroU32, period_seconds: u64| {
        if u64::from(burst.get()) * period_seconds > generation_seconds * u64::from(count.get()) {
            let message =
                format!("is more than the rate allows in two freshness windows ({generation_seconds} s)");
            check.problem(path, message);
        }
    };
    let admit = &config.gate.admit;
    refill(
        "gate.admit.rate.burst",
        admit.rate.burst,
        admit.rate.events_per_minute,
        60,
    );
    for (class, rate) in &admit.classes {
        refill(
            &format!("gate.admit.classes.{class}.burst"),
            rate.burst,
            rate.events_per_minute,
            60,
        );
    }
    let budget = &config.gate.verify.budget;
    refill(
        "gate.verify.budget.failures_burst",
        budget.failures_burst,
        budget.failures_per_second,
        1,
    );
}

/// librdkafka's own defaults, in milliseconds, for properties that are not set.
const LIBRDKAFKA: [(&str, u64); 2] = [("max.poll.interval.ms", 300_000), ("session.timeout.ms", 45_000)];

fn timeouts(config: &Config, check: &mut Check) {
    for (property, default) in LIBRDKAFKA {
        let path = format!("kafka.properties.{property}");
        let value = config
            .kafka
            .properties
            .0
            .get(property)
            .map_or(Ok(default), |text| text.parse());
        match value {
            Err(_) => check.problem(&path, "must be a number of milliseconds"),
            // If a worker is removed from the group while its transaction is open, the next owner of its lanes has to
            // wait for the transaction to end.
            Ok(limit)
                if property == "max.poll.interval.ms" && config.gate.transaction_timeout_ms >= limit =>
            {
                check.problem(
                    "gate.transaction_timeout_ms",
                    format!("must be less than {path}, which is {limit}"),
                );
            }
            Ok(_) => {}
        }
    }
}
