//! Layers and problems, as data.

use std::io::Write;

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use pulsegate_settings::REDACTED;

/// Planted wherever a secret may be set, also by mistake.
const PLANTED: &str = "hunter2-PLANTED";

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new()
        .suffix(".toml")
        .tempfile()
        .expect("a temporary file");
    file.write_all(text.as_bytes())
        .expect("a temporary file can be written");
    file
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Inputs that never look at the directory of the test run.
fn inputs(file: &tempfile::NamedTempFile, environment: &[(&str, &str)], set: &[&str]) -> Inputs {
    Inputs {
        file: Some(file.path().to_owned()),
        profile: None,
        set: texts(set),
        environment: pairs(environment),
    }
}

fn problems(inputs: &Inputs) -> Vec<Problem> {
    layers::load(inputs)
        .err()
        .map(|invalid| invalid.0)
        .unwrap_or_default()
}

/// Problems as text, with the name of the temporary file replaced, and without the lists of known settings, which grow.
fn listed(inputs: &Inputs) -> String {
    let name = inputs
        .file
        .as_ref()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    let without_list = |problem: Problem| {
        let message = problem
            .message
            .split(": known here are")
            .next()
            .unwrap_or_default()
            .to_owned();
        Problem { message, ..problem }.to_string()
    };
    let lines: Vec<_> = problems(inputs).into_iter().map(without_list).collect();
    lines.join("\n").replace(&name, "FILE")
}

#[test]
fn each_layer_overrides_the_one_below_and_is_named() {
    let file = file("[gate]\nworkers = 2\ngroup = 'file'\n[log]\nlevel = 'warn'\n");
    let environment = [
        ("PULSEGATE_GATE__WORKERS", "3"),
        ("PULSEGATE_GATE__INSTANCE", "a"),
        ("HOME", "/"),
    ];
    let loaded =
        layers::load(&inputs(&file, &environment, &["gate.workers=4"])).expect("a good configuration");
    let config = &loaded.config;
    assert_eq!(
        (config.gate.workers, loaded.origin("gate.workers")),
        (4, "--set gate.workers")
    );
    assert_eq!(config.gate.instance, "a");
    assert_eq!(
        loaded.origin("gate.instance"),
        "environment variable PULSEGATE_GATE__INSTANCE"
    );
    assert_eq!(config.gate.group, "file");
    assert!(loaded.origin("gate.group").starts_with("file "));
    assert_eq!(loaded.origin("kafka.brokers"), "profile local");
    assert_eq!(loaded.origin("gate.batch.records_max"), "default");
}

#[test]
fn the_profile_is_chosen_by_option_then_variable_then_environment() {
    let empty = file("");
    let chosen = |profile: Option<&str>, environment: &[(&str, &str)], set: &[&str]| {
        let mut inputs = inputs(&empty, environment, set);
        inputs.profile = profile.map(str::to_owned);
        inputs
            .set
            .extend(texts(&["kafka.brokers=k:9093", "kafka.security.protocol=ssl"]));
        layers::load(&inputs).map(|loaded| (loaded.config.environment, loaded.config.log.level))
    };
    let variable = [("PULSEGATE_PROFILE", "staging")];
    let environment = ["environment=dev"];
    let of = |name: &str, level: &str| (name.to_owned(), level.to_owned());
    assert_eq!(chosen(None, &[], &[]).ok(), Some(of("local", "info")));
    assert_eq!(chosen(None, &[], &environment).ok(), Some(of("dev", "debug")));
    assert_eq!(chosen(None, &variable, &[]).ok(), Some(of("staging", "info")));
    assert_eq!(chosen(Some("dev"), &variable, &[]).ok(), Some(of("dev", "debug")));
    assert_eq!(
        chosen(Some("prod"), &[], &["environment=prod-eu"]).ok(),
        Some(of("prod-eu", "info"))
    );
    let unknown = chosen(None, &[], &["environment=prod-eu"]).expect_err("no profile has this name");
    assert!(unknown.to_string().contains("--profile"), "{unknown}");
}

#[test]
fn text_is_read_as_the_type_that_the_setting_has() {
    let empty = file("");
    let environment = [
        ("PULSEGATE_KAFKA__SECURITY__SASL_PASSWORD", "12345"),
        ("PULSEGATE_KAFKA__SECURITY__CA_FILE", "1"),
        ("PULSEGATE_KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "45000"),
        ("PULSEGATE_GATE__GROUP", "true"),
        ("PULSEGATE_LOG__FORMAT", "json"),
        ("PULSEGATE_GATE__ADMIT__CLASSES__WEARABLE__BURST", "7"),
    ];
    let set = [
        "kafka.properties.client.rack=1a",
        "gate.batch.bytes_max=1_000_000",
        "gate.instance=a=b",
    ];
    let config = layers::load(&inputs(&empty, &environment, &set))
        .expect("a good configuration")
        .config;
    assert_eq!(config.kafka.security.sasl_password.expose(), "12345");
    assert_eq!(config.kafka.security.ca_file, Some("1".into()));
    assert_eq!(config.kafka.properties.0["session.timeout.ms"], "45000");
    assert_eq!(config.kafka.properties.0["client.rack"], "1a");
    assert_eq!(config.gate.group, "true");
    assert_eq!(config.gate.admit.classes["wearable"].burst.get(), 7);
    assert_eq!(config.gate.batch.bytes_max, 1_000_000);
    assert_eq!(config.gate.instance, "a=b");
    assert_eq!(config.log.format, crate::telemetry::log::Format::Json);
}

#[test]
fn variables_of_the_stack_and_of_others_are_not_settings() {
    let empty = file("");
    let environment = [
        ("PULSEGATE_STACK_DATABASE_URL", "x"),
        ("PULSEGATE_TEST_SKIP", "x"),
        ("PULSEGATEWAY", "x"),
        ("PATH", "/bin"),
    ];
    assert_eq!(problems(&inputs(&empty, &environment, &[])), []);
}

#[test]
fn every_problem_is_told_at_once_with_its_origin() {
    let file = file(concat!(
        "nonsense = 1\n",
        "[gate]\nworkers = 'two'\nworker = 3\n",
        "[gate.batch]\nrecords_max = 0\ntime_max_ms = -1\nbytes_max = [1]\n",
        "[kafka.properties]\n\"group.id\" = 'x'\n\"linger.ms\" = 5\n",
        "[http]\nlisten = 'nowhere'\n",
        "[log]\nformat = 'xml'\n",
    ));
    let environment = [
        ("PULSEGATE_TOPICS__CLEAN", "biometrics.raw"),
        ("PULSEGATE_GATE__NO__SUCH", "1"),
    ];
    let set = [
        "kafka.security.protocol=sasl_plaintext",
        "gate.transaction_timeout_ms=1e3",
        "no equals sign",
    ];
    insta::assert_snapshot!(listed(&inputs(&file, &environment, &set)));
}

#[test]
fn properties_that_exactly_once_depends_on_are_not_passed_through() {
    for name in [
        "enable.auto.commit",
        "isolation.level",
        "auto.offset.reset",
        "enable.partition.eof",
        "partition.assignment.strategy",
        "group.protocol",
        "delivery.report.only.error",
    ] {
        let set = format!("kafka.properties.{name}=x");
        let told = listed(&inputs(&file(""), &[], &[&set]));
        assert!(
            told.contains(&format!("kafka.properties.{name}: can't be passed through")),
            "{told}"
        );
    }
}

#[test]
fn outside_local_nothing_goes_unencrypted() {
    let empty = file("");
    let set = [
        "environment=prod",
        "kafka.security.protocol=plaintext",
        "kafka.brokers=k:9092",
    ];
    let set = [
        &set[..],
        &["kafka.properties.enable.ssl.certificate.verification=false"],
    ]
    .concat();
    let told = listed(&inputs(&empty, &[], &set));
    assert!(
        told.contains("kafka.security.protocol: must be ssl or sasl_ssl"),
        "{told}"
    );
    assert!(told.contains("brokers must be verified"), "{told}");
}

#[test]
fn settings_must_fit_together() {
    let empty = file("");
    for (set, told) in [
        (
            "gate.admit.rate.burst=100000",
            "gate.admit.rate.burst: is more than the rate allows",
        ),
        (
            "gate.admit.classes.ecg.events_per_minute=1",
            "gate.admit.classes.ecg.burst: is more than",
        ),
        (
            "gate.admit.rate.burst=0",
            "gate.admit.rate.burst: is out of range: must be an integer of at least 1",
        ),
        (
            "gate.verify.budget.failures_per_second=1",
            "gate.verify.budget.failures_burst: is more than",
        ),
        (
            "kafka.properties.max.poll.interval.ms=30000",
            "gate.transaction_timeout_ms: must be less than",
        ),
        (
            "kafka.properties.session.timeout.ms=soon",
            "session.timeout.ms: must be a number of milliseconds",
        ),
        (
            "gate.batch.time_max_ms=60000",
            "gate.batch.time_max_ms: must be less than transaction_timeout_ms",
        ),
        // Beyond these limits one record could stop its lane forever: sealed, it would exceed what a producer accepts,
        // an encryption context, or the nonces that are drawn at once.
        (
            "gate.verify.value_bytes_max=16777217",
            "gate.verify.value_bytes_max: must be between 1 and 16777216",
        ),
        (
            "event.identity_bytes_max=65536",
            "event.identity_bytes_max: must be between 1 and 65535",
        ),
        (
            "event.protected_max=4097",
            "event.protected_max: must be between 1 and 4096",
        ),
        ("registry.url=host", "registry.url: is not a URL"),
        ("kek.source=file", "kek.file: must name the key file"),
        ("topics.clean=a/b", "topics.clean: must be 1 to 249 letters"),
        ("event.items_max=0", "event.items_max: must be between 1 and"),
        ("vault.url=nonsense", "vault.url: is not a PostgreSQL URL"),
    ] {
        let found = listed(&inputs(&empty, &[], &[set]));
        assert!(found.contains(told), "{set}: {found}");
    }
}

#[test]
fn a_broken_file_is_named_with_its_line_and_not_quoted() {
    for text in [
        format!("[gate]\nworkers = 1\npassword = {PLANTED}\n"),
        format!("[gate]\nworkers = 1\n{PLANTED}\n"),
        format!("[gate]\nworkers = 1\n\"{PLANTED}\" = 'open\n"),
    ] {
        let told = listed(&inputs(&file(&text), &[], &[]));
        assert!(told.contains("FILE is not valid TOML at line 3"), "{told}");
        assert!(!told.contains(PLANTED), "{told}");
    }
    let missing = Inputs {
        file: Some("/nowhere/pulsegate.toml".into()),
        ..Inputs::default()
    };
    assert!(listed(&missing).contains("failed to read"));
    let huge = file(&"#".repeat(2 << 20));
    assert!(listed(&inputs(&huge, &[], &[])).contains("not a configuration file"));
}

/// Every way in which a configuration can be shown.
fn looks(loaded: &Loaded) -> String {
    let shown = serde_json::to_string(&loaded.config).expect("a configuration has JSON");
    format!("{loaded:?} {shown}")
}

#[test]
fn planted_secrets_in_their_places_are_never_shown() {
    // Valid for every secret, be it a password or a URL with one.
    let url = format!("postgres://user:{PLANTED}@host/database");
    let mut set = Vec::new();
    walk(&Config::schema(), "", &mut |path, schema| {
        if schema["writeOnly"] == true {
            set.push(format!("{path}={url}"));
        }
    });
    assert!(set.len() >= 4, "{set:?}");
    for property in [
        "ssl.key.pem",
        "ssl.keystore.password",
        "sasl.oauthbearer.config",
        "ssl.certificate.pem",
    ] {
        set.push(format!("kafka.properties.{property}={PLANTED}"));
    }
    let empty = file("");
    let inputs = Inputs {
        set,
        ..inputs(&empty, &[], &[])
    };
    let loaded = layers::load(&inputs).expect("a good configuration");
    assert_eq!(loaded.config.kafka.security.sasl_password.expose(), url);
    let shown = looks(&loaded);
    assert!(!shown.contains(PLANTED), "{shown}");
    assert!(shown.matches(REDACTED).count() >= 2 * inputs.set.len(), "{shown}");
}

#[test]
fn secrets_in_wrong_places_are_not_repeated_by_the_error() {
    for path in leaves() {
        for text in [
            PLANTED.to_owned(),
            format!("{PLANTED}\n[x]"),
            format!("\"{PLANTED}\", 1]"),
        ] {
            let setting = format!("{path}={text}");
            let told = listed(&inputs(&file(""), &[], &[&setting]));
            assert!(!told.contains(PLANTED), "{path}: {told}");
        }
    }
    let told = listed(&inputs(&file(""), &[], &[PLANTED]));
    assert!(!told.contains(PLANTED), "{told}");
}

/// The dotted paths of all settings that are not tables.
fn leaves() -> Vec<String> {
    let mut leaves = Vec::new();
    walk(&Config::schema(), "", &mut |path, schema| {
        if schema.get("properties").is_none() {
            leaves.push(path.to_owned());
        }
    });
    assert!(leaves.len() > 20, "{leaves:?}");
    leaves
}

fn walk(schema: &Json, path: &str, visit: &mut impl FnMut(&str, &Json)) {
    let Some(properties) = schema.get("properties").and_then(Json::as_object) else {
        return;
    };
    for (name, inner) in properties {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        visit(&path, inner);
        walk(inner, &path, visit);
    }
}

#[test]
fn every_setting_is_documented_and_every_table_is_closed() {
    walk(&Config::schema(), "", &mut |path, schema| {
        assert!(
            schema["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{path} has no description"
        );
        if schema.get("properties").is_some() {
            assert_eq!(
                schema["additionalProperties"], false,
                "{path} accepts unknown keys"
            );
        }
    });
}

#[test]
fn the_schema_has_no_references_for_an_editor_to_follow() {
    assert!(!Config::schema().to_string().contains("\"$ref\""));
}

proptest! {
    #[test]
    fn no_input_makes_loading_panic(
        text in "\\PC{0,64}", path in "[a-z_.]{0,24}", value in "\\PC{0,24}", name in "[A-Z_]{0,24}",
    ) {
        let file = file(&text);
        let variable = format!("PULSEGATE_{name}");
        let setting = format!("{path}={value}");
        let _ = layers::load(&inputs(&file, &[(&variable, &value)], &[&setting]));
    }
}
